"""The API for clients that speak AWS's protocols: EC2's EBS actions, EBS direct, KMS.

`serve` runs the server; `key` makes, lists and removes the access keys that it accepts. To use it:

    ebscrypt api serve &
    ebscrypt api key create                         # prints AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
    export AWS_ENDPOINT_URL=http://127.0.0.1:4580   # and the two, and AWS_DEFAULT_REGION
    aws ec2 describe-volumes
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from ebscrypt.cli import arguments, output
from ebscrypt.cli.commands import Parser

if TYPE_CHECKING:
    from ebscrypt.control.site import Site

_Handler = Callable[["Site", argparse.Namespace], None]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser, title="commands")
    serve = _add(commands, "serve", _serve, "answer AWS clients until it is told to stop; prints its URL")
    serve.add_argument("--port", type=int, help="0 takes a free one (api.port: 4580)")
    serve.add_argument("--bind", metavar="ADDRESS", help="where to listen; not this machine's own only with TLS")
    key = commands.add_parser("key", help="the access keys that the API accepts")
    keys = key.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser, title="commands")
    create = _add(keys, "create", _create_key, "make an access key; prints it as environment variables, this once")
    create.add_argument("--user", default="admin", help="the name in the ARN of who signs with it (admin)")
    _add(keys, "ls", _list_keys, "list the access keys, without their secrets")
    remove = _add(keys, "rm", _remove_key, "remove an access key: it is refused from then on")
    remove.add_argument("access_key_id", metavar="ACCESS_KEY_ID")


def run(parsed: argparse.Namespace) -> int:
    with arguments.opened(parsed, recovering=parsed.handler is _serve) as site:
        parsed.handler(site, parsed)
    return 0


def _add(commands: argparse._SubParsersAction[Parser], name: str, handler: _Handler, text: str) -> Parser:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(handler=handler)
    arguments.add_output(command)
    return command


def _serve(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.api import logs  # noqa: PLC0415 - the HTTP server, which no other command needs
    from ebscrypt.api.access_keys import AccessKeys  # noqa: PLC0415 - the same
    from ebscrypt.api.server import serve  # noqa: PLC0415 - the same

    settings = site.settings
    if (made := AccessKeys(settings).first()) is not None:
        path = AccessKeys(settings).path
        text = f"made the access key {made.access_key_id}: its secret is in {path}, for `aws configure`"
        arguments.say(text, parsed, prefix="note: ")
    site.forget_catalog()  # the server opens its own
    logs.to_standard_error()

    def ready(url: str) -> None:
        if parsed.output == "json":
            output.print_json({"Url": url})
        else:
            print(url)
        sys.stdout.flush()

    host = settings.api.bind if parsed.bind is None else parsed.bind
    serve(settings, host, settings.api.port if parsed.port is None else parsed.port, ready)


def _create_key(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.api.access_keys import AccessKeys  # noqa: PLC0415 - few commands need it

    key = AccessKeys(site.settings).create(parsed.user)
    if parsed.output == "json":
        shown = {"AccessKeyId": key.access_key_id, "SecretAccessKey": key.secret_access_key, "UserName": key.user}
        output.print_json(shown)
    else:
        print(f"AWS_ACCESS_KEY_ID={key.access_key_id}\nAWS_SECRET_ACCESS_KEY={key.secret_access_key}")
        print(f"AWS_DEFAULT_REGION={site.settings.kms.region}")


def _list_keys(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.api.access_keys import AccessKeys  # noqa: PLC0415 - few commands need it

    keys = AccessKeys(site.settings).all()
    if parsed.output == "json":
        rows = [{"AccessKeyId": k.access_key_id, "UserName": k.user, "CreateDate": k.create_date} for k in keys]
        output.print_json({"AccessKeys": rows})
        return
    output.print_table(
        ("ACCESS KEY", "USER", "CREATED"),
        [(key.access_key_id, key.user, f"{key.create_date:%Y-%m-%d %H:%M}") for key in keys],
    )


def _remove_key(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.api.access_keys import AccessKeys  # noqa: PLC0415 - few commands need it

    AccessKeys(site.settings).remove(parsed.access_key_id)
