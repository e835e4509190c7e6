"""`examine_key`: may this caller do with a KMS key what volumes need, and which policies would allow it?

Each operation is tried with KMS's DryRun, which answers "it would have succeeded" and changes nothing. Not everything
can be had that way. DescribeKey has no DryRun and is asked in earnest. Decrypt needs a wrapped key, so one data key is
made, without plaintext, bound to a volume id that no volume has, and forgotten. RetireGrant needs a grant: without one
KMS refuses before it looks at permissions, so there it is said who may retire instead.

What is printed as policies is what is tried, and no more (facts §1.4). AWS's own examples tie such permissions to
``kms:ViaService = ec2.…`` and ``kms:GrantIsForAWSResource``: both are true only of calls that EC2 makes for a user.
ebscrypt calls KMS itself, so these conditions would shut it out, as the key policy of alias/aws/ebs does on AWS.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec

from ebscrypt.control.doctor import Finding, Level
from ebscrypt.control.site import Site
from ebscrypt.errors import EbscryptError, KmsAccessDenied, KmsError, KmsInvalidRequest, KmsKeyNotFound
from ebscrypt.kms import hints, principals
from ebscrypt.kms.names import is_key_arn
from ebscrypt.kms.results import KeyDescription
from ebscrypt.model import CONTEXT_NAME, DATA_KEY_SIZE, encryption_context

PROBE: Final = encryption_context(f"vol-{'0' * 17}")
"""The context of the trials: it passes conditions on ``vol-*``, and is no volume's."""
_USABLE: Final = ("Enabled", "Updating")
_NO_GRANT: Final = "0" * 64


class KeyExamination(msgspec.Struct, frozen=True, rename="pascal"):
    """The trials of one key, and the policies that allow them. ``kms_key_id`` is the ARN where that is known."""

    kms_key_id: str
    caller: str | None
    findings: list[Finding]
    iam_policy: dict[str, Any]
    key_policy_statements: list[dict[str, Any]]


def examine_key(site: Site, key_id: str) -> KeyExamination:
    """Try all that volumes need of a key. Raises `InvalidParameter` for what cannot be a key's name here."""
    findings: list[Finding] = []
    who = _caller(site, findings)
    try:
        key = site.kms.resolve_key(key_id)
    except KmsError as error:
        findings.append(_refused("DescribeKey", error))
        arn = error.key_arn or key_id
    else:
        arn = key.arn
        findings.append(Finding("DescribeKey", Level.OK, f"{key.arn} is {key.state}"))
        findings += _trials(site, key)
    # A policy names keys by ARN only.
    named = arn if is_key_arn(arn) else f"arn:aws:kms:{site.kms.region}:ACCOUNT:key/ID"
    return KeyExamination(arn, who, findings, iam_policy(site, named), key_policy_statements(site, named, who))


def _caller(site: Site, findings: list[Finding]) -> str | None:
    """Who KMS takes us for. Not knowing it is no hindrance, except for grants."""
    if site.settings.kms.endpoint == "embedded":
        return f"arn:aws:iam::{site.settings.kms.account}:root"
    try:
        return principals.caller(site.settings)
    except EbscryptError as error:
        level = Level.WARNING if principals.wants_grants(site.settings) else Level.UNTRIED
        findings.append(Finding("GetCallerIdentity", level, error.message, error.hint))
        return None


def _trials(site: Site, key: KeyDescription) -> Iterator[Finding]:
    if key.manager == "AWS" and site.settings.kms.endpoint == "aws":
        text = f"{key.arn} is an AWS managed key: its key policy allows it to EC2 only, and cannot be changed"
        yield Finding("DescribeKey", Level.PROBLEM, text, "use a key of your own: `aws kms create-key`")
    if key.state not in _USABLE:
        hint = hints.for_state(key.state, site.settings.kms.endpoint, key.arn)
        yield Finding(
            "DescribeKey", Level.PROBLEM, f"a key that is {key.state} cannot be used: nothing was tried", hint
        )
        return
    made = "GenerateDataKeyWithoutPlaintext"
    request = {"KeyId": key.arn, "NumberOfBytes": DATA_KEY_SIZE, "EncryptionContext": PROBE}
    try:
        knows = site.kms.dry_run(made, key.arn, **request)
    except EbscryptError as error:
        yield _refused(made, error)
        yield from _untried("no wrapped key could be made", "Decrypt", "ReEncrypt")
        yield from _grant_trials(site, key)
        return
    if not knows:
        yield Finding(made, Level.OK, "allowed: this endpoint does not know DryRun, and has made a data key")
        rest = ("Decrypt", "ReEncrypt", *(("CreateGrant", "RetireGrant") if _wants_grants(site) else ()))
        yield from _untried("this endpoint does not know DryRun, and would do it", *rest)
        return
    yield Finding(made, Level.OK, "would be allowed")
    yield from _use_trials(site, key)
    yield from _grant_trials(site, key)


def _use_trials(site: Site, key: KeyDescription) -> Iterator[Finding]:
    """What is done with a wrapped key; it is made in earnest, since DryRun gives none."""
    try:
        blob = site.kms.generate_data_key_without_plaintext(key.arn, PROBE).blob
    except EbscryptError as error:
        yield _refused("GenerateDataKeyWithoutPlaintext", error)
        yield from _untried("no wrapped key could be made", "Decrypt", "ReEncrypt")
        return
    yield _tried("Decrypt", lambda: site.kms.check_decrypt(blob, PROBE, key_arn=key.arn))
    request = {
        "CiphertextBlob": blob,
        "SourceKeyId": key.arn,
        "SourceEncryptionContext": PROBE,
        "DestinationKeyId": key.arn,
        "DestinationEncryptionContext": PROBE,
    }
    yield _tried("ReEncrypt", lambda: site.kms.dry_run("ReEncrypt", key.arn, **request))


def _grant_trials(site: Site, key: KeyDescription) -> Iterator[Finding]:
    if not _wants_grants(site):
        text = "attachments use no grants: see kms.grants in ebscrypt.toml(5)"
        yield Finding("CreateGrant", Level.UNTRIED, text)
        return
    try:
        parties = principals.parties(site.settings)
    except EbscryptError as error:
        yield Finding("CreateGrant", Level.PROBLEM, error.message, error.hint)
        return
    request = {
        "KeyId": key.arn,
        "GranteePrincipal": parties.grantee,
        "RetiringPrincipal": parties.retiring,
        "Operations": ["Decrypt"],
        "Constraints": {"EncryptionContextSubset": PROBE},
    }
    yield _tried("CreateGrant", lambda: site.kms.dry_run("CreateGrant", key.arn, **request))
    try:
        site.kms.dry_run("RetireGrant", key.arn, KeyId=key.arn, GrantId=_NO_GRANT)
    except KmsAccessDenied as error:
        yield _refused("RetireGrant", error)
    except (KmsInvalidRequest, KmsKeyNotFound):
        text = f"needs a grant to be tried; the retiring principal {parties.retiring} may do it without a policy"
        yield Finding("RetireGrant", Level.UNTRIED, text)
    except EbscryptError as error:
        yield _refused("RetireGrant", error)


def _tried(operation: str, trial: Callable[[], object]) -> Finding:
    try:
        trial()
    except EbscryptError as error:
        return _refused(operation, error)
    return Finding(operation, Level.OK, "would be allowed")


def _untried(why: str, *operations: str) -> Iterator[Finding]:
    return (Finding(operation, Level.UNTRIED, f"not tried: {why}") for operation in operations)


def _refused(operation: str, error: EbscryptError) -> Finding:
    """What failed, and where it is a permission, which one and in whose policy."""
    if not isinstance(error, KmsAccessDenied) or error.kms_code is None:
        return Finding(operation, Level.PROBLEM, error.message, error.hint)
    side = hints.denying_side(error.kms_text or "") or "the caller's IAM policy or the key's policy"
    text = f"denied: {hints.permission(operation)} is missing in {side}: {error.kms_text or error.kms_code}"
    return Finding(operation, Level.PROBLEM, text, error.hint)


def _wants_grants(site: Site) -> bool:
    return principals.wants_grants(site.settings)


def iam_policy(site: Site, arn: str) -> dict[str, Any]:
    """The caller's IAM policy: the least that volumes under the key need."""
    return {"Version": "2012-10-17", "Statement": [one | {"Resource": arn} for one in _statements(site)]}


def key_policy_statements(site: Site, arn: str, who: str | None) -> list[dict[str, Any]]:
    """The same for the key's policy. Needed where that does not leave it to IAM, and for a key of another account."""
    principal = {"AWS": who or f"arn:aws:iam::{arn.split(':')[4]}:role/ROLE"}
    return [one | {"Principal": principal, "Resource": "*"} for one in _statements(site)]


def _statements(site: Site) -> list[dict[str, Any]]:
    of_volumes = {
        "StringLike": {f"kms:EncryptionContext:{CONTEXT_NAME}": ["vol-*", "snap-*"]},
        "ForAllValues:StringEquals": {"kms:EncryptionContextKeys": CONTEXT_NAME},
    }
    actions = ["kms:GenerateDataKeyWithoutPlaintext", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo"]
    statements: list[dict[str, Any]] = [
        {"Sid": "EbscryptFindsTheKey", "Effect": "Allow", "Action": "kms:DescribeKey"},
        {"Sid": "EbscryptUsesTheKey", "Effect": "Allow", "Action": actions, "Condition": of_volumes},
    ]
    if _wants_grants(site):
        limits: dict[str, Any] = {
            "StringEquals": {"kms:GrantConstraintType": "EncryptionContextSubset"},
            "ForAllValues:StringEquals": {"kms:GrantOperations": "Decrypt"},
        }
        with contextlib.suppress(EbscryptError):  # told among the findings already
            limits["StringEquals"]["kms:GranteePrincipal"] = principals.grantee(site.settings)
        statements.append(
            {"Sid": "EbscryptGrantsAttachments", "Effect": "Allow", "Action": "kms:CreateGrant", "Condition": limits}
        )
    return statements
