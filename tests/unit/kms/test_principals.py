"""Who a grant is for and who may end it, for each kind of KMS, and whom STS is asked about."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebscrypt import errors
from ebscrypt.config import Settings
from ebscrypt.kms import principals
from tests.unit.kms.scripted import Behaviour, Scenario, answers, refuses

ROLE = "arn:aws:iam::111122223333:role/storage"


def with_kms(settings: Settings, **changes: Any) -> Settings:
    return msgspec.structs.replace(settings, kms=msgspec.structs.replace(settings.kms, **changes))


@pytest.fixture(autouse=True)
def no_memory() -> None:
    """Each test finds out the instance id anew."""
    principals.instance_id.cache_clear()


@pytest.mark.parametrize(
    ("grants", "endpoint", "grantee", "wanted"),
    [
        ("auto", "embedded", "", True),
        ("auto", "aws", "", False),
        ("auto", "aws", ROLE, True),
        ("auto", "https://kms.example", "", False),
        ("auto", "https://kms.example", ROLE, True),
        ("always", "aws", "", True),
        ("never", "embedded", "", False),
        ("never", "aws", ROLE, False),
    ],
)
def test_who_gets_grants(grants: str, endpoint: str, grantee: str, settings: Settings, *, wanted: bool) -> None:
    """auto: the embedded KMS, and wherever a grantee is named; always and never mean what they say."""
    assert principals.wants_grants(with_kms(settings, grants=grants, endpoint=endpoint, grantee=grantee)) is wanted


def test_the_principals_of_ebs(settings: Settings) -> None:
    """The embedded KMS has EBS's own: the instance's infrastructure role, and EC2 of the Region."""
    role = f"arn:aws:sts::111122223333:assumed-role/aws:ec2-infrastructure/{principals.instance_id()}"

    assert principals.parties(settings) == (role, "ec2.eu-central-1.amazonaws.com")
    assert principals.grantee(settings) == role
    assert principals.retiring_principal(settings) == "ec2.eu-central-1.amazonaws.com"


def test_named_principals_win(settings: Settings) -> None:
    """What the settings name is used, and nobody is asked: here there is nobody to ask."""
    named = with_kms(settings, endpoint="http://127.0.0.1:9", grantee=ROLE, retiring_principal=f"{ROLE}-2")

    assert principals.parties(named) == (ROLE, f"{ROLE}-2")
    assert principals.parties(with_kms(named, endpoint="embedded")) == (ROLE, f"{ROLE}-2")


def test_the_instance_id_is_stable_and_keeps_the_machine_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has EC2's form, follows the machine id, and does not contain it."""
    machine = tmp_path / "machine-id"
    machine.write_text("3d1219c7c4c5404aaa1f6d2a48adfda4\n")
    monkeypatch.setattr(principals, "_MACHINE_ID", machine)

    first = principals.instance_id()
    principals.instance_id.cache_clear()
    again = principals.instance_id()
    machine.write_text("3d1219c7c4c5404aaa1f6d2a48adfda5\n")
    principals.instance_id.cache_clear()

    # HMAC-SHA256 with the machine id as the key, worked out with openssl.
    assert first == again == "i-9cd985da57db1a7e8"
    assert principals.instance_id() != first
    assert re.fullmatch("i-[0-9a-f]{17}", first)


@pytest.mark.parametrize("content", [None, "", "uninitialized\n"])
def test_machines_without_an_id(content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container without a machine id goes by its host name."""
    machine = tmp_path / "machine-id"
    if content is not None:
        machine.write_text(content)
    monkeypatch.setattr(principals, "_MACHINE_ID", machine)

    assert re.fullmatch("i-[0-9a-f]{17}", principals.instance_id())


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ("arn:aws:sts::111122223333:assumed-role/storage/i-0123456789abcdef0", ROLE),
        ("arn:aws-cn:sts::111122223333:assumed-role/a/b/c", "arn:aws-cn:iam::111122223333:role/a"),
        ("arn:aws:iam::111122223333:user/somebody", "arn:aws:iam::111122223333:user/somebody"),
        ("arn:aws:iam::111122223333:root", "arn:aws:iam::111122223333:root"),
        ("arn:aws:sts::111122223333:federated-user/f", "arn:aws:sts::111122223333:federated-user/f"),
    ],
)
def test_sessions_are_named_by_their_role(told: str, named: str) -> None:
    """A grant for a session would end with it, so the role is named; every other caller by its own ARN."""
    assert principals.as_principal(told) == named


def identity(arn: str) -> Behaviour:
    """STS's answer, which is XML."""
    answer = f"""<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult>
        <Arn>{arn}</Arn><UserId>U</UserId><Account>111122223333</Account></GetCallerIdentityResult>
        <ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></GetCallerIdentityResponse>"""
    return answers(200, answer.encode())


def test_the_caller_is_both_where_nobody_is_named(scenario: Scenario) -> None:
    """STS is asked once, at the same endpoint; what is named stays."""
    scenario.endpoint.script = [identity("arn:aws:sts::111122223333:assumed-role/storage/me")]
    settings = with_kms(scenario.at(scenario.endpoint.url), grantee="", retiring_principal="")

    assert principals.parties(settings) == (ROLE, ROLE)
    assert [body["Action"] for body in scenario.endpoint.bodies] == ["GetCallerIdentity"]
    assert principals.parties(with_kms(settings, grantee=f"{ROLE}-2")) == (f"{ROLE}-2", ROLE)


@pytest.mark.parametrize(
    ("behaviour", "kind", "text"),
    [
        (answers(200, b"not XML"), errors.KmsBadAnswer, "GetCallerIdentity"),
        (identity("nobody"), errors.KmsBadAnswer, "not that of a principal"),
        (refuses("AccessDenied", "no"), errors.KmsError, "GetCallerIdentity"),
        (answers(503, b""), errors.KmsUnreachable, "STS"),
    ],
    ids=["no XML", "no ARN", "refused", "down"],
)
def test_sts_that_does_not_tell(
    behaviour: Behaviour, kind: type[errors.KmsError], text: str, scenario: Scenario
) -> None:
    """The error is typed, and its hint names the settings that make STS unnecessary."""
    scenario.endpoint.script = [behaviour]
    settings = with_kms(scenario.at(scenario.endpoint.url, attempts=1), grantee="", retiring_principal="")

    with pytest.raises(kind, match=text) as caught:
        principals.parties(settings)

    assert "kms.grantee" in str(caught.value.hint)
