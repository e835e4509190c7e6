"""What the deliverer writes down: whole lines, in bounded files."""

from __future__ import annotations

import json

import pytest

from ebscrypt.config import Settings
from ebscrypt.events import records


def test_half_a_line_of_a_power_cut_spoils_no_letter(settings: Settings) -> None:
    """The next letter begins a line of its own."""
    records.write_dead_letter(settings, "r", {"n": 1})
    path = records.dead_letters_path(settings, "r")
    path.write_bytes(path.read_bytes() + b'{"Time": "20')

    records.write_dead_letter(settings, "r", {"n": 2})

    assert json.loads(path.read_text().splitlines()[-1])["n"] == 2


def test_the_log_is_bounded(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is set aside once when it is full."""
    monkeypatch.setattr(records, "LARGEST_LOG", 1000)
    settings.events_dir.mkdir(parents=True)

    for number in range(100):
        records.write_log(settings, {"n": number})

    sizes = {path.name: path.stat().st_size for path in settings.events_dir.iterdir()}
    assert set(sizes) == {"deliver.log", "deliver.log.1"}
    assert max(sizes.values()) < 1100
    assert json.loads(records.log_path(settings).read_text().splitlines()[-1])["n"] == 99
