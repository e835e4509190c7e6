"""Do what a pending snapshot or a deletion that has begun still needs. Not for people: other commands start it."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, snapshot_output


def configure(parser: argparse.ArgumentParser) -> None:
    snapshot_output.add_snapshot(parser)
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.storing import settle_snapshot  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed, recovering=False) as site:
        settle_snapshot(site, parsed.snapshot_id)
    return 0
