"""Read all blocks of snapshots and their manifests, and name what is damaged: all snapshots, or those named.

With --repair-from what is damaged is put back from another store that has it. Exit status 1 when damage remains. At the
end, what no snapshot needs is freed.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ebscrypt.cli import arguments, output
from ebscrypt.cli.progress import ProgressLine
from ebscrypt.cli.snapshot_delete import swept
from ebscrypt.model import format_size

if TYPE_CHECKING:
    from ebscrypt.control.verify_snapshots import Damage, Verified


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("snapshot_ids", metavar="SNAP", nargs="*", help="snapshot ids; without any, all snapshots")
    parser.add_argument("--repair-from", metavar="STORE", help="a store's name or URL with a copy of what is damaged")
    parser.add_argument("--no-sweep", action="store_true", help="free nothing at the end")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.verify_snapshots import verify_snapshot  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed) as site:
        with ProgressLine() as line:
            found = verify_snapshot(
                site,
                parsed.snapshot_ids,
                repair_from=parsed.repair_from,
                progress=lambda now: line.show(now.size, None),
            )
        freed = [] if parsed.no_sweep else swept(site, dict.fromkeys(found.stores))
    if parsed.output == "json":
        output.print_json(_record(found) | {"Swept": freed})
    else:
        _print(found)
    return 1 if any(not damage.repaired for damage in found.damage) else 0


def _record(found: Verified) -> dict[str, Any]:
    return {
        "Snapshots": found.snapshots,
        "Blocks": found.blocks,
        "Bytes": found.size,
        "Damage": [
            {"SnapshotId": one.snapshot_id, "BlockIndex": one.block, "Message": one.message, "Repaired": one.repaired}
            for one in found.damage
        ],
        "UnknownSnapshotIds": found.foreign,
    }


def _print(found: Verified) -> None:
    for damage in found.damage:
        print(_line(damage))
    for snapshot_id in found.foreign:
        print(f"{snapshot_id}  is in a store, but not in the catalog")
    sound = "all sound" if not found.damage else f"{len(found.damage)} damaged"
    print(f"{found.snapshots} snapshots, {found.blocks} blocks, {format_size(found.size)} read: {sound}")


def _line(damage: Damage) -> str:
    place = "manifest" if damage.block is None else f"block {damage.block}"
    return f"{damage.snapshot_id}  {place}: {damage.message}" + (" (repaired)" if damage.repaired else "")
