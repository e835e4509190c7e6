"""`ebscrypt kms`: the life of a key and its aliases at the command line, and the embedded KMS served."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

import ebscrypt

Run = Callable[..., Any]
SOURCE = Path(ebscrypt.__file__).parents[1]


@pytest.fixture
def key(run: Run) -> str:
    """The ARN of a key, as create-key prints it."""
    arn: str = run("kms", "create-key", "--description", "for tests").out.strip()
    assert re.fullmatch(r"arn:aws:kms:us-east-1:000000000000:key/[0-9a-f-]{36}", arn)
    return arn


def state(run: Run, key: str) -> str:
    metadata: dict[str, str] = run("kms", "describe-key", key, "--output", "json").json["KeyMetadata"]
    return metadata["KeyState"]


def test_a_key_goes_through_its_states(run: Run, key: str) -> None:
    """Disabled, enabled, pending deletion, and after cancelling disabled, as in AWS (facts §5.2)."""
    assert state(run, key) == "Enabled"
    assert run("kms", "disable-key", key) == (0, "", "")
    assert state(run, key) == "Disabled"
    assert run("kms", "enable", "--key-id", key).status == 0
    assert state(run, key) == "Enabled"
    scheduled = run("kms", "schedule-key-deletion", key, "--pending-window-in-days", "7")
    assert "deleted on " in scheduled.err
    assert state(run, key) == "PendingDeletion"
    assert run("kms", "cancel-key-deletion", key).status == 0
    assert state(run, key) == "Disabled"


def test_aliases_are_made_moved_and_removed(run: Run, key: str) -> None:
    """And a key can be named by one where AWS's own operations take none."""
    other = run("kms", "create-key").out.strip()
    run("kms", "create-alias", "--alias-name", "alias/mine", "--target-key-id", key)
    assert run("kms", "disable-key", "alias/mine").status == 0
    assert state(run, key) == "Disabled"
    run("kms", "update-alias", "--alias-name", "alias/mine", "--target-key-id", other)
    assert state(run, "alias/mine") == "Enabled"
    assert "alias/mine" in run("kms", "list-aliases").out

    assert run("kms", "delete-alias", "--alias-name", "alias/mine").status == 0

    assert "alias/mine" not in run("kms", "list-aliases").out


def test_keys_are_listed_with_what_people_look_for(run: Run, key: str) -> None:
    """A table with states and aliases; as JSON what ListKeys gives, all pages of it."""
    run("kms", "create-alias", "--alias-name", "alias/mine", "--target-key-id", key)

    table = run("kms", "ls").out
    listed = run("kms", "list-keys", "--output", "json").json

    assert re.search(rf"^{key.rpartition('/')[2]}  Enabled +for tests +alias/mine$", table, re.MULTILINE)
    assert [entry["KeyArn"] for entry in listed["Keys"]] == [key]


def test_a_key_is_described(run: Run, key: str) -> None:
    """Text for people, and as JSON what DescribeKey gives with times as EC2 prints them."""
    text = run("kms", "describe-key", key).out
    metadata = run("kms", "describe-key", key, "--output", "json").json["KeyMetadata"]

    assert "Enabled" in text
    assert "for tests" in text
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", metadata["CreationDate"])


def test_it_can_be_served_to_boto3(run: Run, key: str) -> None:
    """`kms serve` prints its URL, answers a stock client with the same keys, and ends on SIGTERM."""
    del run
    command = [sys.executable, "-m", "ebscrypt.cli.main", "kms", "serve", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        client = boto3.client(
            "kms", endpoint_url=url, region_name="us-east-1", aws_access_key_id="x", aws_secret_access_key="y"
        )
        described = client.describe_key(KeyId=key)
        client.close()
        server.terminate()
        server.communicate(timeout=30)

    assert url.startswith("http://127.0.0.1:")
    assert described["KeyMetadata"]["Arn"] == key
    assert server.returncode is not None


def test_the_words_work_over_http(run: Run, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the URL of a KMS as endpoint the same commands ask that one, step by step as they would ask AWS."""
    (tmp_path / "material").write_bytes(bytes(range(32)))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "y")
    command = [sys.executable, "-m", "ebscrypt.cli.main", "kms", "serve", "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        monkeypatch.setenv("EBSCRYPT_KMS", server.stdout.readline().strip())
        external = run("kms", "create-key", "--origin", "EXTERNAL").out.strip()
        imported = run("kms", "import-key-material", external, "--key-material", str(tmp_path / "material"))
        tagged = run("kms", "tag-resource", key, "--tags", "a=b")
        tags = run("kms", "list-resource-tags", key).out
        states = [state(run, key), state(run, external)]
        refused = run("kms", "root-key")
        server.terminate()
        server.communicate(timeout=30)

    assert imported.status == tagged.status == 0
    assert tags == "TAG  VALUE\na    b\n"
    assert states == ["Enabled", "Enabled"]
    assert "embedded KMS only" in refused.err


def test_a_served_principal_does_what_a_grant_allows(run: Run, key: str) -> None:
    """--principal gives an access key id to a role: refused, until it has a grant. The trail has both, and the root."""
    role = "arn:aws:iam::000000000000:role/storage"
    command = [sys.executable, "-m", "ebscrypt.cli.main", "kms", "serve", "--port", "0", "--principal", f"AKIA={role}"]
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        region: dict[str, str] = {"endpoint_url": url, "region_name": "us-east-1", "aws_secret_access_key": "x"}
        with closing(boto3.client("kms", aws_access_key_id="AKIA", **region)) as limited:  # type: ignore[call-overload]
            with pytest.raises(ClientError, match="is not authorized"):
                limited.encrypt(KeyId=key, Plaintext=b"secret text")
            run("kms", "create-grant", key, "--grantee-principal", role, "--operations", "Encrypt")
            blob = limited.encrypt(KeyId=key, Plaintext=b"secret text")["CiphertextBlob"]
        with closing(boto3.client("kms", aws_access_key_id="other", **region)) as root:  # type: ignore[call-overload]
            assert root.decrypt(CiphertextBlob=blob)["Plaintext"] == b"secret text"
        server.terminate()
        server.communicate(timeout=30)

    records = [json.loads(line) for line in run("audit", "--output", "json").out.splitlines()]
    refused, allowed, decrypted = [one for one in records if one["eventName"] in ("Encrypt", "Decrypt")]
    assert [one["userIdentity"]["arn"] for one in (refused, allowed)] == [role, role]
    assert (refused["errorCode"], "errorCode" in allowed) == ("AccessDeniedException", False)
    assert decrypted["userIdentity"]["type"] == "Root"
    for one in (refused, allowed, decrypted):
        assert one["sourceIPAddress"] == "127.0.0.1"
        assert "Boto3" in one["userAgent"]
        assert len(one["requestID"]) == 36
        assert "secret" not in json.dumps(one)


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("AKIA", "--principal 'AKIA' has no ="),
        ("=arn:aws:iam::000000000000:role/r", "--principal '' is no access key id"),
        ("a b=arn:aws:iam::000000000000:role/r", "--principal 'a b' is no access key id"),
        ("AKIA=role/r", "--principal AKIA='role/r' does not name a principal"),
        ("AKIA=" + "r" * 10_000, "(10000 characters) does not name a principal"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_principals_that_cannot_be(word: str, text: str, run: Run) -> None:
    """Refused as usage before anything is served, naming the flag and the value."""
    ran = run("kms", "serve", "--port", "0", "--principal", word)

    assert (ran.status, ran.out) == (2, "")
    assert text in ran.err
    assert len(ran.err) < 400


def test_only_the_embedded_kms_can_be_served(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS has servers of its own."""
    monkeypatch.setenv("EBSCRYPT_KMS", "aws")

    ran = run("kms", "serve", "--port", "0")

    assert ran.status == 2
    assert "embedded KMS only" in ran.err
