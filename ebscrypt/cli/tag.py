"""Set and remove tags of a volume; others stay. `ls` shows the tag Name."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output
from ebscrypt.errors import InvalidParameter


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    parser.add_argument("tags", metavar="KEY=VALUE", nargs="*", help="a tag to set")
    parser.add_argument("--remove", metavar="KEY", action="append", default=[], help="a tag to remove; may be repeated")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.tags import tag_volume  # noqa: PLC0415 - not for --help

    tags = arguments.tags(parsed.tags)
    if not tags and not parsed.remove:
        raise InvalidParameter("there is no tag to set or remove", hint="write KEY=VALUE, or --remove KEY")
    with arguments.opened(parsed) as site:
        volume = tag_volume(site, parsed.volume_id, tags, remove=parsed.remove)
    if parsed.output == "json":
        output.print_json(output.volume_record(volume))
    return 0
