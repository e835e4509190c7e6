"""List the stacks. A deleted stack is kept as a record for 90 days: --deleted lists those as well."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output, stack_output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--deleted", action="store_true", help="list the deleted ones as well")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    with arguments.opened(parsed) as site:
        stacks = site.catalog.stacks.all(deleted=parsed.deleted)
    if parsed.output == "json":
        output.print_json({"Stacks": [stack_output.stack_record(stack) for stack in stacks]})
    elif stacks:
        rows = [
            (stack.name, stack.status.value, str(len(stack.resources)), output.timestamp(stack.create_time))
            for stack in stacks
        ]
        output.print_table(("STACK", "STATUS", "RESOURCES", "CREATED"), rows)
    return 0
