"""Requests that KMS refuses before it does anything: malformed, out of range, unknown, unsupported."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebscrypt.kms.embedded.service import OPERATIONS
from tests.unit.kms.embedded.speaking import Speaker, service_model

UUID = "1234abcd-12ab-34cd-56ef-1234567890ab"
HERE = "arn:aws:kms:eu-central-1:111122223333"
AT_LEAST, AT_MOST = "greater than or equal to", "less than or equal to"
UNSUPPORTED = "is not supported by the embedded KMS"
USAGE_WANTED = "You must specify a KeyUsage value for all KMS keys except for symmetric encryption keys."
PREFIX_WANTED = (
    'Alias must start with the prefix "alias/". '
    "Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
)
FOREIGN_MARKER = "The marker is not one that this KMS gave."


def fails(what: str, must: str) -> str:
    """AWS's text for one broken constraint."""
    return f"1 validation error detected: Value{what} failed to satisfy constraint: Member must {must}"


@pytest.mark.parametrize(
    ("operation", "request_", "message"),
    [
        ("DescribeKey", {}, fails(" null at 'keyId'", "not be null")),
        ("DescribeKey", {"KeyId": ""}, fails(" '' at 'keyId'", f"have length {AT_LEAST} 1")),
        ("ListKeys", {"Limit": 0}, fails(" '0' at 'limit'", f"have value {AT_LEAST} 1")),
        ("ListKeys", {"Limit": 1001}, fails(" '1001' at 'limit'", f"have value {AT_MOST} 1000")),
        ("ListAliases", {"Limit": 101}, fails(" '101' at 'limit'", f"have value {AT_MOST} 100")),
        (
            "GenerateDataKey",
            {"KeyId": UUID, "NumberOfBytes": 1025},
            fails(" '1025' at 'numberOfBytes'", f"have value {AT_MOST} 1024"),
        ),
        (
            "GenerateDataKey",
            {"KeyId": UUID, "KeySpec": "AES-256"},
            fails(" 'AES-256' at 'keySpec'", "satisfy enum value set: [AES_256, AES_128]"),
        ),
        (
            "Encrypt",
            {"KeyId": UUID, "Plaintext": b"x" * 4097},
            fails(" at 'plaintext'", f"have length {AT_MOST} 4096"),
        ),
        (
            "Decrypt",
            {"CiphertextBlob": b"x" * 6145},
            fails(" at 'ciphertextBlob'", f"have length {AT_MOST} 6144"),
        ),
        (
            "CreateAlias",
            {"AliasName": "alias/a b", "TargetKeyId": UUID},
            fails(" 'alias/a b' at 'aliasName'", "satisfy regular expression pattern: ^[a-zA-Z0-9:/_-]+$"),
        ),
        ("CreateKey", {"KeySpec": "HMAC_256"}, USAGE_WANTED),
        (
            "CreateKey",
            {"KeySpec": "ECC_NIST_P256", "KeyUsage": "ENCRYPT_DECRYPT"},
            "KeyUsage ENCRYPT_DECRYPT is not compatible with KeySpec ECC_NIST_P256",
        ),
        ("GenerateDataKey", {"KeyId": UUID}, "Please specify either number of bytes or key spec."),
        (
            "GenerateDataKey",
            {"KeyId": UUID, "KeySpec": "AES_256", "NumberOfBytes": 32},
            "Please specify either number of bytes or key spec.",
        ),
        ("GenerateRandom", {}, "NumberOfBytes is required."),
        ("CreateAlias", {"AliasName": "mine", "TargetKeyId": UUID}, PREFIX_WANTED),
        (
            "CreateAlias",
            {"AliasName": "alias/a:b", "TargetKeyId": UUID},
            "alias/a:b contains invalid characters for an alias",
        ),
        ("CreateAlias", {"AliasName": "alias/a", "TargetKeyId": "alias/b"}, "Aliases must refer to keys. Not aliases"),
    ],
)
def test_validation(operation: str, request_: dict[str, Any], message: str, kms: Speaker) -> None:
    """A value out of range is refused as AWS refuses it: ValidationException, the member's name, no plaintext."""
    refused = kms.refusal(operation, **request_)

    assert (refused.kind, refused.message, refused.status) == ("ValidationException", message, 400)


def test_all_violations_are_told_together(kms: Speaker) -> None:
    """Several broken constraints are one answer that counts them."""
    refused = kms.refusal("CreateAlias", AliasName="ä")

    assert refused.message.startswith("2 validation errors detected: ")
    assert refused.message.count("failed to satisfy constraint") == 2


@pytest.mark.parametrize(
    ("operation", "request_", "kind", "message"),
    [
        ("DescribeKey", {"KeyId": "nonsense"}, "NotFoundException", "Invalid keyId 'nonsense'"),
        ("DescribeKey", {"KeyId": "arn:aws:nonsense"}, "InvalidArnException", "Invalid arn arn:aws:nonsense"),
        (
            "Encrypt",
            {"KeyId": "arn:aws:nonsense", "Plaintext": b"x"},
            "NotFoundException",
            "Invalid keyId 'arn:aws:nonsense'",
        ),
        ("DescribeKey", {"KeyId": UUID}, "NotFoundException", f"Key '{HERE}:key/{UUID}' does not exist"),
        (
            "DescribeKey",
            {"KeyId": f"arn:aws:kms:us-west-2:111122223333:key/{UUID}"},
            "NotFoundException",
            "Invalid arn us-west-2",
        ),
        (
            "DescribeKey",
            {"KeyId": f"arn:aws:kms:eu-central-1:999999999999:key/{UUID}"},
            "NotFoundException",
            f"Key 'arn:aws:kms:eu-central-1:999999999999:key/{UUID}' does not exist",
        ),
        ("DescribeKey", {"KeyId": "alias/x"}, "NotFoundException", f"Alias {HERE}:alias/x is not found."),
        ("DeleteAlias", {"AliasName": "alias/x"}, "NotFoundException", f"Alias {HERE}:alias/x is not found."),
        (
            "DeleteAlias",
            {"AliasName": "alias/aws/ebs"},
            "NotAuthorizedException",
            "Aliases that begin with alias/aws/ are AWS's own",
        ),
        ("ListKeys", {"Marker": "AAAA"}, "InvalidMarkerException", FOREIGN_MARKER),
        ("ListKeys", {"Marker": "ä!"}, "InvalidMarkerException", FOREIGN_MARKER),
        (
            "DescribeKey",
            {"KeyId": UUID, "GrantTokens": ["t"]},
            "InvalidGrantTokenException",
            "The grant token is not valid, or its grant is no more.",
        ),
        ("CreateKey", {"CustomKeyStoreId": "a"}, "UnsupportedOperationException", f"CustomKeyStoreId {UNSUPPORTED}"),
        ("GetPublicKey", {"KeyId": UUID}, "UnsupportedOperationException", f"GetPublicKey {UNSUPPORTED}"),
        ("GenerateMac", {"KeyId": UUID}, "UnsupportedOperationException", f"GenerateMac {UNSUPPORTED}"),
        (
            "CreateKey",
            {"MultiRegion": True},
            "UnsupportedOperationException",
            "Multi-Region keys are not supported by the embedded KMS",
        ),
        (
            "CreateKey",
            {"Origin": "AWS_CLOUDHSM"},
            "UnsupportedOperationException",
            f"Origin AWS_CLOUDHSM {UNSUPPORTED}",
        ),
        ("Sign", {}, "UnsupportedOperationException", f"Sign {UNSUPPORTED}"),
        ("Nonsense", {}, "UnknownOperationException", "There is no operation 'TrentService.Nonsense'."),
        (
            "Decrypt",
            {"CiphertextBlob": "not base64!"},
            "SerializationException",
            "The member ciphertextBlob is not valid base64.",
        ),
        ("DescribeKey", {"KeyId": 7}, "SerializationException", "The member keyId is not a JSON value for string."),
        ("ListKeys", {"Limit": True}, "SerializationException", "The member limit is not a JSON value for integer."),
        (
            "Encrypt",
            {"KeyId": UUID, "Plaintext": b"x", "EncryptionContext": {"a": 1}},
            "SerializationException",
            "The member encryptionContext.value is not a JSON value for string.",
        ),
    ],
)
def test_refusals(operation: str, request_: dict[str, Any], kind: str, message: str, kms: Speaker) -> None:
    """Names that lead nowhere, foreign markers, and what this KMS does not do, are refused with their type."""
    refused = kms.refusal(operation, **request_)

    assert (refused.kind, refused.message, refused.status) == (kind, message, 400)


def test_refusals_are_of_the_model(kms: Speaker) -> None:
    """An operation's own faults are among those that the model of KMS lists for it."""
    key, external = kms.key(), kms.key(Origin="EXTERNAL")
    blob = kms.wrapped(key)
    grant = {"GranteePrincipal": "arn:aws:iam::111122223333:user/a", "Operations": ["Decrypt"]}
    wrapping = {"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
    material = {"EncryptedKeyMaterial": b"x", "ExpirationModel": "KEY_MATERIAL_DOES_NOT_EXPIRE"}
    kms.say("DisableKey", KeyId=key)
    provoked: list[tuple[str, dict[str, Any]]] = [
        ("Encrypt", {"KeyId": key, "Plaintext": b"x"}),
        ("Decrypt", {"CiphertextBlob": blob}),
        ("Decrypt", {"CiphertextBlob": b"x"}),
        ("Decrypt", {"CiphertextBlob": blob, "KeyId": external}),
        ("GenerateDataKeyWithoutPlaintext", {"KeyId": UUID, "NumberOfBytes": 64}),
        ("GenerateDataKeyWithoutPlaintext", {"KeyId": external, "NumberOfBytes": 64}),
        ("CancelKeyDeletion", {"KeyId": key}),
        ("UpdateAlias", {"AliasName": "alias/x", "TargetKeyId": key}),
        ("CreateGrant", {"KeyId": key} | grant),
        ("CreateGrant", {"KeyId": key, "DryRun": True, "GrantTokens": ["x"]} | grant),
        ("CreateGrant", {"KeyId": "arn:aws:x"} | grant),
        ("CreateGrant", {"KeyId": key} | grant | {"GranteePrincipal": "x"}),
        ("RetireGrant", {"GrantToken": "x"}),
        ("RetireGrant", {"KeyId": key, "GrantId": "x"}),
        ("RetireGrant", {"KeyId": key, "GrantId": "0" * 64}),
        ("RetireGrant", {"KeyId": UUID, "GrantId": "0" * 64}),
        ("RevokeGrant", {"KeyId": key, "GrantId": "x"}),
        ("RevokeGrant", {"KeyId": key, "GrantId": "0" * 64}),
        ("ListGrants", {"KeyId": key, "GrantId": "x"}),
        ("ListGrants", {"KeyId": key, "Marker": "x"}),
        ("ListRetirableGrants", {"RetiringPrincipal": "x"}),
        ("ListRetirableGrants", {"RetiringServicePrincipal": "a.b.c", "Marker": "x"}),
        ("GetParametersForImport", {"KeyId": key} | wrapping),
        ("GetParametersForImport", {"KeyId": external} | wrapping | {"WrappingKeySpec": "SM2"}),
        ("ImportKeyMaterial", {"KeyId": external, "ImportToken": b"x"} | material),
        ("DeleteImportedKeyMaterial", {"KeyId": external, "KeyMaterialId": "0" * 64}),
        ("GetKeyPolicy", {"KeyId": key, "PolicyName": "other"}),
        ("PutKeyPolicy", {"KeyId": key, "Policy": "{"}),
        ("PutKeyPolicy", {"KeyId": key, "Policy": " " * 40_000}),
        ("CreateKey", {"Policy": "{"}),
        ("CreateKey", {"Policy": " " * 40_000}),
        ("CreateKey", {"Tags": [{"TagKey": "aws:a", "TagValue": ""}]}),
        ("TagResource", {"KeyId": key, "Tags": [{"TagKey": "aws:a", "TagValue": ""}]}),
        ("UntagResource", {"KeyId": key, "TagKeys": ["aws:a"]}),
        ("ListResourceTags", {"KeyId": key, "Marker": "x"}),
        ("EnableKeyRotation", {"KeyId": key}),
        ("EnableKeyRotation", {"KeyId": external}),
        ("RotateKeyOnDemand", {"KeyId": key}),
        ("RotateKeyOnDemand", {"KeyId": external}),
        ("ListKeyRotations", {"KeyId": key, "Marker": "x"}),
        ("GetKeyRotationStatus", {"KeyId": kms.key(KeySpec="HMAC_256", KeyUsage="GENERATE_VERIFY_MAC")}),
    ]

    for operation, request in provoked:
        listed = {shape.name for shape in service_model().operation_model(operation).error_shapes}
        assert kms.refusal(operation, **request).kind in listed, operation


def test_unknown_members_and_nulls_are_ignored(kms: Speaker) -> None:
    """As AWS does, members that the model does not know are ignored, and null means absent."""
    assert kms.say("ListKeys", Nonsense=1, Limit=None) == {"Keys": [], "Truncated": False}


@pytest.mark.parametrize("body", [b"{", b"\xff", b"[" * 100_000, b'{"a": 1}x', b'{"KeyId": "\\ud800"}'])
def test_bodies_that_are_not_json(body: bytes, kms: Speaker) -> None:
    """A body that is no JSON, or nested to death, is a SerializationException."""
    status, answered = kms.kms.answer("TrentService.DescribeKey", body)

    assert (status, json.loads(answered)["__type"]) == (400, "SerializationException")


@pytest.mark.parametrize("body", [b"[]", b"7", b'"text"', b"null"])
def test_bodies_that_are_no_object(body: bytes, kms: Speaker) -> None:
    """JSON that is no object is a SerializationException."""
    status, answered = kms.kms.answer("TrentService.ListKeys", body)

    assert (status, json.loads(answered)["__type"]) == (400, "SerializationException")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)


@given(operation=st.sampled_from(sorted(OPERATIONS)), data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_request_breaks_the_service(operation: str, data: st.DataObject, kms: Speaker) -> None:
    """Whatever JSON a request is made of, the answer is a result or an error that blames the client."""
    shape = service_model().operation_model(operation).input_shape
    assert shape is not None
    request = data.draw(st.dictionaries(st.sampled_from([*shape.members, "Nonsense"]), json_values, max_size=4))

    status, answered = kms.kms.dispatch(f"TrentService.{operation}", request)

    assert status == 200 or (status == 400 and answered["__type"])
