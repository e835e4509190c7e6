"""Each word of `ebscrypt kms` once, as a user would say it, and what it prints."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from ebscrypt.cli.kms_table import OPERATIONS
from ebscrypt.cli.kms_words import KeyArgument, Operation
from ebscrypt.kms.embedded.service import OPERATIONS as EMBEDDED

Run = Callable[..., Any]
GRANTEE = "arn:aws:iam::000000000000:role/reader"
OWNER = "arn:aws:iam::000000000000:root"
OTHER_WORDS = {"ListKeys", "ImportKeyMaterial"}
"""Operations that are more than a row of the table."""
FOR_PROGRAMS = {
    "GenerateDataKey",
    "GenerateDataKeyWithoutPlaintext",
    "Encrypt",
    "Decrypt",
    "ReEncrypt",
    "GenerateRandom",
}
"""Operations on data, which no person asks for by hand."""
ROTATION = re.compile(r"^\d{4}-\S+Z +ON_DEMAND +[0-9a-f]{64} +CURRENT$", re.MULTILINE)


@pytest.fixture
def key(run: Run) -> str:
    arn: str = run("kms", "create-key").out.strip()
    return arn


@pytest.fixture
def external(run: Run) -> str:
    arn: str = run("kms", "create-key", "--origin", "EXTERNAL").out.strip()
    return arn


@pytest.fixture
def material(tmp_path: Path) -> str:
    path = tmp_path / "material"
    path.write_bytes(bytes(range(32)))
    return str(path)


def described(run: Run, key: str) -> dict[str, Any]:
    metadata: dict[str, Any] = run("kms", "describe-key", key, "--output", "json").json["KeyMetadata"]
    return metadata


@pytest.mark.parametrize("operation", OPERATIONS, ids=[operation.name for operation in OPERATIONS])
def test_the_table_is_true_to_the_model(operation: Operation) -> None:
    """Every command's operation, members and listing are those of KMS's own model."""
    model: Any = botocore.session.Session().get_service_model("kms").operation_model(operation.operation)

    members = {argument.member for argument in operation.arguments} | set(operation.fixed)
    assert members <= set(model.input_shape.members)
    assert ("KeyId" in model.input_shape.members) == (operation.key is not KeyArgument.NONE)
    required = set(model.input_shape.required_members) - {"KeyId"}
    given = {argument.member for argument in operation.arguments if argument.required or argument.default}
    assert required <= given | set(operation.fixed)
    assert operation.listing is None or operation.listing in model.output_shape.members


def test_whatever_the_embedded_kms_can_do_has_a_word() -> None:
    """No operation that a person may want is without a command."""
    assert set(EMBEDDED) - FOR_PROGRAMS == {operation.operation for operation in OPERATIONS} | OTHER_WORDS


def test_create_key_with_everything(run: Run, tmp_path: Path) -> None:
    """Spec, usage, description, tags and policy arrive in the key."""
    statement = {"Effect": "Allow", "Principal": {"AWS": OWNER}, "Action": "kms:*", "Resource": "*"}
    policy = {"Version": "2012-10-17", "Id": "mine", "Statement": [statement]}
    (tmp_path / "policy").write_text(json.dumps(policy))

    options = ["--description", "mine", "--tags", "a=b", "c=d=e", "--policy", str(tmp_path / "policy")]
    key = run("kms", "create-key", *options).out.strip()
    hmac = run("kms", "create-key", "--key-spec", "HMAC_256", "--key-usage", "GENERATE_VERIFY_MAC").out.strip()

    assert described(run, key)["Description"] == "mine"
    assert run("kms", "list-resource-tags", key).out == "TAG  VALUE\na    b\nc    d=e\n"
    assert json.loads(run("kms", "get-key-policy", key).out) == policy
    assert described(run, hmac)["KeySpec"] == "HMAC_256"


def test_tags_policy_and_description_are_changed(run: Run, key: str) -> None:
    """Set, replaced and removed; nothing is printed where there is nothing to say."""
    assert run("kms", "tag-resource", key, "--tags", "a=1", "b=2") == (0, "", "")
    assert run("kms", "tag-resource", key, "--tags", "a=3") == (0, "", "")
    assert run("kms", "untag-resource", key, "--tag-keys", "b") == (0, "", "")
    policy = run("kms", "get-key-policy", key).out.replace("key-default-1", "other")
    assert run("kms", "put-key-policy", key, "--policy", policy) == (0, "", "")
    assert run("kms", "update-key-description", key, "--description", "new") == (0, "", "")

    tags = run("kms", "list-resource-tags", key, "--output", "json").json
    assert tags == {"Tags": [{"TagKey": "a", "TagValue": "3"}]}
    assert json.loads(run("kms", "get-key-policy", key).out)["Id"] == "other"
    assert run("kms", "list-key-policies", key).out == "default\n"
    assert described(run, key)["Description"] == "new"


def test_grants_are_made_listed_and_ended(run: Run, key: str) -> None:
    """create-grant prints the id; list-grants shows what it allows; retire by token, revoke by id."""
    words = ["--grantee-principal", GRANTEE, "--operations", "Decrypt", "DescribeKey"]
    subset = ["--encryption-context-subset", "aws:ebs:id=vol-1"]
    kept = run("kms", "create-grant", key, *words, *subset, "--name", "n", "--retiring-principal", OWNER).out.strip()
    equal = ["--encryption-context-equals", "a=b"]
    made = run("kms", "create-grant", key, *words, *equal, "--output", "json").json

    listed = run("kms", "list-grants", key).out
    assert re.search(rf"^{kept}  n +{GRANTEE}  Decrypt, DescribeKey  aws:ebs:id=vol-1$", listed, re.MULTILINE)
    assert re.search(rf"^{made['GrantId']}  - +{GRANTEE}  Decrypt, DescribeKey  a=b$", listed, re.MULTILINE)
    retirable = run("kms", "list-retirable-grants", "--retiring-principal", OWNER).out
    assert (kept in retirable, made["GrantId"] in retirable) == (True, False)
    assert run("kms", "retire-grant", "--grant-token", made["GrantToken"]) == (0, "", "")
    assert run("kms", "revoke-grant", key, "--grant-id", kept) == (0, "", "")
    assert run("kms", "list-grants", key, "--output", "json").json == {"Grants": []}


def test_a_dry_run_changes_nothing(run: Run, key: str) -> None:
    """--dry-run says that it would succeed, which KMS calls an error, and ends with status 0."""
    words = ["--grantee-principal", GRANTEE, "--operations", "Decrypt"]

    dry = run("kms", "create-grant", key, *words, "--dry-run")

    assert dry == (0, "", "it would succeed\n")
    assert run("kms", "list-grants", key, "--output", "json").json == {"Grants": []}


def test_rotation_is_switched_and_done(run: Run, key: str) -> None:
    """Enabled with a period, shown, done on demand, listed, disabled."""
    assert run("kms", "get-key-rotation-status", key).out == "rotation         disabled\n"
    assert run("kms", "enable-key-rotation", key, "--rotation-period-in-days", "90") == (0, "", "")
    status = run("kms", "get-key-rotation-status", key).out
    assert re.search(r"^rotation +enabled$", status, re.MULTILINE)
    assert re.search(r"^period +90 days$", status, re.MULTILINE)
    assert run("kms", "rotate-key-on-demand", key) == (0, "", "")
    assert ROTATION.search(run("kms", "list-key-rotations", key, "--include-key-material", "ALL_KEY_MATERIAL").out)
    assert run("kms", "disable-key-rotation", key) == (0, "", "")
    assert "disabled" in run("kms", "get-key-rotation-status", key).out


def test_key_material_is_imported_in_one_go(run: Run, external: str, material: str) -> None:
    """From a file, with a time at which it ends; deleted; imported again, for ever."""
    assert described(run, external)["KeyState"] == "PendingImport"

    first = run("kms", "import-key-material", external, "--key-material", material, "--expires", "2027-01-31T12:00:00Z")

    assert re.fullmatch(r"[0-9a-f]{64}\n", first.out)
    metadata = described(run, external)
    assert (metadata["KeyState"], metadata["ValidTo"]) == ("Enabled", "2027-01-31T12:00:00.000Z")
    assert run("kms", "delete-imported-key-material", external).out == first.out
    assert described(run, external)["KeyState"] == "PendingImport"
    run("kms", "create-alias", "--alias-name", "alias/x", "--target-key-id", external)
    again = run("kms", "import-key-material", "--key-id", "alias/x", "--key-material", material)
    assert again.out == first.out
    assert described(run, external)["ExpirationModel"] == "KEY_MATERIAL_DOES_NOT_EXPIRE"


def test_key_material_that_was_wrapped_elsewhere(run: Run, external: str, tmp_path: Path) -> None:
    """What get-parameters-for-import gives is enough for openssl's users, step by step as with AWS."""
    from cryptography.hazmat.primitives.asymmetric import padding  # noqa: PLC0415 - here only
    from cryptography.hazmat.primitives.hashes import SHA256  # noqa: PLC0415 - the same
    from cryptography.hazmat.primitives.serialization import load_der_public_key  # noqa: PLC0415 - the same

    words = ["get-parameters-for-import", external, "--wrapping-key-spec", "RSA_2048"]
    shown = dict(line.split("  ", 1) for line in run("kms", *words).out.splitlines())
    public: Any = load_der_public_key(base64.b64decode(shown["public key"].strip()))
    oaep = padding.OAEP(padding.MGF1(SHA256()), SHA256(), label=None)
    (tmp_path / "wrapped").write_bytes(public.encrypt(bytes(32), oaep))
    (tmp_path / "token").write_bytes(base64.b64decode(shown["import token"].strip()))

    files = ["--encrypted-key-material", f"fileb://{tmp_path}/wrapped", "--import-token", str(tmp_path / "token")]
    ran = run("kms", "import-key-material", external, *files)

    assert ran.status == 0
    assert described(run, external)["KeyState"] == "Enabled"


def test_aliases_of_one_key(run: Run, key: str, external: str) -> None:
    """list-aliases takes a key, or none for all."""
    run("kms", "create-alias", "--alias-name", "alias/one", "--target-key-id", key)
    run("kms", "create-alias", "--alias-name", "alias/two", "--target-key-id", external)

    of_one, of_all = run("kms", "list-aliases", key).out, run("kms", "list-aliases").out

    assert ("alias/one" in of_one, "alias/two" in of_one) == (True, False)
    assert ("alias/one" in of_all, "alias/two" in of_all) == (True, True)
