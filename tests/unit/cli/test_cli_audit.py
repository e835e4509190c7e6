"""`ebscrypt audit`: filters, tables, JSON lines, what cannot be, and following."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ebscrypt

Run = Callable[..., Any]
VOLUMES = ("vol-00000000000000001", "vol-00000000000000002")
KEYS = tuple(f"arn:aws:kms:us-east-1:000000000000:key/1234abcd-12ab-34cd-56ef-00000000000{n}" for n in (1, 2))


def record(number: int, name: str, **more: Any) -> dict[str, Any]:
    """A record of the hour ``number`` on the first of May, about a volume and a key by turns."""
    told: dict[str, Any] = {
        "eventTime": f"2026-05-01T{number:02d}:00:00Z",
        "eventName": name,
        "requestParameters": {"keyId": "alias/mine", "encryptionContext": {"aws:ebs:id": VOLUMES[number % 2]}},
        "resources": [{"ARN": KEYS[number % 2], "type": "AWS::KMS::Key", "accountId": "000000000000"}],
        "additionalEventData": {},
        "requestID": f"r{number}",
    }
    return told | more


GRANT = {
    "requestParameters": {"constraints": {"encryptionContextSubset": {"aws:ebs:id": VOLUMES[1]}}},
    "responseElements": {"grantId": "g1"},
}
RECORDS = [
    record(0, "CreateKey", requestParameters={"description": "x"}),
    record(1, "GenerateDataKeyWithoutPlaintext"),
    record(2, "Decrypt", errorCode="DisabledException", errorMessage="it is disabled."),
    record(3, "CreateGrant", **GRANT),
    record(4, "Decrypt", errorCode="DryRunOperationException", errorMessage="would have"),
    record(5, "RetireGrant", requestParameters=None, additionalEventData={"grantId": "g1"}),
    record(
        6, "ReEncrypt", requestParameters={"destinationEncryptionContext": {"aws:ebs:id": "snap-00000000000000001"}}
    ),
    record(7, "Decrypt", errorCode="KmsUnreachable", errorMessage="\x1b[31mno\nanswer"),
]


@pytest.fixture
def trail(tmp_path: Path) -> Path:
    """The file with these records."""
    path = tmp_path / "state" / "audit" / "kms.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in RECORDS))
    return path


@pytest.mark.parametrize(
    ("words", "numbers"),
    [
        ([], [0, 1, 2, 3, 4, 5, 6, 7]),
        ([VOLUMES[1]], [1, 3, 5, 7]),
        (["--resource-id", VOLUMES[0]], [2, 4]),
        (["--resource-id", "snap-00000000000000001"], [6]),
        (["--key-id", KEYS[0]], [0, 2, 4, 6]),
        (["--key-id", KEYS[1].rpartition("/")[2]], [1, 3, 5, 7]),
        (["--key-id", "alias/mine"], [1, 2, 4, 7]),
        (["--event-name", "decrypt"], [2, 4, 7]),
        (["--error"], [2, 7]),
        (["--since", "2026-05-01T05:00:00Z"], [5, 6, 7]),
        (["--since", "2026-05-01T07:00:00+02:00"], [5, 6, 7]),
        (["--since", "2026-05-01T05:00:00"], [5, 6, 7]),
        (["--until", "2026-05-01T01:00:00Z"], [0, 1]),
        (["--since", "2026-05-01", "--until", "2026-05-02"], [0, 1, 2, 3, 4, 5, 6, 7]),
        (["--until", "1h"], [0, 1, 2, 3, 4, 5, 6, 7]),
        (["--since", "1s"], []),
        (["--limit", "2"], [6, 7]),
        (["--limit", "0"], []),
        ([VOLUMES[1], "--event-name", "RetireGrant"], [5]),
        ([VOLUMES[1], "--error", "--limit", "1"], [7]),
    ],
    ids=lambda value: " ".join(value) if value and isinstance(value[0], str) else None,
)
def test_filters(words: list[str], numbers: list[int], run: Run, trail: Path) -> None:
    """Each filter alone and together, oldest first; JSON gives each record as it was written."""
    assert trail.exists()

    ran = run("audit", *words, "--output", "json")

    assert [json.loads(line) for line in ran.out.splitlines()] == [RECORDS[number] for number in numbers]
    assert (ran.status, ran.err) == (0, "")


def test_the_table(run: Run, trail: Path) -> None:
    """A line a record: time, event, key, volume, error; nothing in it can steer a terminal."""
    assert trail.exists()

    lines = run("audit").out.splitlines()

    assert len(lines) == len(RECORDS)
    key = KEYS[0].rpartition("/")[2]
    assert lines[2].split() == [
        "2026-05-01T02:00:00Z", "Decrypt", key, VOLUMES[0], "DisabledException:", "it", "is", "disabled.",
    ]  # fmt: skip
    assert lines[4].endswith("(dry run: would have succeeded)")
    assert VOLUMES[1] in lines[5]  # by its grant
    assert lines[7].endswith("KmsUnreachable: �[31mno�answer")


def test_requests_are_there_at_once(run: Run) -> None:
    """What the command line asks of KMS is in the trail when it ends."""
    key = run("kms", "create-key").out.strip()

    (told,) = (json.loads(line) for line in run("audit", "--output", "json").out.splitlines())

    assert told["eventName"] == "CreateKey"
    assert told["resources"][0]["ARN"] == key


def test_a_trail_that_cannot_be_written_is_told(run: Run, trail: Path) -> None:
    """The command does its work, and one note says that it left no record."""
    trail.unlink()
    trail.mkdir()

    ran = run("create", "--size", "1M")

    assert ran.status == 0
    assert ran.out.startswith("vol-")
    assert ran.err.count("note: requests to KMS leave no record in ") == 1


def test_no_trail_yet(run: Run) -> None:
    """Before the first request there is nothing to list, and nothing is made by looking."""
    assert run("audit") == (0, "", "")


@pytest.mark.parametrize("tail", ["{broken\n", "{unfinished", "not JSON\n"])
def test_broken_lines_are_told(tail: str, run: Run, trail: Path) -> None:
    """They are left out with a note on stderr, and everything else is listed."""
    with trail.open("a") as file:
        file.write(tail)

    ran = run("audit")
    as_json = run("audit", "--output", "json")

    assert (ran.status, len(ran.out.splitlines())) == (0, len(RECORDS))
    assert ran.err.startswith("note: one line of the audit files is no record")
    assert "no record" in json.loads(as_json.err)["Note"]


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"requestParameters": 7, "resources": 7, "additionalEventData": [], "eventTime": 7},
        {"resources": [7, {}, {"ARN": 7}], "requestParameters": {"encryptionContext": "x", "constraints": 7}},
        {"eventTime": None, "eventName": None, "errorCode": 7, "responseElements": "x"},
    ],
)
def test_odd_records_are_listed(odd: dict[str, Any], run: Run, trail: Path) -> None:
    """A record of another shape, such as a newer version's, breaks no filter and no table."""
    trail.write_text(json.dumps(odd) + "\n")

    assert len(run("audit").out.splitlines()) == 1
    for filters in (["--error"], [VOLUMES[0]], ["--key-id", KEYS[0]], ["--since", "1d"], ["--event-name", "x"]):
        assert run("audit", *filters).status == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["vol-1"], "is not a volume id"),
        (["--resource-id", "i-0123456789abcdef0"], "is not a volume id"),
        ([VOLUMES[0], "--resource-id", VOLUMES[0]], "give one of them"),
        (["--since", "yesterday"], "--since 'yesterday' is not a time"),
        (["--until", "2026-13-01"], "--until '2026-13-01' is not a time"),
        (["--since", "9" * 5000], "is not a time"),
        (["--since", "999999w"], "is not a time"),
        (["--key-id", "arn:aws:kms:us-east-1:1:key/x"], "--key-id 'arn:aws:kms:us-east-1:1:key/x' does not name a KMS"),
        (["--key-id", "x" * 10_000], "(10000 characters) does not name a KMS key"),
        (["--event-name", "Decrypt; rm"], "--event-name 'Decrypt; rm' is not the name of an operation"),
        (["--event-name", "x" * 10_000], "is not the name of an operation"),
        (["--limit", "-1"], "is not a number"),
        (["--limit", "x" * 10_000], "is not a number"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be(words: list[str], text: str, run: Run) -> None:
    """Refused as usage, in few words."""
    ran = run("audit", *words)

    assert ran.status == 2
    assert text in ran.err
    assert len(ran.err) < 400


def test_following(trail: Path, tmp_path: Path) -> None:
    """With --follow records come as they are written, also after the file was turned over; it ends with its reader."""
    command = [
        sys.executable,
        "-m",
        "ebscrypt.cli.main",
        "audit",
        "--follow",
        "--event-name",
        "Encrypt",
        "--output",
        "json",
    ]
    environment = {
        "EBSCRYPT_STATE_DIR": str(tmp_path / "state"),
        "EBSCRYPT_CONFIG": os.devnull,
        "PYTHONPATH": str(Path(ebscrypt.__file__).parents[1]),
    }
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        try:
            assert process.stdout is not None
            for number in (1, 2):
                if number == 2:
                    trail.rename(trail.with_name("kms.jsonl.1"))
                with trail.open("a") as file:
                    file.write(json.dumps(record(number, "Encrypt")) + "\n")
                assert select.select([process.stdout], [], [], 60)[0]
                assert json.loads(process.stdout.readline()) == record(number, "Encrypt")
            process.stdout.close()
            assert process.wait(60) == 0
        finally:
            process.kill()
