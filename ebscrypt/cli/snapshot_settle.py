"""Do what a pending snapshot or a deletion that has begun still needs. Not for people: other commands start it."""

from __future__ import annotations

import argparse
import os
from typing import Final

from ebscrypt.cli import arguments, snapshot_output

_NICE: Final = 10


def configure(parser: argparse.ArgumentParser) -> None:
    snapshot_output.add_snapshot(parser)
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.storing import settle_snapshot  # noqa: PLC0415 - not for --help

    # Whoever uses the volume, and whatever else runs here, comes first.
    os.nice(_NICE)
    with arguments.opened(parsed, recovering=False) as site:
        settle_snapshot(site, parsed.snapshot_id)
    return 0
