"""How `ebscrypt` fails: one line, one hint, the right exit status, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.cli import arguments

Run = Callable[..., Any]
UNKNOWN = "vol-00000000000000000"
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        ([], 2, "required"),
        (["explode"], 2, "explode"),
        (["create", "--size", "ten"], 2, "not a size"),
        (["create", "--size", "0"], 2, "not positive"),
        (["create", "--size", "10"], 2, "--size 10 means 10 bytes"),
        (["create", "--size", "1000000B"], 2, "not a multiple"),
        (["create", "--siz", "1G"], 2, "--siz"),
        (["create"], 2, "size is missing"),
        (["create", "--size", "1G", "--tag", "novalue"], 2, "not a tag"),
        (["create", "--size", "1G", "--tag", "a=1", "--tag", "a=2"], 2, "given twice"),
        (
            ["create", "--size", "1G", "--no-encrypted", "--kms-key-id", "alias/x"],
            2,
            "requires the parameter Encrypted",
        ),
        (["default-encryption", "set-key", "nonsense"], 2, "KmsKeyId"),
        (["default-encryption", "set-key", "alias/" + "x" * 10_000], 2, "KmsKeyId"),
        (["default-encryption"], 2, "COMMAND"),
        (["create", "--size", "1G", "--kms-key-id", "alias/nobody"], 1, "alias/nobody"),
        (["show", "vol-xyz"], 2, "not a volume id"),
        (["show", UNKNOWN], 1, "does not exist"),
        (["attach", UNKNOWN], 1, "does not exist"),
        (["detach", UNKNOWN], 1, "does not exist"),
        (["delete", UNKNOWN], 1, "does not exist"),
        (["resize", UNKNOWN, "--size", "1G"], 1, "does not exist"),
        (["tag", UNKNOWN, "a=b"], 1, "does not exist"),
        (["tag", UNKNOWN], 2, "no tag"),
        (["check", UNKNOWN], 1, "does not exist"),
        (["attachment", "prepare", UNKNOWN], 1, "does not exist"),
        (["kms", "describe-key"], 2, "name one KEY"),
        (["kms", "describe-key", "nonsense"], 2, "nonsense"),
    ],
)
def test_bad_input_is_one_line_and_a_hint(run: Run, words: list[str], status: int, text: str) -> None:
    """``ebscrypt: error: …`` and ``hint: …`` on stderr; stdout stays empty."""
    ran = run(*words)

    first, *rest = ran.err.splitlines()
    assert ran.status == status
    assert ran.out == ""
    assert first.startswith("ebscrypt: error: ")
    assert text in first
    assert all(line.startswith("hint: ") for line in rest)


def test_with_json_an_error_is_its_record(run: Run) -> None:
    """One JSON line on stderr with class, EC2 code, message and hint; also for a mistake in the arguments."""
    ran = run("show", UNKNOWN, "--output", "json")
    usage = run("show", "--output=json")

    assert (ran.status, ran.out) == (1, "")
    assert json.loads(ran.err)["Code"] == "InvalidVolume.NotFound"
    assert set(json.loads(ran.err)) == {"Error", "Code", "Message", "Hint"}
    assert json.loads(usage.err)["Error"] == "UsageError"
    assert usage.status == 2


def test_a_wrong_setting_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Misspelt variables are not ignored."""
    monkeypatch.setenv("EBSCRYPT_KMS_REGOIN", "x")

    ran = run("ls")

    assert ran.status == 2
    assert "EBSCRYPT_KMS_REGOIN" in ran.err


def test_a_state_directory_of_another_user_asks_for_sudo(run: Run, tmp_path: Path) -> None:
    """Not a traceback, whatever the command."""
    run("create", "--size", "1G")
    for directory in (tmp_path, *list(tmp_path.parents)[:-1]):
        if directory.stat().st_uid == 0 and directory != Path("/tmp"):  # noqa: S108 - pytest's own place
            directory.chmod(0o755)
    source = str(Path(arguments.__file__).parents[2])
    for words in (["ls"], ["create", "--size", "1G"], ["kms", "list-keys"]):
        ran = subprocess.run(
            [*AS_NOBODY, sys.executable, "-m", "ebscrypt.cli.main", *words],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1"},
        )

        assert ran.returncode == 1
        assert ran.stderr.startswith("ebscrypt: error: ")
        assert "sudo" in ran.stderr or "root" in ran.stderr
        assert "Traceback" not in ran.stderr


def test_ctrl_c_ends_quietly(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """130, as shells expect, and no traceback."""

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(arguments, "opened", interrupt)

    assert run("ls") == (130, "", "")


def test_a_reader_that_goes_away_ends_quietly(run: Run) -> None:
    """`ebscrypt ls | head -0`: no traceback."""
    run("create", "--size", "1G")
    source = str(Path(arguments.__file__).parents[2])
    reading, writing = os.pipe()
    os.close(reading)
    try:
        ran = subprocess.run(
            [sys.executable, "-m", "ebscrypt.cli.main", "ls"],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
            env=os.environ | {"PYTHONPATH": source},
        )
    finally:
        os.close(writing)

    assert (ran.returncode, ran.stderr) == (141, b"")
