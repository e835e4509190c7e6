"""List the events of volumes, oldest first; wait for new ones with --follow.

With --output json each line is one EventBridge event. Text shows sequence number, time, event, result, what it is
about, and the cause.
"""

from __future__ import annotations

import argparse
import json
import select
import sys
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.cli import arguments
from ebscrypt.errors import CatalogError, InvalidParameter

if TYPE_CHECKING:
    from ebscrypt.catalog.catalog import Catalog
    from ebscrypt.control.site import Site

_LIMIT: Final = 1000
_PAGE: Final = 500
"""Events that are read at once, however many there are."""
_PAUSE_MS: Final = 500
"""Between two looks at the catalog; one takes a fraction of a millisecond."""
_MOST_FAILURES: Final = 10
"""Looks in a row that may fail before following does."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--follow", action="store_true", help="go on with new events as they come")
    parser.add_argument(
        "--after", metavar="EVENT", help="only events after this one: its sequence number, or its id as JSON shows it"
    )
    parser.add_argument(
        "--limit",
        metavar="N",
        type=_count,
        default=_LIMIT,
        help=f"at most so many events, the newest, or with --after the oldest ({_LIMIT}); new ones are not counted",
    )
    arguments.add_output(parser)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise InvalidParameter(f"--limit {text[:40]!r} is not a number of events")
    return int(text)


def run(parsed: argparse.Namespace) -> int:
    with arguments.opened(parsed) as site:
        if parsed.after is None:
            events = site.catalog.newest_events(parsed.limit)
            last = events[-1][0] if events else site.catalog.newest_sequence()
        else:
            last = _sequence(site.catalog, parsed.after)
            events = site.catalog.events(last, parsed.limit)
            last = events[-1][0] if events else last
        _print(events, parsed)
        if parsed.follow:
            _follow(site, last, parsed)
    return 0


def _sequence(catalog: Catalog, text: str) -> int:
    if text.isdecimal() and len(text) <= 18:
        return int(text)
    if (sequence := catalog.sequence_of(text)) is None:
        raise InvalidParameter(
            f"--after {text[:60]!r} is no event of this catalog", hint="it may have been removed: see events.keep"
        )
    return sequence


def _follow(site: Site, last: int, parsed: argparse.Namespace) -> None:
    """Print events as they come, until interrupted or until nobody reads them any more."""
    reader = select.poll()
    reader.register(sys.stdout.fileno(), 0)
    inode, failed = _inode(site), 0
    while not reader.poll(_PAUSE_MS):
        if (found := _inode(site)) is None:
            continue  # rebuild-catalog is about to put a new one in its place
        if found != inode:
            site.forget_catalog()
            inode, last = found, 0  # the new one counts from 1
        try:
            while events := site.catalog.events(last, _PAGE):
                _print(events, parsed)
                last = events[-1][0]
        except CatalogError:
            # It may be in the making, or held by a command for longer than a reader waits.
            failed += 1
            if failed > _MOST_FAILURES:
                raise
        else:
            failed = 0


def _inode(site: Site) -> int | None:
    try:
        return site.settings.catalog_path.stat().st_ino
    except FileNotFoundError:
        return None


def _print(events: list[tuple[int, dict[str, Any]]], parsed: argparse.Namespace) -> None:
    for sequence, event in events:
        print(json.dumps(event, ensure_ascii=False) if parsed.output == "json" else _line(sequence, event))
    sys.stdout.flush()


def _line(sequence: int, event: dict[str, Any]) -> str:
    detail = event.get("detail", {})
    about = event["resources"][0].rpartition("/")[2] if event.get("resources") else "-"
    words = [f"{sequence:>6}", event["time"], detail.get("event", "-"), detail.get("result", "-"), about]
    line = "  ".join(map(str, words))
    line = f"{line}  {detail['cause']}" if detail.get("cause") else line
    # A cause quotes what KMS said: it must not be able to steer a terminal.
    return "".join(character if character.isprintable() else "�" for character in line)
