"""Detach a volume: everything written is durable, the key is wiped, the device is gone. Refused while it is in use.

With --force it is detached although it is in use. File systems on it are synced and unmounted (lazily where they are
busy), clients are cut off: what was flushed is safe, what programs had not written yet is lost.
"""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    parser.add_argument(
        "--force", action="store_true", help="cut off who uses it; never swap, LVM, md or dm-crypt on it"
    )
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.detach import detach_volume  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed) as site:
        volume = detach_volume(site, parsed.volume_id, force=parsed.force)
    if parsed.output == "json":
        output.print_json(output.volume_record(volume))
    else:
        arguments.say(f"{volume.volume_id} is detached", parsed)
    return 0
