"""Stacks: volumes, their attachments, KMS keys and aliases as a CloudFormation template says.

`deploy` makes a stack what its template says, changing only what differs; what fails is rolled back. The types are
AWS::EC2::Volume, AWS::EC2::VolumeAttachment, AWS::KMS::Key and AWS::KMS::Alias; docs/stacks.md has the details.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any, Final

from ebscrypt.cli.commands import Parser

_WORDS: Final = {
    "deploy": "create a stack, or update it; prints its id",
    "ls": "list the stacks",
    "show": "show one stack with its resources and outputs",
    "delete": "delete a stack with its resources",
    "continue-update-rollback": "try again to roll back an update whose rollback failed",
}
_HIDDEN: Final = ("settle",)
"""For ourselves, not for people."""


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser, title="commands")
    for name in (*_WORDS, *_HIDDEN):
        module = import_module(f"ebscrypt.cli.stack_{name.replace('-', '_')}")
        told: dict[str, Any] = {"help": _WORDS[name]} if name in _WORDS else {}
        command = commands.add_parser(name, **told, description=module.__doc__)
        module.configure(command)
        command.set_defaults(handler=module.run)


def run(parsed: argparse.Namespace) -> int:
    status: int = parsed.handler(parsed)
    return status
