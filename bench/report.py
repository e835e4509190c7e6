"""Medians, spreads and ratios as tables."""

from statistics import median

from bench.loads import Load, Result
from bench.servers import Server

Measured = dict[tuple[type[Server], Load], list[Result]]


def middle(results: list[Result], what: str) -> float:
    """The median of one figure."""
    figures: list[float] = [getattr(result, what) for result in results]
    return median(figures)


def table(measured: Measured, load: Load, servers: list[type[Server]]) -> list[str]:
    """One load: a row a server; the last column is how many times faster ebscrypt is than that server."""
    unit, scale = ("requests/s", 1.0) if load.by_rate else ("MiB/s", float(1 << 20))
    lines = [
        f"{load.name}",
        f"  {'server':<18}{unit:>12}{'min–max':>18}{'p50 µs':>9}{'p99 µs':>9}{'CPU s/GiB':>11}{'ebscrypt':>10}",
    ]
    own = middle(measured[servers[0], load], "rate")
    for server in servers:
        results = measured[server, load]
        rates = sorted(result.rate / scale for result in results)
        spread = f"{rates[0]:.0f}–{rates[-1]:.0f}"
        lines.append(
            f"  {server.name:<18}{middle(results, 'rate') / scale:>12.0f}{spread:>18}{middle(results, 'p50'):>9.0f}"
            f"{middle(results, 'p99'):>9.0f}{middle(results, 'cpu'):>11.2f}{own / middle(results, 'rate'):>9.2f}×"
        )
    return [*lines, ""]
