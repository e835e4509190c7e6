"""The report of `scripts/bench`: ratios of medians, and goals judged by them."""

from __future__ import annotations

from bench import goals, loads, servers
from bench.loads import Result
from bench.report import Report, bottleneck, markdown
from bench.times import Timing

LOAD = "1 MiB read QD4"


def results(*rates: float, cpu: float = 0.1) -> list[Result]:
    return [Result(rate=rate * (1 << 20), p50=100, p99=200, cpu=cpu) for rate in rates]


def report(own: list[Result], *, peer_rate: float = 100, peer_cpu: float = 1.0) -> Report:
    """One load, all peers alike, with what else a report has."""
    peers = {kind.name: results(peer_rate, cpu=peer_cpu) for kind in servers.NBD}
    timing = {"python -c pass": [Timing("", 0.01, 0.01)], "ebscrypt --help": [Timing("", 0.03, 0.051)]}
    return Report(
        about={"commit": "abc"},
        rates={"NBD, on tmpfs": {LOAD: peers | {"ebscrypt": own}}},
        idle={"ebscrypt": 30 << 10},
        peak={"ebscrypt": 40 << 10},
        times=timing | {"attach": [Timing("", wall, 0.5) for wall in (3.0, 0.8, 0.9)]},
        crowd={"volumes": 2, "memory KiB": 60 << 10, "threads": 4},
    )


def verdicts(found: Report) -> dict[tuple[str, str], str]:
    rows = [line.strip("| ").split(" | ") for line in goals.table(found.rates, found.times, found.idle)[2:]]
    return {(row[0], row[2]): row[4] for row in rows}


def test_a_goal_is_judged_by_the_median() -> None:
    """One slow or fast round decides nothing: 3.0 times the peer in the middle is enough, 2.9 times is not."""
    assert verdicts(report(results(10, 300, 9000)))[LOAD, "≥ 3×"] == "reached"
    assert verdicts(report(results(290, 290, 9000)))[LOAD, "≥ 3×"] == "**not reached**"


def test_every_kind_of_goal_is_judged() -> None:
    """Rates, CPU seconds, commands, attaching and memory each have a row, with its own threshold."""
    found = verdicts(report(results(300, 300), peer_cpu=0.2))

    assert found[LOAD, "≥ 6×"] == "**not reached**"
    assert found[LOAD, "≥ 0.9×"] == "reached"
    assert found[f"CPU s/GiB, {LOAD}", "≤ 0.4×"] == "**not reached**"
    assert found[f"CPU s/GiB, {LOAD}", "≤ 1.15×"] == "reached"
    assert found["ebscrypt --help", "≤ 5×"] == "**not reached**"
    assert found["attach to first byte, embedded KMS", "≤ 1 s"] == "reached"
    assert found["idle resident memory, ebscrypt", "≤ 32 MiB"] == "reached"


def test_the_report_has_every_server_and_its_spread() -> None:
    """A row a server with median, smallest and largest round, and how many times faster the first is."""
    text = markdown(report(results(400, 200, 300)))

    assert "| ebscrypt | 300 | 200–400 | 1.00 | 100 | 200 | 0.10 | " in text
    assert "| nbdkit luks | 100 | 100–100 | 3.00 | 100 | 200 | 1.00 | " in text
    assert "2 volumes attached at once: 30.0 MiB and 2.0 threads for each." in text
    assert "- commit: abc" in text


def test_the_bottleneck_is_named_by_how_busy_the_server_was() -> None:
    """A server that computes all the time is the limit; one that waits is not; at depth one it is the round trip."""
    read = next(load for load in loads.ALL if load.name == LOAD)
    single = next(load for load in loads.ALL if load.depth == 1)

    assert "Bottleneck: the server, busy 0.98" in bottleneck(read, results(1000, cpu=1.0))
    assert "not the server, which is busy 0.10" in bottleneck(read, results(1000, cpu=0.1))
    assert "the round trip" in bottleneck(single, [Result(rate=1000, p50=1, p99=1, cpu=1.0)])
