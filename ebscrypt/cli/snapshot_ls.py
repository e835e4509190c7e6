"""List the snapshots, oldest first; those of one volume with --volume."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output, snapshot_output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--volume", metavar="VOL", help="only those of this volume, which may be gone")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.describe import describe_snapshots  # noqa: PLC0415 - not for --help
    from ebscrypt.model import check_volume_id  # noqa: PLC0415 - the same

    volume_id = None if parsed.volume is None else check_volume_id(parsed.volume)
    with arguments.opened(parsed) as site:
        found = describe_snapshots(site, volume_id=volume_id)
    if parsed.output == "json":
        output.print_json({"Snapshots": [snapshot_output.snapshot_record(snapshot) for snapshot in found]})
    elif found:
        output.print_table(snapshot_output.HEADS, [snapshot_output.snapshot_row(snapshot) for snapshot in found])
    return 0
