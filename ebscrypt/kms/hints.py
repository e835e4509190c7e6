"""The next thing to do after each refusal of KMS: the hints that go with the errors of failures.py."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ebscrypt import errors

if TYPE_CHECKING:
    from ebscrypt.kms.failures import Call

CREDENTIALS: Final = (
    "give AWS credentials by environment, profile (EBSCRYPT_KMS_PROFILE) or instance role: see `aws configure`; "
    "EBSCRYPT_KMS=embedded needs none"
)
AWS_SETTINGS: Final = "look at AWS_PROFILE, AWS_REGION, ~/.aws/config and the kms section of ebscrypt's settings"
BAD_ANSWER: Final = "check that kms.endpoint (EBSCRYPT_KMS) is a KMS, and what stands between it and this machine"

_PERMISSIONS: Final = {
    "ReEncrypt": "kms:ReEncryptFrom on the source key and kms:ReEncryptTo on the destination key",
}
"""There is no permission called kms:ReEncrypt (facts §1.4)."""


def dashed(operation: str) -> str:
    """``GenerateDataKey`` as a command line writes it: ``generate-data-key``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", operation).lower()


def unreachable(endpoint: str) -> str:
    """What to check when no answer came."""
    if endpoint == "embedded":
        return "another process may hold the embedded KMS's store for long: try again"
    where = "the Region (EBSCRYPT_REGION), network and proxy" if endpoint == "aws" else f"that {endpoint} is up"
    return f"check {where}; kms.timeout and kms.deadline say how long ebscrypt waits"


def for_code(code: str, kind: type[errors.KmsError], text: str, call: Call) -> str:
    """The hint for a refusal: by error code, and for key states by KMS's own words (facts §5.4)."""
    command = "ebscrypt kms" if call.endpoint == "embedded" else "aws kms"
    key = call.key or "KEY"
    if issubclass(kind, errors.KmsKeyUnusable):
        return _for_state(text, command, key)
    if kind is errors.KmsAccessDenied:
        return _for_denial(code, text, call)
    if kind is errors.KmsUnreachable:
        return unreachable(call.endpoint)
    if code == "UnsupportedOperationException" and call.endpoint == "embedded":
        return "the embedded KMS keeps to what volumes need; EBSCRYPT_KMS=aws has all of KMS"
    if code == "LimitExceededException":
        return "it is a quota of the account: delete what is not needed, or ask AWS for more"
    known = {
        errors.KmsKeyNotFound: (
            f"look in Region {call.region}: `{command} list-keys`, `{command} list-aliases`; a deleted key is gone"
        ),
        errors.KmsInvalidCiphertext: (
            "the header may belong to another volume, or the key to another KMS: see `ebscrypt check`"
        ),
        errors.KmsIncorrectKey: "name the key that wrapped it, or none",
        errors.KmsInvalidKeyUsage: f"use a symmetric encryption key: `{command} create-key`",
        errors.KmsThrottled: "wait, then try again; the quotas of KMS are per account and Region",
    }
    return known.get(kind, f"`aws kms {dashed(call.operation)} help` describes the parameters")


def _for_state(text: str, command: str, key: str) -> str:
    if "is not pending deletion" in text:
        return "nothing to cancel"
    if "is disabled" in text:
        return f"enable it, then try again: `{command} enable-key --key-id {key}`"
    if "pending deletion" in text or "pending replica deletion" in text:
        return (
            f"cancel the deletion, then enable it: `{command} cancel-key-deletion --key-id {key}`, "
            f"`{command} enable-key --key-id {key}`; after its deletion date all data under it is lost"
        )
    if "pending import" in text:
        return "import its key material again, the very same: see `aws kms import-key-material help`"
    if "unavailable" in text:
        return "its custom key store is not connected: connect it, then try again"
    return f"wait until it is Enabled: `{command} describe-key --key-id {key}`"


def _for_denial(code: str, text: str, call: Call) -> str:
    if code not in ("AccessDeniedException", "AccessDenied", "NotAuthorizedException"):
        return CREDENTIALS
    if call.endpoint == "embedded":
        return "only a key of your own can be changed: `ebscrypt kms create-key`"
    needed = _PERMISSIONS.get(call.operation, f"kms:{call.operation}")
    gone = " (or the key is deleted, or of another Region or account)" if "does not exist" in text else ""
    return f"allow {needed} in the caller's IAM policy and in the key's policy{gone}"
