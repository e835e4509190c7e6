"""What is kept about keys, on each KMS: policies, tags, descriptions; and what holds for many: dry runs, pages."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from ebscrypt.model import encryption_context
from tests.contracts.kms_implementations import Kms, on_every_kms

CONTEXT = encryption_context("vol-0123456789abcdef0")


@on_every_kms()
def test_default_policy(kms: Kms) -> None:
    """A key has a policy, called default, which lets the account's root do everything."""
    key = kms.key()

    (statement,) = json.loads(kms.client.call("GetKeyPolicy", KeyId=key, PolicyName="default")["Policy"])["Statement"]

    assert kms.client.call("ListKeyPolicies", KeyId=key)["PolicyNames"] == ["default"]
    assert (statement["Effect"], statement["Principal"], statement["Action"]) == (
        "Allow",
        {"AWS": kms.root_of(key)},
        "kms:*",
    )


@on_every_kms()
def test_policy_is_kept(kms: Kms) -> None:
    """A policy that is put is given back."""
    key = kms.key()
    statement = {
        "Sid": "mine",
        "Effect": "Allow",
        "Principal": {"AWS": kms.root_of(key)},
        "Action": "kms:*",
        "Resource": "*",
    }
    policy = {"Version": "2012-10-17", "Statement": [statement]}

    kms.client.call("PutKeyPolicy", KeyId=key, PolicyName="default", Policy=json.dumps(policy))

    assert json.loads(kms.client.call("GetKeyPolicy", KeyId=key, PolicyName="default")["Policy"]) == policy


@on_every_kms("policies")
@pytest.mark.parametrize("policy", ["{", "{}", '{"Statement": [{"Effect": "Allow"}]}'])
def test_policy_that_is_none(policy: str, kms: Kms) -> None:
    """What is no policy is refused."""
    asked = {"KeyId": kms.key(), "PolicyName": "default", "Policy": policy}

    assert kms.refusal("PutKeyPolicy", **asked) == "MalformedPolicyDocumentException"


@on_every_kms()
def test_tags(kms: Kms) -> None:
    """Tags are set with the key and later, replaced, and removed."""
    key = kms.key(Tags=[{"TagKey": "team", "TagValue": "disks"}, {"TagKey": "old", "TagValue": ""}])

    kms.client.call("TagResource", KeyId=key, Tags=[{"TagKey": "team", "TagValue": "storage"}])
    kms.client.call("UntagResource", KeyId=key, TagKeys=["old"])

    assert kms.client.call("ListResourceTags", KeyId=key)["Tags"] == [{"TagKey": "team", "TagValue": "storage"}]


@on_every_kms("tags")
def test_tags_that_cannot_be(kms: Kms) -> None:
    """Doubled and reserved names are refused."""
    key = kms.key()

    for names in (["a", "a"], ["aws:mine"]):
        tags = [{"TagKey": name, "TagValue": ""} for name in names]
        assert kms.refusal("TagResource", KeyId=key, Tags=tags) == "TagException"


@on_every_kms()
def test_description(kms: Kms) -> None:
    """A description can be replaced."""
    key = kms.key()

    kms.client.call("UpdateKeyDescription", KeyId=key, Description="ebscrypt contract test, renamed")

    assert kms.client.call("DescribeKey", KeyId=key)["KeyMetadata"]["Description"] == "ebscrypt contract test, renamed"


@on_every_kms("dry run")
@pytest.mark.parametrize("operation", ["CreateGrant", "RetireGrant", "RevokeGrant", "Encrypt", "Decrypt", "ReEncrypt"])
def test_dry_runs(operation: str, kms: Kms) -> None:
    """A dry run says by DryRunOperationException that the request would have succeeded, and changes nothing."""
    key = kms.key()
    grant = {"KeyId": key, "GrantId": kms.granted(key)["GrantId"]}
    blob = kms.client.generate_data_key_without_plaintext(key, CONTEXT).blob
    requests: dict[str, dict[str, Any]] = {
        "CreateGrant": {"KeyId": key, "GranteePrincipal": kms.root_of(key), "Operations": ["Decrypt"]},
        "RetireGrant": grant,
        "RevokeGrant": grant,
        "Encrypt": {"KeyId": key, "Plaintext": b"x"},
        "Decrypt": {"CiphertextBlob": blob, "EncryptionContext": CONTEXT},
        "ReEncrypt": {"CiphertextBlob": blob, "SourceEncryptionContext": CONTEXT, "DestinationKeyId": key},
    }

    assert kms.refusal(operation, DryRun=True, **requests[operation]) == "DryRunOperationException"
    assert len(kms.client.call("ListGrants", KeyId=key)["Grants"]) == 1


@on_every_kms("pages of everything")
@pytest.mark.parametrize("operation", ["ListGrants", "ListResourceTags", "ListKeyRotations"])
def test_listings_in_pages(operation: str, kms: Kms) -> None:
    """Listings give no more than was asked for, and all of it in the end."""
    key = kms.key(Tags=[{"TagKey": name, "TagValue": ""} for name in "abc"])
    for _ in range(3):
        kms.granted(key)
    if operation == "ListKeyRotations":
        kms.client.call("RotateKeyOnDemand", KeyId=key)
    member = {"ListGrants": "Grants", "ListResourceTags": "Tags", "ListKeyRotations": "Rotations"}[operation]
    everything = {"IncludeKeyMaterial": "ALL_KEY_MATERIAL"} if operation == "ListKeyRotations" else {}

    def all_of_it() -> list[dict[str, Any]]:
        pages = [kms.client.call(operation, KeyId=key, Limit=1, **everything)]
        while pages[-1]["Truncated"]:
            more = {"Marker": pages[-1]["NextMarker"]}
            pages.append(kms.client.call(operation, KeyId=key, Limit=1, **everything, **more))
        assert all(len(page[member]) <= 1 for page in pages)
        return [item for page in pages for item in page[member]]

    assert kms.becomes(lambda: len(all_of_it()) == (2 if everything else 3))
    assert len({json.dumps(item, default=str, sort_keys=True) for item in all_of_it()}) == (2 if everything else 3)


@on_every_kms("pages of everything")
@pytest.mark.parametrize("operation", ["ListGrants", "ListResourceTags", "ListAliases"])
def test_markers_that_nobody_gave(operation: str, kms: Kms) -> None:
    """A made-up marker is refused."""
    key = kms.key()

    assert kms.refusal(operation, KeyId=key, Marker=base64.b64encode(b"made up").decode()) == "InvalidMarkerException"
