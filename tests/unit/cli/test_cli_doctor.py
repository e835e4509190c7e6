"""`ebscrypt doctor`: what it prints for people and as JSON, and its exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.fixture
def key(run: Run) -> str:
    created: str = run("kms", "create-key").out.strip()
    return created


def test_a_machine_that_is_fit(run: Run) -> None:
    """Each finding is a line with its level, each hint one below; warnings do not make it fail."""
    ran = run("doctor")

    lines = ran.out.splitlines()
    assert ran.status == 0
    assert any(line.startswith("ok") and " memory: " in line for line in lines)
    assert all(line.split()[0] in ("ok", "warning", "hint:") for line in lines)


def test_a_problem_is_exit_status_1(run: Run, tmp_path: Path, key: str) -> None:
    """What would fail or is open to others."""
    assert key
    (tmp_path / "state" / "kms" / "root.key").chmod(0o644)

    ran = run("doctor")

    assert ran.status == 1
    assert "problem  root key: " in ran.out


def test_a_key_is_tried_and_the_policies_printed(run: Run, key: str) -> None:
    """The trials, then both policies as JSON that can be pasted, then why they do not name EC2."""
    ran = run("doctor", "--kms-key-id", key)

    assert ran.status == 0
    assert f"\n{key}, as arn:aws:iam::000000000000:root\n" in ran.out
    for operation in ("GenerateDataKeyWithoutPlaintext", "Decrypt", "ReEncrypt", "CreateGrant"):
        assert f"{operation}: would be allowed" in ran.out
    policy = ran.out[ran.out.index("\n{") : ran.out.index("\n}\n") + 2]
    assert json.loads(policy)["Statement"][0] == {
        "Sid": "EbscryptFindsTheKey",
        "Effect": "Allow",
        "Action": "kms:DescribeKey",
        "Resource": key,
    }
    statements = ran.out[ran.out.index("\n[") : ran.out.index("\n]\n") + 2]
    assert [one["Sid"] for one in json.loads(statements)][1:] == ["EbscryptUsesTheKey", "EbscryptGrantsAttachments"]
    assert "kms:ViaService" in ran.out.splitlines()[-1]


def test_as_json(run: Run, key: str) -> None:
    """The same as one object: whether all is well, findings, and what belongs to the key."""
    run("kms", "disable-key", key)

    ran = run("doctor", "--kms-key-id", key, "--output", "json")

    told = ran.json
    assert (ran.status, told["Sound"]) == (1, False)
    assert {"Check", "Level", "Message", "Hint"} == set(told["Findings"][0])
    assert told["Key"]["KmsKeyId"] == key
    assert told["Key"]["Findings"][-1]["Level"] == "problem"
    assert "enable-key" in told["Key"]["Findings"][-1]["Hint"]
    assert set(told["Key"]) == {"KmsKeyId", "Caller", "Findings", "IamPolicy", "KeyPolicyStatements"}
    assert "Key" not in run("doctor", "--output", "json").json


@pytest.mark.parametrize(
    "name", ["x" * 10_000, "arn:aws:kms:", "arn:aws:kms:us-west-2:000000000000:alias/x", "alias/x\x1b[31m"]
)
def test_names_that_cannot_be(name: str, run: Run) -> None:
    """A key that cannot be one here is refused by its field, as usage."""
    ran = run("doctor", "--kms-key-id", name)

    assert ran.status == 2
    assert "KmsKeyId" in ran.err
    assert len(ran.err) < 500
    assert "\x1b" not in ran.err


def test_the_trials_are_in_the_trail(run: Run, key: str) -> None:
    """Doctor's own requests are recorded like all others."""
    run("doctor", "--kms-key-id", key)

    names = [json.loads(line)["eventName"] for line in run("audit", "--output", "json").out.splitlines()]

    assert names == [
        "CreateKey",
        "DescribeKey",
        "GenerateDataKeyWithoutPlaintext",
        "GenerateDataKeyWithoutPlaintext",
        "Decrypt",
        "ReEncrypt",
        "CreateGrant",
        "RetireGrant",
    ]
