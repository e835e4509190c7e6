"""Show one snapshot: state, progress, size, key and store.

With --wait it waits until the snapshot is completed; one that ends in an error is an error then.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ebscrypt.cli import arguments, output, snapshot_output
from ebscrypt.cli.progress import ProgressLine
from ebscrypt.errors import StateError

if TYPE_CHECKING:
    from ebscrypt.control.site import Site
    from ebscrypt.model import Snapshot


def configure(parser: argparse.ArgumentParser) -> None:
    snapshot_output.add_snapshot(parser)
    add_wait(parser)
    arguments.add_output(parser)


def add_wait(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="wait until it is completed, with progress on a terminal")


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.describe import describe_snapshot  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed) as site:
        snapshot = describe_snapshot(site, parsed.snapshot_id)
        if parsed.wait:
            snapshot = waited(site, parsed.snapshot_id)
    if parsed.output == "json":
        output.print_json(snapshot_output.snapshot_record(snapshot))
    else:
        output.print_fields(snapshot_output.snapshot_fields(snapshot))
    return 0


def waited(site: Site, snapshot_id: str) -> Snapshot:
    """The snapshot once it is completed. Raises `StateError` when it ended in ``error``."""
    from ebscrypt.control.storing import wait_for_snapshot  # noqa: PLC0415 - not for --help
    from ebscrypt.model import SnapshotState  # noqa: PLC0415 - the same

    with ProgressLine() as line:
        snapshot = wait_for_snapshot(site, snapshot_id, lambda now: line.show(now.bytes_done, now.bytes_total or None))
    if snapshot.state is SnapshotState.ERROR:
        raise StateError(
            f"snapshot {snapshot_id} has failed: {snapshot.state_message}",
            hint=f"`ebscrypt snapshot delete {snapshot_id}` removes its record",
        )
    return snapshot
