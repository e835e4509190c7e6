"""Make a snapshot of a volume as it is now, and print its id.

The command returns at once; the blocks are stored in the background, also after logout. --wait waits for that. An
attached volume may be written to meanwhile: all writes that completed before the call are in the snapshot, none that
came after. It can be detached before its blocks are stored with --force only. A detached volume can neither be attached
nor deleted before that. Where the changes since the last snapshot are known only these are read; only what the store
does not have yet is written.

The instant is like a power cut to a mounted file system, which its journal gets over. With --freeze it is as after an
unmount: file systems that are mounted of the volume write everything out first, and wait until the instant is fixed.
"""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output, snapshot_output, snapshot_show


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    parser.add_argument("--description", metavar="TEXT", default="", help="what it is for, up to 255 characters")
    parser.add_argument("--tag", metavar="KEY=VALUE", action="append", default=[], help="a tag; may be repeated")
    parser.add_argument("--store", metavar="STORE", help="a store's name or URL (stores.default)")
    parser.add_argument("--freeze", action="store_true", help="freeze the mounted file systems around the instant")
    snapshot_show.add_wait(parser)
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.snapshots import create_snapshot  # noqa: PLC0415 - not for --help

    tags = arguments.tags(parsed.tag)
    with arguments.opened(parsed) as site:
        snapshot = create_snapshot(
            site,
            parsed.volume_id,
            description=parsed.description,
            tags=tags,
            store=parsed.store,
            freeze=parsed.freeze,
        )
        if parsed.output == "text":
            print(snapshot.snapshot_id, flush=True)
        if parsed.wait:
            snapshot = snapshot_show.waited(site, snapshot.snapshot_id)
    if parsed.output == "json":
        output.print_json(snapshot_output.snapshot_record(snapshot))
    return 0
