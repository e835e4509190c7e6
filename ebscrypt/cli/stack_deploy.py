"""Make a stack what a template says, and print the stack's id.

A stack that is not there is created, one that is there is updated; where nothing differs, nothing is done. What happens
is told on stderr. If a resource fails, all that was done is taken back, and the command ends with 1.

Parameters that are not given keep the values that the stack has, else their defaults. --dry-run only says what would be
done.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ebscrypt.cli import arguments, output, stack_output
from ebscrypt.errors import InvalidParameter

if TYPE_CHECKING:
    from ebscrypt.control.site import Site

_LARGEST = 1_000_001


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("template", metavar="TEMPLATE", help="a file with YAML or JSON, or - for stdin")
    parser.add_argument("--name", required=True, metavar="STACK", help="the stack's name")
    parser.add_argument(
        "--parameter", metavar="KEY=VALUE", action="append", default=[], help="a parameter's value; may be repeated"
    )
    parser.add_argument(
        "--tag", metavar="KEY=VALUE", action="append", help="a tag for all resources; may be repeated (as it was)"
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be changed")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    parameters = _parameters(parsed.parameter)
    tags = None if parsed.tag is None else arguments.tags(parsed.tag)
    text = _text(parsed.template)
    with arguments.opened(parsed) as site:
        from ebscrypt.control.stacks import operations  # noqa: PLC0415 - not for --help

        if parsed.dry_run:
            return _preview(site, parsed, text, parameters, tags)
        done = operations.deploy_stack(
            site, parsed.name, text, parameters=parameters, tags=tags, told=stack_output.teller(parsed)
        )
        if not done.changed:
            site.notes.append(f"{parsed.name}: {operations.NO_UPDATES}")
    if parsed.output == "json":
        output.print_json(stack_output.stack_record(done.stack))
    else:
        print(done.stack.stack_id)
    return 0


def _preview(
    site: Site, parsed: argparse.Namespace, text: str, parameters: dict[str, str], tags: dict[str, str] | None
) -> int:
    from ebscrypt.control.stacks import operations  # noqa: PLC0415 - not for --help

    stack = site.catalog.stacks.find(operations.check_stack_name(parsed.name))
    wanted = operations.wanted_of(stack, text, parameters, tags)
    changes = operations.preview(site, parsed.name, stack, wanted).changes
    if parsed.output == "json":
        output.print_json({"Changes": [stack_output.change_record(change) for change in changes]})
    else:
        stack_output.print_changes(changes)
    return 0


def _parameters(words: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InvalidParameter("a --parameter has no =", hint="write --parameter Key=value")
        if key in found:
            raise InvalidParameter(f"the parameter {key[:80]!r} is given twice")
        found[key] = value
    return found


def _text(name: str) -> str:
    """The template's text. One byte more than is allowed is enough to refuse it."""
    try:
        if name == "-":
            return sys.stdin.buffer.read(_LARGEST).decode()
        with Path(name).open("rb") as file:
            return file.read(_LARGEST).decode()
    except OSError as error:
        raise InvalidParameter(f"cannot read the template {name}: {os.strerror(error.errno or 0)}") from None
    except UnicodeDecodeError:
        raise InvalidParameter(f"the template {name} is not UTF-8 text") from None
