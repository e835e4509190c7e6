"""A KMS key that cannot be used, in every way and at every moment: one error, one record, one event, nothing half made.

Rows: disabled, pending deletion, pending import, unavailable, deleted, access denied, wrong account, wrong Region, KMS
unreachable, KMS throttling. Columns: create, attach, reattach; the latter two with a grant and without, since with one
CreateGrant is what meets the trouble, and without one Decrypt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple

import msgspec
import pytest

from ebscrypt import errors
from ebscrypt.config import Settings
from ebscrypt.control.attach import attach_volume
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.describe import describe_volume
from ebscrypt.control.site import Site
from ebscrypt.errors import EbscryptError
from ebscrypt.kms.client import KmsClient
from ebscrypt.model import MIB, Volume, VolumeState
from tests.unit.control.unwrapping import FakeDaemons, grants_of, put_in_state
from tests.unit.kms.scripted import Behaviour, listening, refuses, resets

NOBODY = "arn:aws:iam::111122223333:user/nobody"
SERVICE = "arn:aws:iam::111122223333:role/ebscrypt"


def with_kms(settings: Settings, **fields: Any) -> Settings:
    return msgspec.structs.replace(settings, kms=msgspec.structs.replace(settings.kms, **fields))


def calling(operation: str, **options: Any) -> Callable[[Site, str], AbstractContextManager[Site]]:
    """A key brought into its state by KMS's own operation."""

    @contextmanager
    def bring(site: Site, key: str) -> Iterator[Site]:
        site.kms.call(operation, KeyId=key, **options)
        yield site

    return bring


def in_state(state: str) -> Callable[[Site, str], AbstractContextManager[Site]]:
    @contextmanager
    def bring(site: Site, key: str) -> Iterator[Site]:
        put_in_state(site.settings, key, state)
        yield site

    return bring


@contextmanager
def denied(site: Site, _: str) -> Iterator[Site]:
    """A caller to whom neither key policy nor grant gives anything."""
    with Site(site.settings) as other:
        other.kms = KmsClient(site.settings, principal=NOBODY)
        yield other


def elsewhere(**fields: str) -> Callable[[Site, str], AbstractContextManager[Site]]:
    """Settings of another account or Region than the key's."""

    @contextmanager
    def bring(site: Site, _: str) -> Iterator[Site]:
        with Site(with_kms(site.settings, **fields)) as other:
            yield other

    return bring


def answering(behaviour: Behaviour) -> Callable[[Site, str], AbstractContextManager[Site]]:
    """A KMS that does this to every request."""

    @contextmanager
    def bring(site: Site, _: str) -> Iterator[Site]:
        with listening() as endpoint:
            endpoint.script = [behaviour]
            limits = {"timeout": 2.0, "deadline": 4.0, "attempts": 2}
            with Site(with_kms(site.settings, endpoint=endpoint.url, **limits)) as other:
                yield other

    return bring


class Trouble(NamedTuple):
    """How it is made, and what it must lead to. ``cause``: the event's, with KEY for the key's ARN; a pattern."""

    bring: Callable[[Site, str], AbstractContextManager[Site]]
    error: type[EbscryptError]
    cause: str
    cure: str
    certain: bool = True
    """Whether KMS answered, so that nothing is left to be cleared up later."""


TROUBLES = {
    "disabled": Trouble(calling("DisableKey"), errors.KmsKeyDisabled, r"KEY is disabled\.", "enable-key --key-id KEY"),
    "pending-deletion": Trouble(
        calling("ScheduleKeyDeletion", PendingWindowInDays=7),
        errors.KmsKeyInvalidState,
        r"KEY is pending deletion\.",
        "cancel-key-deletion --key-id KEY",
    ),
    "pending-import": Trouble(
        in_state("PendingImport"), errors.KmsKeyInvalidState, r"KEY is pending import\.", "import"
    ),
    "unavailable": Trouble(in_state("Unavailable"), errors.KmsKeyInvalidState, r"KEY is unavailable\.", "connect"),
    "deleted": Trouble(in_state("Deleted"), errors.KmsKeyNotFound, r".*KEY.* does not exist.*\.", "list-keys"),
    "access-denied": Trouble(
        denied, errors.KmsAccessDenied, r"User: \S+user/nobody is not authorized to perform: kms:\w+ on .*\.", ""
    ),
    "wrong-account": Trouble(
        elsewhere(account="444455556666"), EbscryptError, r".*KEY.*has keys of 444455556666 only\.", ""
    ),
    "wrong-region": Trouble(elsewhere(region="us-east-1"), EbscryptError, r".*KEY.*eu-central-1.*\.", "REGION"),
    "unreachable": Trouble(
        answering(resets), errors.KmsUnreachable, r"KMS cannot be reached.*\.", "kms.deadline", certain=False
    ),
    "throttled": Trouble(
        answering(refuses("ThrottlingException", "Rate exceeded")),
        errors.KmsThrottled,
        r"Rate exceeded\.",
        "try again",
        certain=False,
    ),
}


@pytest.fixture
def key(site: Site) -> str:
    return str(site.kms.call("CreateKey")["KeyMetadata"]["Arn"])


def new_events(site: Site, after: int) -> list[dict[str, Any]]:
    return [event for _, event in site.catalog.events(after)]


def check_error(error: EbscryptError, trouble: Trouble, key: str) -> None:
    """The type, the key by name, the state or cause in KMS's words, and what to do."""
    assert isinstance(error, trouble.error)
    assert key in error.message
    if isinstance(error, errors.KmsError):
        assert error.key_arn == key
        assert error.record()["KmsKeyId"] == key
    assert error.hint is not None
    assert trouble.cure.replace("KEY", key) in error.hint


def check_event(event: dict[str, Any], kind: str, trouble: Trouble, volume: Volume, settings: Settings) -> None:
    """Exactly the event of facts §3.2."""
    detail = event["detail"]
    assert list(detail) == ["event", "result", "cause", "request-id"]
    assert (detail["event"], detail["result"]) == (kind, "failed")
    pattern = trouble.cause.replace("KEY", re.escape(str(volume.kms_key_arn)))
    assert re.fullmatch(pattern, detail["cause"]), detail["cause"]
    arn = f"arn:aws:ec2:{settings.kms.region}:{settings.kms.account}:volume/{volume.volume_id}"
    if kind == "createVolume":
        assert event["resources"] == [arn]
        assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", detail["request-id"])
    else:
        assert event["resources"] == [arn, volume.kms_key_arn]
        assert detail["request-id"] == ""


@pytest.mark.parametrize("name", TROUBLES)
def test_create(site: Site, key: str, name: str) -> None:
    """Refused while the caller waits; the record is in `error` with the reason, no file is left."""
    trouble = TROUBLES[name]
    with trouble.bring(site, key) as troubled:
        with pytest.raises(EbscryptError) as caught:
            create_volume(troubled, VolumeRequest(size=MIB, kms_key_id=key))

        check_error(caught.value, trouble, key)
        [failed] = troubled.catalog.volumes()
        [event] = new_events(troubled, 0)
        settings = troubled.settings

    assert (failed.state, failed.state_message) == (VolumeState.ERROR, caught.value.message)
    check_event(event, "createVolume", trouble, msgspec.structs.replace(failed, kms_key_arn=key), settings)
    assert not site.settings.volumes_dir.exists()


@pytest.mark.parametrize("grants", ["always", "never"])
@pytest.mark.parametrize("kind", ["attachVolume", "reattachVolume"])
@pytest.mark.parametrize("name", TROUBLES)
def test_attach(settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str, kind: str, grants: str) -> None:
    """Refused while the caller waits; the volume is available, says why, and nothing of the try is left."""
    trouble = TROUBLES[name]
    with Site(with_kms(settings, grants=grants, grantee=SERVICE, retiring_principal=SERVICE)) as site:
        key = str(site.kms.call("CreateKey")["KeyMetadata"]["Arn"])
        volume = create_volume(site, VolumeRequest(size=MIB, kms_key_id=key))
        if kind == "reattachVolume":
            site.catalog.correct(volume.volume_id, was_attached=True)
        before = site.catalog.newest_sequence()
        with trouble.bring(site, key) as troubled:
            FakeDaemons(troubled, monkeypatch)
            with pytest.raises(EbscryptError) as caught:
                attach_volume(troubled, volume.volume_id)

            check_error(caught.value, trouble, key)
            now, attached = describe_volume(troubled, volume.volume_id)
            [event] = new_events(troubled, before)
            check_event(event, kind, trouble, volume, troubled.settings)
        assert (now.state, attached, now.attach_failure) == (VolumeState.AVAILABLE, None, caught.value.message)
        assert now.was_attached == (kind == "reattachVolume")
        assert list(site.settings.runtime_dir(volume.volume_id).parent.iterdir()) == []
        if trouble.certain:
            assert site.catalog.keys.grants() == []
        if name != "deleted":
            assert grants_of(settings, key) == []
