"""Snapshots: make, list, show, copy, tag, verify and delete them. Only a copy may need a key.

A snapshot holds the stored bytes of a volume: of an encrypted volume ciphertext, with its data key as KMS wrapped it.
Only blocks that the store does not have yet are written. `ebscrypt create --snapshot-id SNAP` makes a volume of one.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Any, Final

from ebscrypt.cli.commands import Parser

_WORDS: Final = {
    "create": "make a snapshot of a volume; prints its id",
    "ls": "list the snapshots",
    "show": "show one snapshot; wait for it",
    "copy": "make a copy, under the same key or another, in the same store or another; prints its id",
    "tag": "set and remove tags of a snapshot",
    "verify": "read all blocks of snapshots, name what is damaged, and repair it",
    "delete": "delete snapshots, and free what no other one needs",
}
_HIDDEN: Final = ("settle",)
"""For ourselves, not for people."""


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser, title="commands")
    for name in (*_WORDS, *_HIDDEN):
        module = import_module(f"ebscrypt.cli.snapshot_{name.replace('-', '_')}")
        told: dict[str, Any] = {"help": _WORDS[name]} if name in _WORDS else {}
        command = commands.add_parser(name, **told, description=module.__doc__)
        module.configure(command)
        command.set_defaults(handler=module.run)


def run(parsed: argparse.Namespace) -> int:
    status: int = parsed.handler(parsed)
    return status
