"""KMS keys and aliases, by the names that AWS's own command line uses.

With EBSCRYPT_KMS=embedded, the default, they are those of the embedded KMS, else those of the KMS that is set. `serve`
lets other programs on this machine use the embedded one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from ebscrypt.cli import arguments, output
from ebscrypt.cli.commands import Parser
from ebscrypt.errors import InvalidParameter, KmsError, UsageError

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

    create = add("create-key", _create_key, "make a symmetric key; prints its ARN")
    create.add_argument("--description", default="", help="what it is for")
    _add_key(add("describe-key", _describe_key, "show a key"))
    add("list-keys", _list_keys, "list the keys with their states and aliases", "ls")
    _add_key(add("enable-key", _simple("EnableKey"), "let a disabled key be used again", "enable"))
    _add_key(add("disable-key", _simple("DisableKey"), "let a key not be used", "disable"))
    schedule = add("schedule-key-deletion", _schedule, "delete a key after a waiting period", "schedule-deletion")
    schedule.add_argument("--pending-window-in-days", type=int, default=30, help="7 to 30 (30)")
    _add_key(schedule)
    _add_key(add("cancel-key-deletion", _simple("CancelKeyDeletion"), "keep it after all", "cancel-deletion"))
    for name, operation, text in (
        ("create-alias", "CreateAlias", "give a key another name"),
        ("update-alias", "UpdateAlias", "let an alias name another key"),
    ):
        alias = add(name, _alias(operation), text)
        alias.add_argument("--alias-name", required=True, metavar="ALIAS", help="alias/…")
        alias.add_argument("--target-key-id", required=True, metavar="KEY", help="the key it shall name")
    add("delete-alias", _alias("DeleteAlias"), "remove an alias; its key stays").add_argument(
        "--alias-name", required=True, metavar="ALIAS", help="alias/…"
    )
    add("list-aliases", _list_aliases, "list the aliases")
    serve = add("serve", _serve, "serve the embedded KMS over HTTP on this machine; prints its URL")
    serve.add_argument("--port", type=int, default=4599, help="0 takes a free one (4599)")
    serve.add_argument("--host", default="127.0.0.1", help="an address of this machine's own (127.0.0.1)")


def run(parsed: argparse.Namespace) -> int:
    with arguments.opened(parsed, recovering=False) as site:
        parsed.handler(site, parsed)
    return 0


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("key", nargs="?", metavar="KEY", help="key id, ARN, alias/… or alias ARN")
    parser.add_argument("--key-id", metavar="KEY", help="the same, as aws kms has it")


def _key(parsed: argparse.Namespace) -> str:
    given = [key for key in (parsed.key, parsed.key_id) if key is not None]
    if len(given) != 1:
        raise UsageError("name one KEY", hint="see `ebscrypt kms list-keys`")
    return str(given[0])


def _create_key(site: Site, parsed: argparse.Namespace) -> None:
    answer = site.kms.call("CreateKey", Description=parsed.description)
    _print(parsed, answer, answer["KeyMetadata"]["Arn"])


def _describe_key(site: Site, parsed: argparse.Namespace) -> None:
    answer = site.kms.call("DescribeKey", KeyId=_key(parsed))
    if parsed.output == "json":
        output.print_json(answer)
        return
    key = answer["KeyMetadata"]
    names = {"key": "Arn", "state": "KeyState", "description": "Description", "usage": "KeyUsage", "spec": "KeySpec"}
    fields: dict[str, str | None] = {ours: key.get(theirs) or None for ours, theirs in names.items()}
    fields["created"] = output.timestamp(key["CreationDate"])
    fields["deletion"] = output.timestamp(key["DeletionDate"]) if key.get("DeletionDate") else None
    output.print_fields(fields)


def _list_keys(site: Site, parsed: argparse.Namespace) -> None:
    keys = list(_pages(site, "ListKeys", "Keys"))
    if parsed.output == "json":
        output.print_json({"Keys": keys})
        return
    names: dict[str, list[str]] = {}
    for alias in _pages(site, "ListAliases", "Aliases"):
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


def _list_aliases(site: Site, parsed: argparse.Namespace) -> None:
    aliases = list(_pages(site, "ListAliases", "Aliases"))
    if parsed.output == "json":
        output.print_json({"Aliases": aliases})
        return
    output.print_table(("ALIAS", "KEY"), [(alias["AliasName"], alias.get("TargetKeyId", "-")) for alias in aliases])


def _pages(site: Site, operation: str, member: str) -> Iterator[dict[str, Any]]:
    marker: dict[str, str] = {}
    while True:
        answer = site.kms.call(operation, **marker)
        yield from answer[member]
        if not answer.get("Truncated"):
            return
        marker = {"Marker": answer["NextMarker"]}


def _simple(operation: str) -> _Handler:
    """A command that names a key and has nothing to print but that it was done."""

    def handle(site: Site, parsed: argparse.Namespace) -> None:
        key = _key(parsed)
        answer = site.kms.call(operation, KeyId=_by_id(site, key))
        _print(parsed, answer, None)

    return handle


def _by_id(site: Site, key: str) -> str:
    """These operations take no alias; people think in aliases."""
    return site.kms.describe_key(key).arn if "alias/" in key else key


def _schedule(site: Site, parsed: argparse.Namespace) -> None:
    key, days = _by_id(site, _key(parsed)), parsed.pending_window_in_days
    answer = site.kms.call("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=days)
    _print(parsed, answer, None)
    if parsed.output == "text":
        arguments.say(f"deleted on {output.timestamp(answer['DeletionDate'])}, and with it all data under it", parsed)


def _alias(operation: str) -> _Handler:
    def handle(site: Site, parsed: argparse.Namespace) -> None:
        target = {} if operation == "DeleteAlias" else {"TargetKeyId": parsed.target_key_id}
        _print(parsed, site.kms.call(operation, AliasName=parsed.alias_name, **target), None)

    return handle


def _print(parsed: argparse.Namespace, answer: dict[str, Any], text: str | None) -> None:
    if parsed.output == "json":
        output.print_json(answer)
    elif text is not None:
        print(text)


def _serve(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.kms.embedded.http import serve  # noqa: PLC0415 - the HTTP server, which no other command needs

    if site.settings.kms.endpoint != "embedded":
        raise InvalidParameter(
            f"kms.endpoint is {site.settings.kms.endpoint}: only the embedded KMS can be served",
            hint="set EBSCRYPT_KMS=embedded for this command",
        )

    def ready(url: str) -> None:
        if parsed.output == "json":
            output.print_json({"Url": url})
        else:
            print(url)
        sys.stdout.flush()

    serve(site.settings, parsed.host, parsed.port, ready)
