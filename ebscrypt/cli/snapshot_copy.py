"""Make a copy of a snapshot, and print its id. The command returns when all blocks are there.

A copy stands alone: deleting its source takes nothing from it. An encrypted snapshot has encrypted copies only, and a
copy does not keep its source's KMS key by itself: without --kms-key-id it is under the default key (see `ebscrypt
default-encryption`). Under the KMS key of the source the data key stays and no block is made anew; under another one
the copy has a data key of its own, and every block is turned to it. Tags and description are not taken over. With
--region the copy is made in the catalog, the store and under the KMS of another Region; key and store are named there.
"""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output, snapshot_output
from ebscrypt.cli.progress import ProgressLine


def configure(parser: argparse.ArgumentParser) -> None:
    snapshot_output.add_snapshot(parser)
    parser.add_argument("--encrypted", action="store_true", help="encrypt the copy of a plain snapshot")
    parser.add_argument(
        "--kms-key-id", metavar="KEY", help="key id, ARN, alias/… or alias ARN (the default key); says --encrypted, too"
    )
    parser.add_argument("--description", metavar="TEXT", default="", help="what it is for, up to 255 characters")
    parser.add_argument("--tag", metavar="KEY=VALUE", action="append", default=[], help="a tag; may be repeated")
    parser.add_argument("--store", metavar="STORE", help="a store's name or URL (where the snapshot is)")
    parser.add_argument("--region", metavar="REGION", help="make the copy there; [regions] names each one's settings")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control import regions  # noqa: PLC0415 - not for --help
    from ebscrypt.control.copy_snapshot import CopyRequest, copy_snapshot  # noqa: PLC0415 - the same

    request = CopyRequest(
        source_snapshot_id=parsed.snapshot_id,
        encrypted=True if parsed.encrypted or parsed.kms_key_id is not None else None,
        kms_key_id=parsed.kms_key_id,
        description=parsed.description,
        store=parsed.store,
        tags=arguments.tags(parsed.tag),
    )
    with (
        arguments.opened(parsed) as site,
        regions.site_of(site, parsed.region or site.settings.kms.region) as target,
        ProgressLine() as line,
    ):
        copy = copy_snapshot(target, request, source_site=site, told=line.show)
    if parsed.output == "json":
        output.print_json(snapshot_output.snapshot_record(copy))
    else:
        print(copy.snapshot_id)
    return 0
