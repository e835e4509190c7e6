"""`ebscrypt kms`: the life of a key and its aliases at the command line, and the embedded KMS served."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import pytest

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


def test_only_the_embedded_kms_can_be_served(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS has servers of its own."""
    monkeypatch.setenv("EBSCRYPT_KMS", "aws")

    ran = run("kms", "serve", "--port", "0")

    assert ran.status == 2
    assert "only the embedded KMS" in ran.err
