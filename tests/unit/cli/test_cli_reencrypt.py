"""`ebscrypt reencrypt`: what it says, and what `show` tells meanwhile."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from ebscrypt.control import background, reencrypting

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def unstarted(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that would go on in the background."""
    words: list[list[str]] = []
    monkeypatch.setattr(background, "start", lambda _site, command, **_told: words.append(command))
    return words


def test_it_returns_at_once_and_show_tells(run: Run, unstarted: list[list[str]]) -> None:
    """The work goes on in the background; `show`, `ls` and the command itself say how far it is."""
    volume_id = run("create", "--size", "1G").out.strip()

    begun = run("reencrypt", volume_id)

    assert (begun.status, begun.out) == (0, "")
    assert re.search(
        rf"{volume_id} is being re-encrypted: 0\b.* of 1 GiB; `ebscrypt reencrypt {volume_id} --wait`", begun.err
    )
    assert unstarted == [["reencrypting", volume_id]]
    found = run("reencrypt", volume_id, "--output", "json").json
    assert (found["BytesDone"], found["BytesTotal"], found["Failure"]) == (0, 1 << 30, None)
    assert run("show", volume_id, "--output", "json").json["Reencryption"] == found
    assert run("ls", "--output", "json").json["Volumes"][0]["Reencryption"] == found
    assert "0 % has a new data key" in run("show", volume_id).out
    assert "is being re-encrypted" in run("attach", volume_id).err


def test_waiting_ends_with_the_new_key(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """--wait returns when all is turned; the hidden command is what does it."""
    volume_id = run("create", "--size", "1G").out.strip()
    monkeypatch.setattr(reencrypting, "start", reencrypting.settle_reencryption)

    waited = run("reencrypt", volume_id, "--wait", "--throttle", "100M")

    assert waited.status == 0
    assert f"{volume_id} has a new data key, wrapped by arn:aws:kms:" in waited.err
    assert run("show", volume_id, "--output", "json").json["Reencryption"] is None


@pytest.mark.parametrize("rate", ["0", "-1", "quick"])
def test_a_rate_that_is_none(run: Run, rate: str) -> None:
    """Refused before anything is looked at."""
    assert run("reencrypt", "vol-0123456789abcdef0", f"--throttle={rate}").status in (1, 2)
