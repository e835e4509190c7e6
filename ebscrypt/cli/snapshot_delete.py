"""Delete snapshots, and free the blocks that no other one needs.

Other snapshots and the volumes made from them lose nothing. A snapshot that is pending is given up. Blocks younger than
stores.grace (an hour) stay until a later deletion or verification.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ebscrypt.cli import arguments, output
from ebscrypt.errors import StoreError
from ebscrypt.model import format_size

if TYPE_CHECKING:
    from ebscrypt.control.site import Site


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("snapshot_ids", metavar="SNAP", nargs="+", help="snapshot ids, snap-…")
    parser.add_argument(
        "--force", action="store_true", help="forget them even if their store cannot be reached; what it has is left"
    )
    parser.add_argument("--no-sweep", action="store_true", help="leave freeing their blocks to a later deletion")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.snapshots import delete_snapshot  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed) as site:
        stores = []
        for snapshot_id in parsed.snapshot_ids:
            stores.append(delete_snapshot(site, snapshot_id, force=parsed.force).store)
            if parsed.output == "text":
                arguments.say(f"{snapshot_id} is deleted", parsed)
        freed = [] if parsed.no_sweep else swept(site, dict.fromkeys(stores))
    if parsed.output == "json":
        output.print_json({"SnapshotIds": parsed.snapshot_ids, "Swept": freed})
    return 0


def swept(site: Site, names: dict[str, None]) -> list[dict[str, Any]]:
    """Sweep these stores; what was freed in each. A store that cannot be swept now becomes a note."""
    from ebscrypt.control.snapshots import sweep_store  # noqa: PLC0415 - not for --help

    done = []
    for name in names:
        try:
            found = sweep_store(site, name)
        except StoreError as error:
            site.notes.append(f"the store {name} was not swept: {error.message}")
            continue
        done.append(
            {"Store": name, "BlocksFreed": found.freed, "BytesFreed": found.freed_bytes, "BlocksYoung": found.young}
        )
        if found.freed:
            site.notes.append(f"{format_size(found.freed_bytes)} were freed in the store {name}")
        if found.young:
            site.notes.append(
                f"{found.young} blocks that no snapshot needs are too young to be freed in the store {name}"
            )
    return done
