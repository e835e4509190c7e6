"""Attach a volume and print its device: /dev/nbdN, /dev/loopN, a file, or an nbd+unix URI. KMS unwraps its key."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output
from ebscrypt.model import ExportKind


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    parser.add_argument(
        "--export",
        choices=[kind.value for kind in ExportKind],
        help="auto: nbd, else fuse with a loop device, else socket (the setting attach.export)",
    )
    parser.add_argument("--read-only", action="store_true", help="let nobody write to it")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.attach import attach_volume  # noqa: PLC0415 - not for --help

    export = None if parsed.export is None else ExportKind(parsed.export)
    with arguments.opened(parsed) as site:
        attachment = attach_volume(site, parsed.volume_id, export=export, read_only=parsed.read_only)
    if parsed.output == "json":
        output.print_json(output.attached_record(attachment))
    else:
        print(attachment.device)
    return 0
