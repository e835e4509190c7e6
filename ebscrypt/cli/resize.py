"""Let a volume grow, attached or not; it never shrinks.

Grow the file system on it afterwards: resize2fs, xfs_growfs, btrfs filesystem resize.
"""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output
from ebscrypt.model import format_size


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    arguments.add_size(parser, required=True, text="the new size, for example 20G")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.resize import resize_volume  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed) as site:
        volume = resize_volume(site, parsed.volume_id, parsed.size)
    if parsed.output == "json":
        output.print_json(output.volume_record(volume))
    else:
        arguments.say(f"{volume.volume_id} has {format_size(volume.size)}", parsed)
    return 0
