"""A passphrase that opens a volume where there is no KMS, with nothing but cryptsetup.

Whoever has the passphrase and the backing needs no KMS key, and is not locked out by disabling one: keep it where you
would keep the data itself. The steps for the day on which it is needed are in docs/recovery.md.
"""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ebscrypt.cli import arguments, output
from ebscrypt.cli.commands import Parser
from ebscrypt.errors import InvalidParameter, MissingDependency
from ebscrypt.model import KIB, format_size

if TYPE_CHECKING:
    from ebscrypt.control.recovery import Keyslot
    from ebscrypt.control.site import Site

_Handler = Callable[["Site", argparse.Namespace], None]
_LONGEST_LINE = 64 * 1024


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser, title="commands")

    def add(name: str, handler: _Handler, text: str) -> Parser:
        command: Parser = commands.add_parser(name, help=text, description=text)
        command.set_defaults(handler=handler)
        arguments.add_volume(command)
        arguments.add_output(command)
        return command

    made = add("add", _add, "add a passphrase; KMS decrypts the data key once for it").add_mutually_exclusive_group()
    _add_file(made)
    made.add_argument("--generate", action="store_true", help="make a strong passphrase and print it, this one time")
    test = add("test", _test, "try a passphrase; prints the keyslot that it opens")
    _add_file(test)
    _add_keyslot(test, required=False, text="try this keyslot only")
    add("ls", _ls, "list the keyslots that open the volume, whoever made them")
    _add_keyslot(
        add("remove", _remove, "remove a passphrase"), required=True, text="which: `recovery ls` and test tell"
    )


def _add_file(group: argparse._ActionsContainer) -> None:
    group.add_argument(
        "--passphrase-file",
        metavar="FILE",
        help="its first line is the passphrase, - is standard input; without it you are asked",
    )


def _add_keyslot(parser: argparse.ArgumentParser, *, required: bool, text: str) -> None:
    parser.add_argument("--keyslot", metavar="N", type=int, required=required, help=text)


def run(parsed: argparse.Namespace) -> int:
    with arguments.opened(parsed) as site:
        parsed.handler(site, parsed)
    return 0


def _add(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.control import recovery  # noqa: PLC0415 - not for --help

    # Refused before anybody is asked for a passphrase.
    recovery.list_keyslots(site, parsed.volume_id)
    made = recovery.generate_passphrase() if parsed.generate else None
    passphrase = _passphrase(parsed, new=True) if made is None else made.encode()
    keyslot = recovery.add_recovery_passphrase(site, parsed.volume_id, passphrase)
    if parsed.output == "json":
        told = {"VolumeId": parsed.volume_id, "Keyslot": keyslot}
        output.print_json(told if made is None else told | {"Passphrase": made})
        return
    if made is not None:
        print(made)
        sys.stdout.flush()
        arguments.say("write this passphrase down and keep it offline: it is not shown again", parsed)
    arguments.say(
        f"keyslot {keyslot} of {parsed.volume_id} opens by the passphrase; try it: "
        f"`ebscrypt recovery test {parsed.volume_id}`",
        parsed,
    )


def _test(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.control import recovery  # noqa: PLC0415 - the same

    recovery.list_keyslots(site, parsed.volume_id)
    passphrase = _passphrase(parsed, new=False)
    found = recovery.try_recovery_passphrase(site, parsed.volume_id, passphrase, keyslot=parsed.keyslot)
    if parsed.output == "json":
        output.print_json({"VolumeId": parsed.volume_id, "Keyslot": found})
    else:
        print(found)
        arguments.say(f"the passphrase opens keyslot {found} of {parsed.volume_id}", parsed)


def _ls(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.control import recovery  # noqa: PLC0415 - the same

    slots = recovery.list_keyslots(site, parsed.volume_id)
    if parsed.output == "json":
        output.print_json({"VolumeId": parsed.volume_id, "Keyslots": [_record(slot) for slot in slots]})
        return
    rows = [(str(slot.keyslot), _kdf(slot), ", ".join(slot.tokens) or "passphrase") for slot in slots]
    output.print_table(("KEYSLOT", "KEY DERIVATION", "OPENED BY"), rows)


def _record(slot: Keyslot) -> dict[str, object]:
    memory = None if slot.memory is None else slot.memory * KIB
    return {"Keyslot": slot.keyslot, "Kdf": slot.kdf, "MemoryBytes": memory, "Tokens": slot.tokens}


def _kdf(slot: Keyslot) -> str:
    return slot.kdf if slot.memory is None else f"{slot.kdf}, {format_size(slot.memory * KIB)}"


def _remove(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.control import recovery  # noqa: PLC0415 - the same

    recovery.remove_keyslot(site, parsed.volume_id, parsed.keyslot)
    if parsed.output == "json":
        output.print_json({"VolumeId": parsed.volume_id, "Keyslot": parsed.keyslot})
    else:
        arguments.say(f"keyslot {parsed.keyslot} of {parsed.volume_id} is removed", parsed)


def _passphrase(parsed: argparse.Namespace, *, new: bool) -> bytes:
    """The passphrase: a file's first line without its end, or what is typed; a new one is typed twice."""
    if parsed.passphrase_file is not None:
        return _first_line(parsed.passphrase_file)
    if not sys.stdin.isatty():
        raise MissingDependency(
            "there is no terminal to ask for the passphrase", hint="give it by --passphrase-file FILE, or - for stdin"
        )
    typed = getpass.getpass(f"{'New recovery' if new else 'Recovery'} passphrase of {parsed.volume_id}: ")
    if new and getpass.getpass("The same again: ") != typed:
        raise InvalidParameter("the two passphrases are not the same", hint="nothing was changed: try again")
    return os.fsencode(typed)


def _first_line(name: str) -> bytes:
    try:
        if name == "-":
            line = sys.stdin.buffer.readline(_LONGEST_LINE)
        else:
            with open(name, "rb") as file:  # noqa: PTH123 - a descriptor's name (/dev/fd/3) is as good as a file's
                line = file.readline(_LONGEST_LINE)
    except OSError as error:
        raise InvalidParameter(f"cannot read the passphrase from {name}: {error.strerror}") from None
    return line.removesuffix(b"\n")
