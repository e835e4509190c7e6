"""Do what a re-encryption that has begun still needs. Not for people: other commands start it."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.reencrypting import settle_reencryption  # noqa: PLC0415 - not for --help
    from ebscrypt.core import harden_process  # noqa: PLC0415 - the same
    from ebscrypt.model import check_volume_id  # noqa: PLC0415 - the same

    # It works on plaintext for as long as it runs: no core file, and nobody looks in.
    harden_process(lock_memory=False, io_flusher=False)
    with arguments.opened(parsed, recovering=False) as site:
        settle_reencryption(site, check_volume_id(parsed.volume_id))
    return 0
