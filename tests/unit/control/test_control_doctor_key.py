"""`examine_key`: what each refusal of KMS means for a volume, and which policies would mend it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any

import msgspec
import pytest

from ebscrypt.control.doctor import Finding, Level
from ebscrypt.control.doctor_key import PROBE, KeyExamination, examine_key
from ebscrypt.control.site import Site
from ebscrypt.errors import InvalidParameter
from tests.unit.kms.calls import GOOD
from tests.unit.kms.scripted import (
    GRANTEE,
    KEY_ARN,
    RETIRING,
    Behaviour,
    ScriptedEndpoint,
    answers,
    by_operation,
    listening,
    refuses,
)

TRIALS = ["DescribeKey", "GenerateDataKeyWithoutPlaintext", "Decrypt", "ReEncrypt", "CreateGrant", "RetireGrant"]
WOULD = refuses("DryRunOperationException", "The request would have succeeded, but the DryRun option is set.")
NO_SUCH_GRANT = refuses("NotFoundException", "Grant ID not found")


@pytest.fixture
def endpoint() -> Iterator[ScriptedEndpoint]:
    """A KMS on loopback."""
    with listening() as scripted:
        yield scripted


def allows(endpoint: ScriptedEndpoint, **otherwise: Behaviour) -> Behaviour:
    """A KMS that allows all but what a test names. A data key is made in earnest where it is not a trial."""

    def make(handler: BaseHTTPRequestHandler) -> None:
        made = answers(200, GOOD["GenerateDataKeyWithoutPlaintext"])
        (WOULD if "DryRun" in endpoint.bodies[-1] else made)(handler)

    usual = {
        "DescribeKey": answers(200, GOOD["DescribeKey"]),
        "GenerateDataKeyWithoutPlaintext": make,
        "RetireGrant": NO_SUCH_GRANT,
    }
    return by_operation(usual | otherwise, WOULD)


@pytest.fixture
def remote(site: Site, endpoint: ScriptedEndpoint) -> Site:
    """A site whose KMS is that endpoint, with grants for a role that is named."""
    limits: dict[str, Any] = {"attempts": 1, "timeout": 5.0, "grantee": GRANTEE, "retiring_principal": RETIRING}
    kms = msgspec.structs.replace(
        site.settings.kms, endpoint=endpoint.url, region="eu-central-1", account="111122223333", **limits
    )
    return Site(msgspec.structs.replace(site.settings, kms=kms))


def trials(examined: KeyExamination) -> dict[str, Finding]:
    """The last finding about each operation of KMS."""
    return {finding.check: finding for finding in examined.findings if finding.check in TRIALS}


def levels(examined: KeyExamination) -> list[Level]:
    return [finding.level for finding in trials(examined).values()]


def test_all_is_allowed(remote: Site, endpoint: ScriptedEndpoint) -> None:
    """Each call is tried by DryRun, for a volume that cannot be; only one data key is made in earnest."""
    endpoint.script = [allows(endpoint)]

    examined = examine_key(remote, KEY_ARN)

    assert list(trials(examined)) == TRIALS
    assert levels(examined) == [Level.OK] * 5 + [Level.UNTRIED]
    assert RETIRING in trials(examined)["RetireGrant"].message
    sent = [
        (target.rpartition(".")[2], body)
        for target, body in zip(endpoint.targets, endpoint.bodies, strict=True)
        if target
    ]
    in_earnest = [name for name, body in sent if not body.get("DryRun")]
    assert in_earnest == ["DescribeKey", "GenerateDataKeyWithoutPlaintext"]
    contexts = [body["EncryptionContext"] for _, body in sent if "EncryptionContext" in body]
    assert contexts == [PROBE] * 3
    assert PROBE == {"aws:ebs:id": "vol-00000000000000000"}


SIDES = {
    "IAM": (" because no identity-based policy allows the kms:X action", "the caller's IAM policy"),
    "key policy": (" because no resource-based policy allows the kms:X action", "the key's policy"),
    "organisation": (" with an explicit deny in a service control policy", "the service control policy"),
    "boundary": (" because no permissions boundary allows the kms:X action", "the permissions boundary"),
    "unsaid": ("", "the caller's IAM policy or the key's policy"),
}
PERMISSIONS = {
    "DescribeKey": "kms:DescribeKey",
    "GenerateDataKeyWithoutPlaintext": "kms:GenerateDataKeyWithoutPlaintext",
    "Decrypt": "kms:Decrypt",
    "ReEncrypt": "kms:ReEncryptFrom on the source key and kms:ReEncryptTo on the destination key",
    "CreateGrant": "kms:CreateGrant",
    "RetireGrant": "kms:RetireGrant",
}


@pytest.mark.parametrize("operation", TRIALS)
@pytest.mark.parametrize("side", list(SIDES))
def test_what_is_missing_and_where(side: str, operation: str, remote: Site, endpoint: ScriptedEndpoint) -> None:
    """A denied call names its permission, and the policy that AWS says is at fault; the other calls are tried on."""
    text, place = SIDES[side]
    denied = refuses("AccessDeniedException", f"User: U is not authorized to perform: kms:X on resource: R{text}")
    endpoint.script = [allows(endpoint, **{operation: denied})]

    examined = examine_key(remote, KEY_ARN)

    finding = trials(examined)[operation]
    assert finding.level is Level.PROBLEM
    assert f"{PERMISSIONS[operation]} is missing in {place}" in finding.message
    assert finding.hint
    others = [one for name, one in trials(examined).items() if name != operation]
    assert all(one.level is not Level.PROBLEM for one in others)


@pytest.mark.parametrize("state", ["Disabled", "PendingDeletion", "PendingImport", "Unavailable", "Creating"])
def test_a_key_that_cannot_be_used_is_not_tried(state: str, remote: Site, endpoint: ScriptedEndpoint) -> None:
    """Its state is the problem and has its own cure; nothing is said about permissions that nobody could try."""
    metadata = GOOD["DescribeKey"]["KeyMetadata"] | {"KeyState": state}
    endpoint.script = [allows(endpoint, DescribeKey=answers(200, {"KeyMetadata": metadata}))]

    examined = examine_key(remote, KEY_ARN)

    assert levels(examined) == [Level.PROBLEM]
    assert state in examined.findings[-1].message
    cure = {"Disabled": "enable-key", "PendingDeletion": "cancel-key-deletion", "PendingImport": "import"}.get(
        state, ""
    )
    assert cure in str(examined.findings[-1].hint)


def test_an_endpoint_without_dry_run(remote: Site, endpoint: ScriptedEndpoint) -> None:
    """Where a trial was carried out, no other is made: it would decrypt, and make a grant."""
    made = answers(200, GOOD["GenerateDataKeyWithoutPlaintext"])
    endpoint.script = [allows(endpoint, GenerateDataKeyWithoutPlaintext=made)]

    examined = examine_key(remote, KEY_ARN)

    assert levels(examined) == [Level.OK, Level.OK] + [Level.UNTRIED] * 4
    assert "does not know DryRun" in trials(examined)["Decrypt"].message
    assert [target.rpartition(".")[2] for target in endpoint.targets if target] == TRIALS[:2]


def test_no_grants_no_trial(remote: Site, endpoint: ScriptedEndpoint) -> None:
    """Where attachments have no grants, neither trial nor policy speaks of them."""
    kms = msgspec.structs.replace(remote.settings.kms, grants="never")
    endpoint.script = [allows(endpoint)]

    examined = examine_key(Site(msgspec.structs.replace(remote.settings, kms=kms)), KEY_ARN)

    assert "RetireGrant" not in trials(examined)
    assert "TrentService.CreateGrant" not in endpoint.targets
    assert "CreateGrant" not in json.dumps(examined.iam_policy)


def test_the_managed_key_of_aws_is_for_ec2_only(remote: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """On AWS the key behind alias/aws/ebs cannot be used from outside of EC2, whatever IAM says: that is a problem."""
    kms = msgspec.structs.replace(remote.settings.kms, endpoint="aws")
    site = Site(msgspec.structs.replace(remote.settings, kms=kms))
    metadata = GOOD["DescribeKey"]["KeyMetadata"] | {"KeyManager": "AWS"}

    def answer(operation: str, *_: object) -> dict[str, Any]:
        return {"KeyMetadata": metadata} if operation == "DescribeKey" else GOOD["GenerateDataKeyWithoutPlaintext"]

    monkeypatch.setattr(site.kms, "_send", answer)
    monkeypatch.setattr("ebscrypt.kms.principals.caller", lambda _: GRANTEE)

    examined = examine_key(site, "alias/aws/ebs")

    problems = [finding for finding in examined.findings if finding.level is Level.PROBLEM]
    assert len(problems) == 1
    assert "to EC2 only" in problems[0].message


def test_the_policies_allow_what_is_tried_and_no_more(remote: Site, endpoint: ScriptedEndpoint) -> None:
    """Frozen: one key, volumes' contexts, grants of Decrypt for the grantee; no condition that only EC2 can meet."""
    endpoint.script = [allows(endpoint)]

    examined = examine_key(remote, KEY_ARN)

    of_volumes = {
        "StringLike": {"kms:EncryptionContext:aws:ebs:id": ["vol-*", "snap-*"]},
        "ForAllValues:StringEquals": {"kms:EncryptionContextKeys": "aws:ebs:id"},
    }
    of_grants = {
        "StringEquals": {
            "kms:GrantConstraintType": "EncryptionContextSubset",
            "kms:GranteePrincipal": GRANTEE,
        },
        "ForAllValues:StringEquals": {"kms:GrantOperations": "Decrypt"},
    }
    uses = ["kms:GenerateDataKeyWithoutPlaintext", "kms:Decrypt", "kms:ReEncryptFrom", "kms:ReEncryptTo"]
    statements: list[dict[str, Any]] = [
        {"Sid": "EbscryptFindsTheKey", "Effect": "Allow", "Action": "kms:DescribeKey"},
        {"Sid": "EbscryptUsesTheKey", "Effect": "Allow", "Action": uses, "Condition": of_volumes},
        {"Sid": "EbscryptGrantsAttachments", "Effect": "Allow", "Action": "kms:CreateGrant", "Condition": of_grants},
    ]
    assert examined.iam_policy == {
        "Version": "2012-10-17",
        "Statement": [statement | {"Resource": KEY_ARN} for statement in statements],
    }
    # Nobody could tell who asks: that is left to be filled in.
    role = {"AWS": "arn:aws:iam::111122223333:role/ROLE"}
    expected = [statement | {"Principal": role, "Resource": "*"} for statement in statements]
    assert examined.key_policy_statements == expected
    told = json.dumps([examined.iam_policy, examined.key_policy_statements])
    assert "ViaService" not in told
    assert "GrantIsForAWSResource" not in told


def test_an_unknown_key(remote: Site, endpoint: ScriptedEndpoint) -> None:
    """What KMS does not find is a problem; the policy says where its ARN goes."""
    endpoint.script = [allows(endpoint, DescribeKey=refuses("NotFoundException", "Alias x is not found."))]

    examined = examine_key(remote, "alias/x")

    assert levels(examined) == [Level.PROBLEM]
    assert examined.iam_policy["Statement"][0]["Resource"] == "arn:aws:kms:eu-central-1:ACCOUNT:key/ID"


def test_a_name_that_cannot_be(site: Site) -> None:
    """Is refused as everywhere, by its field."""
    with pytest.raises(InvalidParameter, match="KmsKeyId"):
        examine_key(site, "x" * 10_000)


def test_the_embedded_kms(site: Site) -> None:
    """Its account may do everything; afterwards there is no grant, and no plaintext went anywhere."""
    key = site.kms.call("CreateKey")["KeyMetadata"]["Arn"]

    examined = examine_key(site, key)

    assert levels(examined) == [Level.OK] * 5 + [Level.UNTRIED]
    assert str(examined.caller).endswith(":root")
    assert site.kms.call("ListGrants", KeyId=key)["Grants"] == []
