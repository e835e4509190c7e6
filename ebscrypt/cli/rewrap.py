"""Have the data key of a volume or snapshot wrapped by another KMS key, or anew by the same one after its rotation.

KMS does it (ReEncrypt), and the new wrapped key is proven to open before it takes the old one's place. A volume may be
attached; no data moves. The data key stays the same: whoever has it, or an old header or manifest and the use of the
old key, is not locked out.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ebscrypt.cli import arguments, output, snapshot_output

if TYPE_CHECKING:
    from ebscrypt.control.site import Site


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("resource_id", metavar="VOL|SNAP", help="a volume id, vol-…, or a snapshot id, snap-…")
    parser.add_argument(
        "--kms-key-id",
        metavar="KEY",
        required=True,
        help="key id, ARN, alias/… or alias ARN; the present key is allowed",
    )
    parser.add_argument("--dry-run", action="store_true", help="only check whether KMS would do it")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    with arguments.opened(parsed) as site:
        rewrap = _snapshot if parsed.resource_id.startswith("snap-") else _volume
        key_arn, record = rewrap(site, parsed)
        if parsed.output == "json":
            output.print_json(record)
        elif parsed.dry_run:
            arguments.say(f"KMS would wrap the data key of {parsed.resource_id} by {parsed.kms_key_id}", parsed)
        else:
            arguments.say(f"the data key of {parsed.resource_id} is wrapped by {key_arn}", parsed)
    return 0


def _volume(site: Site, parsed: argparse.Namespace) -> tuple[str | None, dict[str, Any]]:
    from ebscrypt.control.describe import describe_volume  # noqa: PLC0415 - not for --help
    from ebscrypt.control.rewrap import rewrap_volume  # noqa: PLC0415 - the same

    volume = rewrap_volume(site, parsed.resource_id, parsed.kms_key_id, dry_run=parsed.dry_run)
    return volume.kms_key_arn, output.volume_record(*describe_volume(site, volume.volume_id))


def _snapshot(site: Site, parsed: argparse.Namespace) -> tuple[str | None, dict[str, Any]]:
    from ebscrypt.control.rewrap_snapshot import rewrap_snapshot  # noqa: PLC0415 - not for --help

    snapshot = rewrap_snapshot(site, parsed.resource_id, parsed.kms_key_id, dry_run=parsed.dry_run)
    return snapshot.kms_key_arn, snapshot_output.snapshot_record(snapshot)
