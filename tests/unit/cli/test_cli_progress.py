"""The progress line: bytes, rate and time left on a terminal, and silence anywhere else."""

from __future__ import annotations

import io

import pytest

from ebscrypt.cli.progress import ProgressLine, duration, told
from ebscrypt.model import GIB, MIB


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_bytes_rate_and_time_left() -> None:
    """The rate is that of the last ten seconds; the line is drawn anew each time, and gone at the end."""
    terminal, now = Terminal(), [0.0]
    with ProgressLine(terminal, clock=lambda: now[0]) as line:
        for second in range(4):
            now[0] = float(second)
            line.show(second * 256 * MIB, GIB)

    drawn = terminal.getvalue().split("\r")[1:]
    assert drawn[0].startswith("0 %  0 B of 1 GiB\x1b[K")
    assert drawn[3].startswith("75 %  768 MiB of 1 GiB  256 MiB/s  1 s left")
    assert drawn[4] == "\x1b[K"


def test_an_old_rate_is_forgotten() -> None:
    """After a slow start the time left is that of now."""
    terminal, now = Terminal(), [0.0]
    with ProgressLine(terminal, clock=lambda: now[0]) as line:
        line.show(0, GIB)
        for second in range(100, 105):
            now[0] = float(second)
            line.show((second - 100) * 100 * MIB, GIB)

    assert "100 MiB/s" in terminal.getvalue().split("\r")[-2]


def test_a_pipe_sees_nothing() -> None:
    """Not a byte."""
    pipe = io.StringIO()
    with ProgressLine(pipe) as line:
        line.show(1, 2)
    assert pipe.getvalue() == ""


def test_what_is_not_known_is_not_said() -> None:
    """No total: no per cent and no time left. No rate yet: no time left. A stall: no endless time."""
    assert told(MIB, None, None) == "1 MiB"
    assert told(MIB, None, 2 * MIB) == "1 MiB  2 MiB/s"
    assert told(MIB, 4 * MIB, None) == "25 %  1 MiB of 4 MiB"
    assert told(MIB, 4 * MIB, 0.0) == "25 %  1 MiB of 4 MiB"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "0 s"), (59.4, "59 s"), (60, "1 min 0 s"), (3599, "59 min 59 s"), (7800, "2 h 10 min")]
)
def test_a_time_is_said_as_people_do(seconds: float, text: str) -> None:
    """The two largest units."""
    assert duration(seconds) == text
