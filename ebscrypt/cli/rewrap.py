"""Have a volume's data key wrapped by another KMS key, or anew by the same one after its rotation; attached or not.

KMS does it (ReEncrypt), and the new wrapped key is proven to open before it takes the old one's place in the header. No
data moves. The data key stays the same: whoever has it, or an old header and the use of the old key, is not locked out.
"""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    parser.add_argument(
        "--kms-key-id",
        metavar="KEY",
        required=True,
        help="key id, ARN, alias/… or alias ARN; the present key is allowed",
    )
    parser.add_argument("--dry-run", action="store_true", help="only check whether KMS would do it")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.describe import describe_volume  # noqa: PLC0415 - not for --help
    from ebscrypt.control.rewrap import rewrap_volume  # noqa: PLC0415 - the same

    with arguments.opened(parsed) as site:
        volume = rewrap_volume(site, parsed.volume_id, parsed.kms_key_id, dry_run=parsed.dry_run)
        if parsed.output == "json":
            output.print_json(output.volume_record(*describe_volume(site, parsed.volume_id)))
        elif parsed.dry_run:
            arguments.say(f"KMS would wrap the data key of {volume.volume_id} by {parsed.kms_key_id}", parsed)
        else:
            arguments.say(f"the data key of {volume.volume_id} is wrapped by {volume.kms_key_arn}", parsed)
    return 0
