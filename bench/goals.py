"""What the figures are to be, and whether they are."""

from collections.abc import Callable, Iterable
from statistics import median

from bench.loads import Result
from bench.times import Timing

OWN = "ebscrypt"
PLAIN = ("nbdkit file", "nbdkit file -t 1")
LUKS = ("nbdkit luks", "nbdkit luks -t 1")
QEMU = ("qemu-nbd luks",)
FUSE_PEERS = ("gocryptfs", "nbdfuse over nbdkit luks")
IDLE_KIB = 32 << 10
Loads = dict[str, dict[str, list[Result]]]


def table(rates: dict[str, Loads], times: dict[str, list[Timing]], idle: dict[str, int]) -> list[str]:
    """A row a goal: what, against whom, at least or at most, found, and whether that is enough."""
    rows = [*_nbd(rates.get("NBD, on tmpfs", {})), *_fuse(rates.get("FUSE and loop, on tmpfs", {})), *_commands(times)]
    rows += [
        (f"idle resident memory, {name}", "–", "≤ 32 MiB", f"{idle[name] / 1024:.1f} MiB", idle[name] <= IDLE_KIB)
        for name in ("ebscrypt", "ebscrypt FUSE")
        if name in idle
    ]
    lines = ["| load | against | goal | found | |", "|---|---|---:|---:|---|"]
    return [*lines, *(f"| {a} | {b} | {c} | {d} | {'reached' if e else '**not reached**'} |" for a, b, c, d, e in rows)]


Row = tuple[str, str, str, str, bool]


def _nbd(loads: Loads) -> Iterable[Row]:
    for load in loads:
        if load.startswith("1 MiB") and "connections" not in load:
            yield _at_least(loads, load, LUKS, 3.0)
            yield _at_least(loads, load, QEMU, 6.0)
            yield _at_least(loads, load, PLAIN, 0.9)
        elif load.startswith("4 KiB"):
            if "QD32" in load:
                yield _at_least(loads, load, LUKS + QEMU, 1.5)
            yield _at_least(loads, load, PLAIN, 1.0)
        yield _cpu(loads, load, LUKS + QEMU, 0.4)
        yield _cpu(loads, load, PLAIN, 1.15)


def _fuse(loads: Loads) -> Iterable[Row]:
    for load in loads:
        yield _at_least(loads, load, FUSE_PEERS, 2.0, own="ebscrypt FUSE")


def _at_least(loads: Loads, load: str, peers: tuple[str, ...], goal: float, own: str = OWN) -> Row:
    best = max(_middle(loads[load][peer], lambda result: result.rate) for peer in peers)
    found = _middle(loads[load][own], lambda result: result.rate) / best
    return (load, _named(peers), f"≥ {goal:g}×", f"{found:.2f}×", found >= goal)


def _cpu(loads: Loads, load: str, peers: tuple[str, ...], goal: float) -> Row:
    best = min(_middle(loads[load][peer], lambda result: result.cpu) for peer in peers)
    found = _middle(loads[load][OWN], lambda result: result.cpu) / best if best else 0.0
    return (f"CPU s/GiB, {load}", _named(peers), f"≤ {goal:g}×", f"{found:.2f}×", found <= goal)


def _commands(times: dict[str, list[Timing]]) -> Iterable[Row]:
    for name, goal in (("ebscrypt --help", 5), ("ebscrypt ls, 1,000 volumes", 10)):
        if name in times:
            empty = median(timing.cpu for timing in times["python -c pass"])
            found = median(timing.cpu for timing in times[name]) / empty
            yield (name, "python -c pass (CPU s)", f"≤ {goal}×", f"{found:.1f}×", found <= goal)
    if "attach" in times:
        wall = median(timing.wall for timing in times["attach"])
        yield ("attach to first byte, embedded KMS", "–", "≤ 1 s", f"{wall:.2f} s", wall <= 1)


def _middle(results: list[Result], figure: Callable[[Result], float]) -> float:
    return median(figure(result) for result in results)


def _named(peers: tuple[str, ...]) -> str:
    return peers[0] if len(peers) == 1 else f"best of {', '.join(peers)}"
