"""Names of keys and encryption contexts that cannot be: refused by the field's name, before anything is sent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ebscrypt import errors
from ebscrypt.config import Settings
from ebscrypt.kms.client import KmsClient
from tests.unit.kms.calls import BLOB, CONTEXT, GRANT_ID
from tests.unit.kms.scripted import KEY_ARN, Scenario, answers, refuses

LONG = "x" * 10_000
ELSEWHERE = KEY_ARN.replace("eu-central-1", "us-west-2")
THEIRS = KEY_ARN.replace("111122223333", "999999999999")
BAD_NAMES = {
    "10,000 characters": LONG,
    "10,000 characters of an ARN": f"arn:aws:kms:eu-central-1:111122223333:key/{LONG}",
    "10,000 characters of an alias": f"alias/{LONG}",
    "empty": "",
    "no resource": "arn:aws:kms:eu-central-1:111122223333:",
    "another service": "arn:aws:s3:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
    "short account": KEY_ARN.replace("111122223333", "1111"),
    "upper case": KEY_ARN.upper(),
    "a line break": f"{KEY_ARN}\n",
    "a NUL": "alias/x\0",
    "an escape": "\x1b[31malias/x",
    "a surrogate": "alias/\ud800",
    "another Region": ELSEWHERE,
    "an alias of another Region": "arn:aws:kms:us-west-2:111122223333:alias/x",
}
NAMED_BY: dict[str, Callable[[KmsClient, str], object]] = {
    "KmsKeyId": lambda kms, name: kms.resolve_key(name),
    "KeyId": lambda kms, name: kms.describe_key(name),
    "KeyId of a data key": lambda kms, name: kms.generate_data_key_without_plaintext(name, CONTEXT),
    "KeyId of Encrypt": lambda kms, name: kms.encrypt(name, b"x", CONTEXT),
    "KeyId of Decrypt": lambda kms, name: kms.decrypt(BLOB, CONTEXT, key_id=name),
    "DestinationKeyId": lambda kms, name: kms.re_encrypt(BLOB, CONTEXT, name, CONTEXT),
    "SourceKeyId": lambda kms, name: kms.re_encrypt(BLOB, CONTEXT, KEY_ARN, CONTEXT, source_key_id=name),
    "KeyId of a grant": lambda kms, name: kms.create_grant(name, CONTEXT, name="n"),
    "KeyId of a grant's end": lambda kms, name: kms.retire_grant(name, GRANT_ID),
}


@pytest.mark.parametrize("field", list(NAMED_BY))
@pytest.mark.parametrize("name", list(BAD_NAMES))
def test_bad_names_are_refused_unsent(name: str, field: str, scenario: Scenario) -> None:
    """By the field's name, in few and printable words, before any request."""
    kms = scenario.client(answers(200, {}))

    with pytest.raises(errors.InvalidParameter, match=field.split(maxsplit=1)[0]) as caught:
        NAMED_BY[field](kms, BAD_NAMES[name])

    assert len(caught.value.message) < 400
    assert caught.value.message.isprintable()
    assert caught.value.hint
    assert scenario.endpoint.targets == []


@pytest.mark.parametrize("field", list(NAMED_BY))
def test_keys_of_another_account(field: str, settings: Settings) -> None:
    """The embedded KMS has one account's keys: another's is refused by the field's name, and leaves no record."""
    kms = KmsClient(settings)

    with pytest.raises(errors.InvalidParameter, match=f"^{field.split(maxsplit=1)[0]} .*999999999999"):
        NAMED_BY[field](kms, THEIRS)

    assert not settings.audit_dir.exists()


def test_aws_may_have_keys_of_other_accounts(scenario: Scenario) -> None:
    """Elsewhere a key may be shared between accounts, and KMS decides."""
    described = {"Arn": THEIRS, "KeyState": "Enabled", "KeyUsage": "ENCRYPT_DECRYPT", "KeySpec": "SYMMETRIC_DEFAULT"}

    assert scenario.client(answers(200, {"KeyMetadata": described})).resolve_key(THEIRS).arn == THEIRS


BAD_CONTEXTS: dict[str, Any] = {
    "a number": {"aws:ebs:id": 7},
    "bytes": {"aws:ebs:id": b"vol"},
    "nothing": {"aws:ebs:id": None},
    "a list": {"aws:ebs:id": ["vol"]},
    "a surrogate": {"aws:ebs:id": "\ud800"},
    "a surrogate as the name": {"\ud800": "x"},
    "a name that is none": {1: "x"},
}


@pytest.mark.parametrize("bad", list(BAD_CONTEXTS))
@pytest.mark.parametrize("use", ["data key", "grant", "decrypt", "source", "destination"])
def test_bad_contexts_are_refused_unsent(use: str, bad: str, scenario: Scenario) -> None:
    """By the field's name, without quoting a value, before any request."""
    kms, context = scenario.client(answers(200, {})), BAD_CONTEXTS[bad]
    uses: dict[str, Callable[[], object]] = {
        "data key": lambda: kms.generate_data_key_without_plaintext(KEY_ARN, context),
        "grant": lambda: kms.create_grant(KEY_ARN, context, name="n"),
        "decrypt": lambda: kms.decrypt(BLOB, context),
        "source": lambda: kms.re_encrypt(BLOB, context, KEY_ARN, CONTEXT),
        "destination": lambda: kms.re_encrypt(BLOB, CONTEXT, KEY_ARN, context),
    }

    with pytest.raises(errors.InvalidParameter, match="EncryptionContext") as caught:
        uses[use]()

    assert "vol" not in caught.value.message
    assert scenario.endpoint.targets == []


def test_another_region_is_a_matter_of_settings(scenario: Scenario) -> None:
    """The same ARN is right where the settings are of its Region."""
    settings = scenario.at(scenario.endpoint.url)
    there = msgspec.structs.replace(settings, kms=msgspec.structs.replace(settings.kms, region="us-west-2"))
    scenario.endpoint.script = [refuses("DisabledException", f"{ELSEWHERE} is disabled.")]

    with pytest.raises(errors.KmsKeyDisabled):
        KmsClient(there).generate_data_key_without_plaintext(ELSEWHERE, CONTEXT)
