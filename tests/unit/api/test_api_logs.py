"""The server's log: what a line has, and that nobody waits for it."""

from __future__ import annotations

import json
import logging
import os

import pytest

from ebscrypt.api.logs import JsonLines, Unhindered


def record(text: str) -> logging.LogRecord:
    return logging.LogRecord("ebscrypt.api", logging.INFO, __file__, 1, text, None, None)


def test_a_line_has_the_fields_and_no_text_of_an_exception() -> None:
    """Fields stand beside the message; of an exception there is the type and where it was, not what it quotes."""
    with pytest.raises(ValueError, match="hunter2") as caught:
        int("hunter2")
    about = (ValueError, caught.value, caught.value.__traceback__)
    told = logging.LogRecord("x", logging.ERROR, __file__, 1, "id", None, about)
    told.fields = {"status": 500}
    line = json.loads(JsonLines().format(told))
    assert (line["message"], line["status"], line["exception"], line["level"]) == ("id", 500, "ValueError", "error")
    assert "test_api_logs.py" in line["places"][0]
    assert "hunter2" not in str(line)


def test_a_pipe_that_nobody_reads_keeps_nobody_waiting() -> None:
    """More lines than pipe and queue hold return at once; later lines are whole, and say how many are missing."""
    reading, writing = os.pipe()
    handler = Unhindered(writing, most_waiting=10)
    handler.setFormatter(JsonLines())
    for number in range(2000):
        handler.emit(record(f"{number} {'x' * 1000}"))
    assert handler.dropped > 1000  # a pipe has 64 KiB
    said = b""
    while not said.endswith(b"\n") or said.count(b"\n") < 2000 - handler.dropped:
        said += os.read(reading, 1 << 20)
    handler.emit(record("at last"))
    handler.close()
    os.close(writing)
    while part := os.read(reading, 1 << 20):
        said += part
    os.close(reading)
    lines = [json.loads(line) for line in said.splitlines()]
    assert lines[-1]["message"] == "at last"
    assert sum(line.get("dropped_before", 0) for line in lines) == handler.dropped
    assert len(lines) == 2001 - handler.dropped


def test_a_reader_that_has_gone_is_no_error() -> None:
    """Lines for a pipe that was closed are lost, and nothing else is."""
    reading, writing = os.pipe()
    os.close(reading)
    handler = Unhindered(writing)
    handler.setFormatter(JsonLines())
    handler.emit(record("one"))
    handler.emit(record("two"))
    handler.close()
    os.close(writing)
    assert handler.dropped == 0


def test_the_end_does_not_wait_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing a log whose pipe is full gives up soon."""
    monkeypatch.setattr("ebscrypt.api.logs._PATIENCE", 0.05)
    reading, writing = os.pipe()
    handler = Unhindered(writing, most_waiting=2)
    handler.setFormatter(JsonLines())
    for _ in range(100):
        handler.emit(record("x" * 4000))
    handler.close()
    os.set_blocking(reading, False)
    while handler._writer.is_alive():  # its descriptor may be closed only when it is done
        try:
            os.read(reading, 1 << 20)
        except BlockingIOError:
            handler._writer.join(0.01)
        if handler._waiting.empty():
            handler._waiting.put(None)
    os.close(reading)
    os.close(writing)
