"""Each call that volumes need of KMS: how it is made, and what a good answer is."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

from ebscrypt.config import Settings
from ebscrypt.kms.client import KmsClient
from ebscrypt.model import encryption_context
from tests.unit.kms.scripted import KEY_ARN

VOLUME_ID = "vol-0123456789abcdef0"
CONTEXT = encryption_context(VOLUME_ID)
OTHER_CONTEXT = encryption_context("snap-0fedcba9876543210")
BLOB = b"wrapped" * 20
PLAINTEXT = bytes(range(64))
GRANT_ID = "0a" * 32
TOKEN = "AQpATokenThatNobodyMaySee" * 4
NAME = "vol-0123456789abcdef0-1"

CALLS: dict[str, Callable[[KmsClient], Any]] = {
    "DescribeKey": lambda kms: kms.describe_key(KEY_ARN),
    "GenerateDataKeyWithoutPlaintext": lambda kms: kms.generate_data_key_without_plaintext(KEY_ARN, CONTEXT),
    "CreateGrant": lambda kms: kms.create_grant(KEY_ARN, CONTEXT, name=NAME),
    "RetireGrant": lambda kms: kms.retire_grant(KEY_ARN, GRANT_ID),
    "Decrypt": lambda kms: kms.decrypt(BLOB, CONTEXT, expected_key_arn=KEY_ARN, grant_token=TOKEN),
    "ReEncrypt": lambda kms: kms.re_encrypt(BLOB, CONTEXT, KEY_ARN, OTHER_CONTEXT, source_key_id=KEY_ARN),
    "Encrypt": lambda kms: kms.encrypt(KEY_ARN, PLAINTEXT, CONTEXT),
}
_WRAPPED = {"KeyId": KEY_ARN, "CiphertextBlob": base64.b64encode(BLOB).decode()}
GOOD: dict[str, dict[str, Any]] = {
    "DescribeKey": {
        "KeyMetadata": {
            "KeyId": KEY_ARN.rpartition("/")[2],
            "Arn": KEY_ARN,
            "KeyState": "Enabled",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeySpec": "SYMMETRIC_DEFAULT",
        }
    },
    "GenerateDataKeyWithoutPlaintext": _WRAPPED,
    "CreateGrant": {"GrantId": GRANT_ID, "GrantToken": TOKEN},
    "RetireGrant": {},
    "Decrypt": {"KeyId": KEY_ARN, "Plaintext": base64.b64encode(PLAINTEXT).decode()},
    "ReEncrypt": _WRAPPED | {"SourceKeyId": KEY_ARN},
    "Encrypt": _WRAPPED,
}


def recorded(settings: Settings) -> list[dict[str, Any]]:
    """All audit records, oldest first."""
    path = settings.audit_dir / "kms.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def spelled(secret: bytes) -> list[str]:
    """A secret in each spelling that a log, a repr or a record might give it; long enough to be no accident."""
    text = base64.b64encode(secret).decode()
    return [text[:-4], secret.hex(), repr(secret)[2:-1], str(list(secret))[1:-1]]


def secrets_in(written: str, *, context_too: bool = True) -> list[str]:
    """Which of the secrets above a text holds, in whatever spelling: there must be none."""
    found = [name for name, secret in {"plaintext": PLAINTEXT, "blob": BLOB}.items() if _holds(written, secret)]
    found += ["grant token"] if TOKEN in written or TOKEN[:40] in written else []
    if context_too:
        values = [value for context in (CONTEXT, OTHER_CONTEXT) for value in context.values()]
        found += ["context"] if any(value in written for value in values) else []
    return found


def _holds(written: str, secret: bytes) -> bool:
    return any(form in written for half in (secret, secret[:32], secret[32:64]) for form in spelled(half))
