"""Write one volume's data onto another: from plain to encrypted, from encrypted to plain, or under another KMS key.

Both must be detached, and the target at least as large. The source stays as it is. A target that holds data is refused
without --overwrite. When it is done the target's id is printed; look at the target, then delete the source.
"""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output
from ebscrypt.cli.progress import ProgressLine


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    parser.add_argument("--to", metavar="NEWVOL", required=True, help="the volume that is written to")
    parser.add_argument("--overwrite", action="store_true", help="replace what the target holds")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.convert import convert_volume  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed) as site, ProgressLine() as line:
        target = convert_volume(site, parsed.volume_id, parsed.to, overwrite=parsed.overwrite, told=line.show)
    if parsed.output == "json":
        output.print_json(output.volume_record(target))
    else:
        print(target.volume_id)
    return 0
