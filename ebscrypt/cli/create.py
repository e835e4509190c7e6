"""Make a volume and print its id.

It is encrypted unless --no-encrypted is given; its data key is made by KMS and kept in its header, wrapped. The KMS key
is the account and Region's default unless --kms-key-id names one: see `ebscrypt default-encryption`.

With --snapshot-id it holds what the snapshot holds, and is as large unless --size says more. Of an encrypted snapshot
it has the KMS key unless --kms-key-id names another: then it gets a data key of its own, and every block is turned to
it. The command returns when all blocks are there; with --lazy at once, and blocks come when they are first used, and in
the background: `ebscrypt show` tells how far that is.
"""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output
from ebscrypt.cli.progress import ProgressLine
from ebscrypt.model import SECTOR_SIZES, OnKeyUnusable


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_size(parser, required=False, text="size, for example 10G; without it all of an existing --backing")
    parser.add_argument("--type", default="gp3", dest="volume_type", help="EC2's volume type, a label here (gp3)")
    parser.add_argument(
        "--encrypted", action=argparse.BooleanOptionalAction, default=True, help="encrypt the volume (the default)"
    )
    parser.add_argument("--kms-key-id", metavar="KEY", help="key id, ARN, alias/… or alias ARN (the default key)")
    parser.add_argument("--snapshot-id", metavar="SNAP", help="the snapshot that the volume begins with")
    parser.add_argument(
        "--backing", metavar="PATH", help="a file or an empty block device, instead of a file of our own"
    )
    parser.add_argument("--force", action="store_true", help="take a --backing that is not empty: its content is lost")
    parser.add_argument(
        "--preallocate", action="store_true", help="reserve a file's space at once instead of when used"
    )
    parser.add_argument(
        "--sector-size",
        type=int,
        choices=SECTOR_SIZES,
        help="bytes enciphered at once (4096, or as in the snapshot)",
    )
    parser.add_argument(
        "--lazy", action="store_true", help="with --snapshot-id: do not wait until the snapshot's blocks are there"
    )
    arguments.add_on_key_unusable(parser, required=False)
    parser.add_argument("--tag", metavar="KEY=VALUE", action="append", default=[], help="a tag; may be repeated")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.create import VolumeRequest, create_volume  # noqa: PLC0415 - not for --help
    from ebscrypt.control.defaults import refuse_plain  # noqa: PLC0415 - the same

    request = VolumeRequest(
        size=parsed.size,
        encrypted=parsed.encrypted,
        kms_key_id=parsed.kms_key_id,
        volume_type=parsed.volume_type,
        snapshot_id=parsed.snapshot_id,
        sector_size=parsed.sector_size,
        backing=parsed.backing,
        force=parsed.force,
        preallocate=parsed.preallocate,
        lazy=parsed.lazy,
        on_key_unusable=OnKeyUnusable(parsed.on_key_unusable),
        tags=arguments.tags(parsed.tag),
    )
    with arguments.opened(parsed) as site:
        if not parsed.encrypted:
            refuse_plain(site)
        with ProgressLine() as line:
            volume = create_volume(site, request, told=line.show)
    if parsed.output == "json":
        output.print_json(output.volume_record(volume))
    else:
        print(volume.volume_id)
    return 0
