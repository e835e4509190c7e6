"""The steps around the daemon that ebscrypt@.service runs: prepare, commit, stop, clean. Not for people."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("step", choices=("prepare", "commit", "stop", "clean"))
    arguments.add_volume(parser)
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.unit import run_step  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed, recovering=False) as site:
        run_step(site, parsed.step, parsed.volume_id)
    return 0
