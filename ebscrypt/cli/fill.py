"""Fetch the blocks that a volume still lacks of its snapshot. Not for people: other commands start it."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.filling import fill_volume  # noqa: PLC0415 - not for --help
    from ebscrypt.core import harden_process  # noqa: PLC0415 - the same

    # It may have round keys for as long as it works: no core file, and nobody looks in.
    harden_process(lock_memory=False, io_flusher=False)
    with arguments.opened(parsed, recovering=False) as site:
        fill_volume(site, parsed.volume_id)
    return 0
