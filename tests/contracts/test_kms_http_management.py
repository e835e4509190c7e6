"""`ebscrypt kms serve` with two principals, and the management of keys, by boto3, the aws command and openssl."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.contracts.kms_implementations import GRANTEE, GRANTEE_ACCESS_KEY_ID

CONTEXT = {"aws:ebs:id": "vol-0123456789abcdef0"}
GRANT: dict[str, Any] = {
    "GranteePrincipal": GRANTEE,
    "RetiringPrincipal": "ec2.eu-central-1.amazonaws.com",
    "Operations": ["Decrypt"],
    "Constraints": {"EncryptionContextSubset": CONTEXT},
}


def test_two_clients(boto_as: Callable[[str], Any]) -> None:
    """Who shows the access key id of a principal may do what a grant allows and nothing else; anybody else is root."""
    root, grantee = boto_as("anyone"), boto_as(GRANTEE_ACCESS_KEY_ID)
    key = root.create_key()["KeyMetadata"]["Arn"]
    made = root.generate_data_key(KeyId=key, NumberOfBytes=64, EncryptionContext=CONTEXT)
    asked = {"CiphertextBlob": made["CiphertextBlob"], "EncryptionContext": CONTEXT}

    with pytest.raises(ClientError, match=f"User: {GRANTEE} is not authorized to perform: kms:Decrypt"):
        grantee.decrypt(**asked)
    grant = root.create_grant(KeyId=key, Name="attachment", **GRANT)
    opened = grantee.decrypt(**asked, GrantTokens=[grant["GrantToken"]])
    with pytest.raises(ClientError, match="AccessDeniedException"):
        grantee.create_grant(KeyId=key, **GRANT)
    root.retire_grant(KeyId=key, GrantId=grant["GrantId"])

    assert opened["Plaintext"] == made["Plaintext"]
    with pytest.raises(grantee.exceptions.InvalidGrantTokenException):
        grantee.decrypt(**asked, GrantTokens=[grant["GrantToken"]])
    with pytest.raises(ClientError, match="AccessDeniedException"):
        grantee.decrypt(**asked)


def test_a_name_that_is_nobodys(boto_as: Callable[[str], Any]) -> None:
    """The access key id counts whole: what only begins or ends like a principal's is the root."""
    for name in (f"{GRANTEE_ACCESS_KEY_ID}X", f"X{GRANTEE_ACCESS_KEY_ID}", GRANTEE_ACCESS_KEY_ID.lower()):
        assert boto_as(name).list_keys()["Keys"] is not None
    with pytest.raises(ClientError, match="AccessDeniedException"):
        boto_as(GRANTEE_ACCESS_KEY_ID).list_keys()


def test_boto3_paginators_and_types(boto: Any) -> None:
    """boto3's own paginators go through grants, tags and rotations; dates and constraints have its types."""
    key = boto.create_key(Tags=[{"TagKey": name, "TagValue": ""} for name in "abc"])["KeyMetadata"]["Arn"]
    for number in range(3):
        boto.create_grant(KeyId=key, Name=str(number), **GRANT)
        boto.rotate_key_on_demand(KeyId=key)
    boto.enable_key_rotation(KeyId=key, RotationPeriodInDays=90)
    few = {"PageSize": 2}

    grants = [
        grant
        for page in boto.get_paginator("list_grants").paginate(KeyId=key, PaginationConfig=few)
        for grant in page["Grants"]
    ]
    tags = [
        tag
        for page in boto.get_paginator("list_resource_tags").paginate(KeyId=key, PaginationConfig=few)
        for tag in page["Tags"]
    ]
    rotations = [
        rotation
        for page in boto.get_paginator("list_key_rotations").paginate(KeyId=key, PaginationConfig=few)
        for rotation in page["Rotations"]
    ]

    assert {grant["Name"] for grant in grants} == {"0", "1", "2"}
    assert all(grant["Constraints"] == GRANT["Constraints"] for grant in grants)
    assert [tag["TagKey"] for tag in tags] == ["a", "b", "c"]
    assert [rotation["RotationType"] for rotation in rotations] == ["ON_DEMAND"] * 3
    assert all(item.tzinfo for item in (grants[0]["CreationDate"], rotations[0]["RotationDate"]))
    assert boto.get_key_rotation_status(KeyId=key)["NextRotationDate"].tzinfo


@pytest.mark.slow
def test_aws_command_grants(aws: Callable[..., Any], tmp_path: Path) -> None:
    """The aws command makes a grant, a second one uses it, the first revokes it."""
    key = aws("create-key", "--tags", "TagKey=team,TagValue=disks")["KeyMetadata"]["Arn"]
    made = aws("generate-data-key-without-plaintext", "--key-id", key, "--number-of-bytes", "64")
    blob = tmp_path / "blob"
    blob.write_bytes(base64.b64decode(made["CiphertextBlob"]))
    decrypt = ("decrypt", "--ciphertext-blob", f"fileb://{blob}")

    denied = aws(*decrypt, fails=True, access_key_id=GRANTEE_ACCESS_KEY_ID)
    grant = aws("create-grant", "--key-id", key, "--grantee-principal", GRANTEE, "--operations", "Decrypt")
    token = ("--grant-tokens", grant["GrantToken"])
    opened = aws(*decrypt, *token, access_key_id=GRANTEE_ACCESS_KEY_ID)
    listed = aws("list-grants", "--key-id", key)["Grants"]
    aws("revoke-grant", "--key-id", key, "--grant-id", grant["GrantId"])

    assert f"User: {GRANTEE} is not authorized to perform: kms:Decrypt" in denied
    assert len(base64.b64decode(opened["Plaintext"])) == 64
    assert [found["GrantId"] for found in listed] == [grant["GrantId"]]
    assert aws("list-resource-tags", "--key-id", key)["Tags"] == [{"TagKey": "team", "TagValue": "disks"}]
    assert "InvalidGrantTokenException" in aws(*decrypt, *token, fails=True)


@pytest.mark.slow
def test_aws_command_and_openssl_import(aws: Callable[..., Any], tmp_path: Path) -> None:
    """Material wrapped by openssl, as AWS's guide shows it, is imported by the aws command."""
    key = aws("create-key", "--origin", "EXTERNAL")["KeyMetadata"]["Arn"]
    given = aws(
        "get-parameters-for-import", "--key-id", key,
        "--wrapping-algorithm", "RSAES_OAEP_SHA_256", "--wrapping-key-spec", "RSA_3072",
    )  # fmt: skip
    files = {name: tmp_path / name for name in ("public", "token", "material", "wrapped")}
    files["public"].write_bytes(base64.b64decode(given["PublicKey"]))
    files["token"].write_bytes(base64.b64decode(given["ImportToken"]))
    files["material"].write_bytes(os.urandom(32))
    oaep = ("rsa_padding_mode:oaep", "rsa_oaep_md:sha256", "rsa_mgf1_md:sha256")
    options = [part for option in oaep for part in ("-pkeyopt", option)]
    subprocess.run(
        [
            "openssl", "pkeyutl", "-encrypt", "-pubin", "-keyform", "DER", "-inkey", files["public"],
            "-in", files["material"], "-out", files["wrapped"], *options,
        ],
        check=True,
    )  # fmt: skip

    aws(
        "import-key-material", "--key-id", key, "--import-token", f"fileb://{files['token']}",
        "--encrypted-key-material", f"fileb://{files['wrapped']}",
        "--expiration-model", "KEY_MATERIAL_DOES_NOT_EXPIRE",
    )  # fmt: skip
    enabled = aws("describe-key", "--key-id", key)["KeyMetadata"]
    aws("delete-imported-key-material", "--key-id", key)

    assert (enabled["KeyState"], enabled["Origin"]) == ("Enabled", "EXTERNAL")
    assert "is pending import" in aws(
        "generate-data-key", "--key-id", key, "--key-spec", "AES_256", "--encryption-context", json.dumps(CONTEXT),
        fails=True,
    )  # fmt: skip
