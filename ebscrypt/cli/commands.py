"""The table of commands, and the parser over them: only the command that was named is imported."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from importlib import import_module
from typing import Any, Final, NoReturn

from ebscrypt.errors import UsageError

COMMANDS: Final = {
    "create": "make a volume; prints its id",
    "attach": "make a volume a block device; prints the device",
    "detach": "end that; the key is wiped",
    "ls": "list the volumes",
    "show": "show one volume",
    "delete": "delete a volume and its data",
    "resize": "let a volume grow, attached or not",
    "tag": "set and remove tags of a volume",
    "modify": "change what becomes of a volume whose KMS key cannot be used any more",
    "rewrap": "wrap a volume's data key by another KMS key; moves no data",
    "convert": "write one volume's data onto another: plain to encrypted, and back",
    "reencrypt": "give a volume another data key, and turn all of its data",
    "recovery": "add and test a passphrase that opens a volume without KMS",
    "snapshot": "make, list, verify and delete snapshots of volumes",
    "stack": "volumes and keys as a CloudFormation template says",
    "default-encryption": "encryption by default, and the default KMS key",
    "check": "check header, backing and key of a volume",
    "rebuild-catalog": "make the catalog anew from the volumes' headers",
    "events": "list what happened to volumes; follow it",
    "rule": "rules: which events go to which commands, webhooks, buses, topics and queues",
    "audit": "list the requests made to KMS",
    "doctor": "check this machine, and the permissions for a KMS key",
    "kms": "the embedded KMS: keys and aliases; serve it to other programs",
    "api": "the API for AWS clients: serve it, and its access keys",
    "completion": "print a completion script for a shell",
}
HIDDEN: Final = ("attachment", "reencrypting", "fill")
"""For the systemd unit and for other commands, not for people."""
_DESCRIPTION: Final = "Amazon EBS encryption for any Linux machine: encrypted volumes whose keys are in AWS KMS."
_EPILOG: Final = "`ebscrypt COMMAND --help` tells more. Settings: /etc/ebscrypt/config.toml and EBSCRYPT_* variables."


class Parser(argparse.ArgumentParser):
    """argparse, with errors in ebscrypt's own form."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see `{self.prog} --help`")


class _Version(argparse.Action):
    """The installed version, looked up only when asked for: that alone would double the time to start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib import metadata  # noqa: PLC0415 - see above

        try:
            version = metadata.version("ebscrypt")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"ebscrypt {version}")
        parser.exit()


def parse(words: list[str]) -> argparse.Namespace:
    """The arguments as a namespace whose ``run`` is the command's. Raises `UsageError`; exits after help."""
    named = next((word for word in words if not word.startswith("-")), None)
    return build([named] if named in (*COMMANDS, *HIDDEN) else []).parse_args(words)


def build(named: Iterable[str]) -> Parser:
    """The parser that knows all commands by name, and those in ``named`` with their arguments."""
    parser = Parser(prog="ebscrypt", description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(
        metavar="COMMAND", dest="command", required=True, parser_class=Parser, title="commands"
    )
    for name, summary in COMMANDS.items():
        _configure(commands.add_parser(name, help=summary), name, named)
    for name in HIDDEN:
        if name in named:
            _configure(commands.add_parser(name), name, named)
    return parser


def _configure(parser: Parser, name: str, named: Iterable[str]) -> None:
    if name in named:
        module = import_module(f"ebscrypt.cli.{name.replace('-', '_')}")
        parser.description = module.__doc__
        module.configure(parser)
        parser.set_defaults(run=module.run)
