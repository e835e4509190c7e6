"""Make the catalog anew from the volumes in the state directory and the given places, and from the snapshot stores.

Each volume says in its header what it is, each snapshot in its manifest. Those that the catalog has stay; a volume
whose backing moved is found again. Tags are in neither and are lost with a catalog.
"""

from __future__ import annotations

import argparse

import msgspec

from ebscrypt.cli import arguments, output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", help="a backing file, a block device, or a directory of them"
    )
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.rebuild import Outcome, rebuild_catalog  # noqa: PLC0415 - not for --help
    from ebscrypt.control.rebuild_snapshots import rebuild_snapshots  # noqa: PLC0415 - the same

    with arguments.opened(parsed, recovering=False) as site:
        found = [*rebuild_catalog(site, parsed.paths), *rebuild_snapshots(site)]
    refused = any(place.result is Outcome.REFUSED for place in found)
    if parsed.output == "json":
        output.print_json({"Found": [msgspec.to_builtins(place) for place in found]})
    else:
        rows = [
            (place.result.value, place.volume_id or place.snapshot_id or "-", place.path, place.message or "")
            for place in found
        ]
        output.print_table(("RESULT", "VOLUME OR SNAPSHOT", "PATH", ""), rows)
    return 1 if refused else 0
