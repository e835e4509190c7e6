"""Delete a volume and its data.

The wrapped key is overwritten, so nobody can ever open it again; the file is removed. A block device or a file that was
named with --backing stays, without its header.
"""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output
from ebscrypt.model import VolumeState


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.delete import delete_volume  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed) as site:
        delete_volume(site, parsed.volume_id)
    if parsed.output == "json":
        output.print_json({"VolumeId": parsed.volume_id, "State": VolumeState.DELETED.value})
    else:
        arguments.say(f"{parsed.volume_id} is deleted", parsed)
    return 0
