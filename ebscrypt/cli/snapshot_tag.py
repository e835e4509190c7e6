"""Set and remove tags of a snapshot; others stay. `snapshot ls` shows the tag Name."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output, snapshot_output
from ebscrypt.errors import InvalidParameter


def configure(parser: argparse.ArgumentParser) -> None:
    snapshot_output.add_snapshot(parser)
    parser.add_argument("tags", metavar="KEY=VALUE", nargs="*", help="a tag to set")
    parser.add_argument("--remove", metavar="KEY", action="append", default=[], help="a tag to remove; may be repeated")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.snapshots import tag_snapshot  # noqa: PLC0415 - not for --help

    tags = arguments.tags(parsed.tags)
    if not tags and not parsed.remove:
        raise InvalidParameter("there is no tag to set or remove", hint="write KEY=VALUE, or --remove KEY")
    with arguments.opened(parsed) as site:
        snapshot = tag_snapshot(site, parsed.snapshot_id, tags, remove=parsed.remove)
    if parsed.output == "json":
        output.print_json(snapshot_output.snapshot_record(snapshot))
    return 0
