"""Delete a stack with its resources, each by its DeletionPolicy: deleted, kept, or kept as a snapshot.

A KMS key is deleted after its waiting period. A volume that is mounted is not detached: the stack is DELETE_FAILED
then; unmount it and delete again.
"""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output, stack_output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="STACK", help="a stack's name or id")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    with arguments.opened(parsed) as site:
        from ebscrypt.control.stacks.operations import delete_stack  # noqa: PLC0415 - not for --help

        stack = delete_stack(site, parsed.name, told=stack_output.teller(parsed))
    if parsed.output == "json":
        output.print_json(stack_output.stack_record(stack))
    return 0
