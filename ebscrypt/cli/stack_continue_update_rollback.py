"""Try again to roll back an update whose rollback failed. Repair first what its events name."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output, stack_output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="STACK", help="a stack's name")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    with arguments.opened(parsed) as site:
        from ebscrypt.control.stacks.operations import continue_update_rollback  # noqa: PLC0415 - not for --help

        stack = continue_update_rollback(site, parsed.name, told=stack_output.teller(parsed))
    if parsed.output == "json":
        output.print_json(stack_output.stack_record(stack))
    return 0
