"""Show one stack: its state, resources, outputs and parameters; with --events what happened to it, newest first.

A deleted stack is found by its id. Parameters with NoEcho are shown as ****.
"""

from __future__ import annotations

import argparse

from ebscrypt.catalog.stack_records import Stack, StackEvent
from ebscrypt.cli import arguments, output, stack_output


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="STACK", help="a stack's name or id")
    parser.add_argument("--events", action="store_true", help="show its events as well")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    with arguments.opened(parsed) as site:
        from ebscrypt.control.stacks.operations import is_under_way  # noqa: PLC0415 - not for --help

        stack = site.catalog.stacks.get(parsed.name)
        events = site.catalog.stacks.events(stack.stack_id) if parsed.events else []
        interrupted = stack.status.in_progress and not is_under_way(site, stack)
        if interrupted:
            site.notes.append(
                "its operation was interrupted: `ebscrypt stack deploy` or `ebscrypt stack delete` goes on"
            )
    if parsed.output == "json":
        told = {"Events": [stack_output.event_record(event) for event in events]} if parsed.events else {}
        output.print_json(stack_output.stack_record(stack) | told)
        return 0
    output.print_fields(stack_output.stack_fields(stack))
    _print_parts(stack, events)
    return 0


def _print_parts(stack: Stack, events: list[StackEvent]) -> None:
    if stack.resources:
        print()
        output.print_table(("RESOURCE", "TYPE", "STATUS", "ID"), stack_output.resource_rows(stack))
    if stack.outputs:
        print()
        rows = [(one.name, one.value, one.export or "-") for one in stack.outputs]
        output.print_table(("OUTPUT", "VALUE", "EXPORT"), rows)
    if events:
        print()
        output.print_table(("TIME", "RESOURCE", "STATUS", "REASON"), stack_output.event_rows(events))
