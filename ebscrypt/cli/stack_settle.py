"""Do what is under way with a stack. Not for people: other commands start it."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="STACK", help="a stack's id")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    with arguments.opened(parsed, recovering=False) as site:
        from ebscrypt.control.stacks.requests import settle_stack  # noqa: PLC0415 - not for --help

        settle_stack(site, parsed.name)
    return 0
