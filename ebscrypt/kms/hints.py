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
_DENIED: Final = re.compile(r"(?:because no|explicit deny in an?) ([a-zA-Z -]{1,40}?(?:policy|boundary))")
"""How AWS names the policy at fault (IAM guide, "Troubleshoot access denied error messages")."""
_SIDES: Final = {"identity-based policy": "the caller's IAM policy", "resource-based policy": "the key's policy"}


def dashed(operation: str) -> str:
    """``GenerateDataKey`` as a command line writes it: ``generate-data-key``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", operation).lower()


def permission(operation: str) -> str:
    """What has to be allowed for an operation, by IAM's names."""
    return _PERMISSIONS.get(operation, f"kms:{operation}")


def denying_side(text: str) -> str | None:
    """Whose policy AWS says is at fault; None where it does not say."""
    match = _DENIED.search(text)
    return _SIDES.get(match[1], f"the {match[1]}") if match else None


def unreachable(endpoint: str) -> str:
    """What to check when no answer came."""
    if endpoint == "embedded":
        return "another process may hold the embedded KMS's store for long: try again"
    where = "the Region (EBSCRYPT_REGION), network and proxy" if endpoint == "aws" else f"that {endpoint} is up"
    return f"check {where}; kms.timeout and kms.deadline say how long ebscrypt waits"


def for_code(code: str, kind: type[errors.KmsError], text: str, call: Call) -> str:
    """The hint for a refusal: by error code, and for key states by KMS's own words (facts §5.4)."""
    command = _command(call.endpoint)
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


def for_state(state: str, endpoint: str, key: str) -> str:
    """The cure for a key state, by DescribeKey's name for it."""
    words = {"PendingDeletion": "pending deletion", "PendingReplicaDeletion": "pending deletion"} | {
        "Disabled": "is disabled",
        "PendingImport": "pending import",
        "Unavailable": "unavailable",
    }
    return _for_state(words.get(state, ""), _command(endpoint), key)


def _command(endpoint: str) -> str:
    """What asks the same KMS: `aws kms` would take a URL's place for AWS."""
    return "aws kms" if endpoint == "aws" else "ebscrypt kms"


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
        # Ours for AWS as well: `aws kms` would want the material wrapped, and an import token.
        how = f"`ebscrypt kms import-key-material --key-id {key} --key-material FILE`"
        return f"import its key material, the very same if it had some before: {how}"
    if "unavailable" in text:
        return "its custom key store is not connected: connect it, then try again"
    return f"wait until it is Enabled: `{command} describe-key --key-id {key}`"


def _for_denial(code: str, text: str, call: Call) -> str:
    if code not in ("AccessDeniedException", "AccessDenied", "NotAuthorizedException"):
        return CREDENTIALS
    if call.service != "KMS":
        return f"allow sts:{call.operation} in the caller's IAM policy"
    if call.endpoint == "embedded":
        return _for_embedded_denial(text, call)
    needed = permission(call.operation)
    if (side := denying_side(text)) is None:
        hint = f"allow {needed} in the caller's IAM policy and in the key's policy"
    elif "explicit deny" in text:
        hint = f"{side} denies {needed}: take that out"
    else:
        hint = f"allow {needed} in {side}"
    if "does not exist" in text:
        hint += " (or the key is deleted, or of another Region or account)"
    if call.operation == "Decrypt" and not call.granted:
        # Facts §5.2: with its token a grant counts at once, without it some seconds later.
        hint += "; a grant made in the last minutes may not be known everywhere yet: try again"
    return f"{hint}; `ebscrypt doctor --kms-key-id KEY` tries each permission"


def _for_embedded_denial(text: str, call: Call) -> str:
    if "AWS managed key" in text:
        return "only a key of your own can be changed: `ebscrypt kms create-key`"
    if call.operation == "Decrypt":
        return "the attachment's grant is gone or not for this volume: detach it, and attach it again"
    return "this principal may do what a grant allows, and no more"
