"""KMS keys, by the names that AWS's own command line uses, and the embedded KMS itself.

With EBSCRYPT_KMS=embedded, the default, the keys are those of the embedded KMS, else those of the KMS that is set.
These concern the embedded one only: `root-key` and `rotate-root` for the key over all keys, `export` and `import` for a
backup of them, `serve` to let other programs on this machine use it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ebscrypt.cli import arguments, kms_material, kms_serve, kms_show, kms_store, output
from ebscrypt.cli.commands import Parser
from ebscrypt.cli.kms_table import OPERATIONS
from ebscrypt.cli.kms_words import Answer, Argument, KeyArgument, Operation
from ebscrypt.errors import KmsError, UsageError
from ebscrypt.kms.names import parse_key_name

if TYPE_CHECKING:
    from ebscrypt.control.site import Site

_Handler = Callable[["Site", argparse.Namespace], None]


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser, title="commands")

    def add(name: str, handler: _Handler, text: str, *aliases: str) -> Parser:
        command: Parser = commands.add_parser(name, help=text, description=text, aliases=aliases)
        command.set_defaults(handler=handler)
        arguments.add_output(command)
        return command

    add("list-keys", _list_keys, "list the keys with their states and aliases", "ls")
    for operation in OPERATIONS:
        command = add(operation.name, _perform(operation), operation.text, *operation.aliases)
        if operation.key is not KeyArgument.NONE:
            _add_key(command)
        for argument in operation.arguments:
            _add_argument(command, argument)
    text = "give a key of origin EXTERNAL its key material: wraps and imports it in one go"
    material = add("import-key-material", _import_key_material, text)
    _add_key(material)
    kms_material.configure(material)
    kms_store.configure(add)
    kms_serve.configure(add)


def run(parsed: argparse.Namespace) -> int:
    with arguments.opened(parsed, recovering=False) as site:
        parsed.handler(site, parsed)
    return 0


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", nargs="?", metavar="KEY", help="key id, ARN, alias/… or alias ARN")
    parser.add_argument("--key-id", metavar="KEY", help="the same, as aws kms has it")


def _add_argument(parser: argparse.ArgumentParser, argument: Argument) -> None:
    options: dict[str, Any] = {"required": argument.required, "help": argument.text, "dest": argument.flag}
    if argument.switch:
        parser.add_argument(argument.flag, action="store_const", const=True, **options)
        return
    options |= {"choices": argument.choices, "default": argument.default, "type": argument.kind}
    if argument.many:
        options["nargs"] = "+"
    parser.add_argument(argument.flag, metavar=argument.metavar, **options)


def _perform(operation: Operation) -> _Handler:
    """The command that asks for this operation and shows its answer."""

    def handle(site: Site, parsed: argparse.Namespace) -> None:
        request = dict(operation.fixed) | _key_member(site, operation, parsed) | _members(operation, parsed)
        try:
            answer = _asked(site, operation, request)
        except KmsError as error:
            if error.kms_code != "DryRunOperationException":
                raise
            arguments.say("it would succeed", parsed)
            return
        _print(parsed, answer, operation.show)

    return handle


def _asked(site: Site, operation: Operation, request: dict[str, Any]) -> Answer:
    if operation.listing is None:
        return site.kms.call(operation.operation, **request)
    return {operation.listing: list(_pages(site, operation.operation, operation.listing, request))}


def _key_member(site: Site, operation: Operation, parsed: argparse.Namespace) -> dict[str, str]:
    if operation.key is KeyArgument.NONE:
        return {}
    if operation.key is KeyArgument.OPTIONAL and parsed.key is None and parsed.key_id is None:
        return {}
    key = _key(parsed)
    return {"KeyId": key if operation.key is KeyArgument.ANY else _by_id(site, key)}


def _members(operation: Operation, parsed: argparse.Namespace) -> dict[str, Any]:
    """The request's members from the options that were given. Two options may be halves of one member."""
    members: dict[str, Any] = {}
    for argument in operation.arguments:
        given = getattr(parsed, argument.flag)
        if given is None:
            continue
        value = argument.value(given)
        if argument.member in ("TargetKeyId", "AliasName"):
            parse_key_name(value, argument.flag)
        members[argument.member] = members[argument.member] | value if argument.member in members else value
    return members


def _key(parsed: argparse.Namespace) -> str:
    given = [key for key in (parsed.key, parsed.key_id) if key is not None]
    if len(given) != 1:
        raise UsageError("name one KEY", hint="see `ebscrypt kms list-keys`")
    parse_key_name(given[0], "KEY" if parsed.key_id is None else "--key-id")
    return str(given[0])


def _by_id(site: Site, key: str) -> str:
    """Most operations take no alias; people think in aliases."""
    return site.kms.describe_key(key).arn if "alias/" in key else key


def _list_keys(site: Site, parsed: argparse.Namespace) -> None:
    keys = list(_pages(site, "ListKeys", "Keys", {}))
    if parsed.output == "json":
        output.print_json({"Keys": keys})
        return
    names: dict[str, list[str]] = {}
    for alias in _pages(site, "ListAliases", "Aliases", {}):
        names.setdefault(alias.get("TargetKeyId", ""), []).append(alias["AliasName"])
    rows = [
        (key["KeyId"], *_state(site, key["KeyId"]), ", ".join(sorted(names.get(key["KeyId"], []))) or "-")
        for key in keys
    ]
    output.print_table(("KEY", "STATE", "DESCRIPTION", "ALIASES"), rows)


def _state(site: Site, key_id: str) -> tuple[str, str]:
    """State and description of a listed key; listing it does not mean that we may describe it."""
    try:
        key = site.kms.describe_key(key_id)
    except KmsError:
        return "?", "-"
    return key.state, key.description or "-"


def _pages(site: Site, operation: str, member: str, request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    marker: dict[str, str] = {}
    while True:
        answer = site.kms.call(operation, **request, **marker)
        yield from answer[member]
        if not answer.get("Truncated"):
            return
        marker = {"Marker": answer["NextMarker"]}


def _import_key_material(site: Site, parsed: argparse.Namespace) -> None:
    answer = kms_material.import_key_material(site, _by_id(site, _key(parsed)), parsed)
    _print(parsed, answer, kms_show.material_id)


def _print(parsed: argparse.Namespace, answer: Answer, show: Callable[[Answer], None] | None) -> None:
    if parsed.output == "json":
        output.print_json(answer)
    elif show is not None:
        show(answer)
