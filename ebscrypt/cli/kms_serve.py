"""`ebscrypt kms serve`: the embedded KMS over HTTP, for other programs on this machine."""

from __future__ import annotations

import argparse
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.cli import output
from ebscrypt.cli.kms_store import embedded
from ebscrypt.cli.kms_words import pairs, shortened
from ebscrypt.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Callable

    from ebscrypt.control.site import Site

_FLAG: Final = "--principal"
_ACCESS_KEY_ID: Final = re.compile(r"[\w-]{1,128}", re.ASCII)
_ARN: Final = re.compile(r"arn:aws[a-z-]*:(iam|sts)::\d{12}:[\x21-\x7e]{1,512}", re.ASCII)


def configure(add: Callable[..., Any]) -> None:
    serve = add("serve", _serve, "serve the embedded KMS over HTTP on this machine; prints its URL")
    serve.add_argument("--port", type=int, default=4599, help="0 takes a free one (4599)")
    serve.add_argument("--host", default="127.0.0.1", help="an address of this machine's own (127.0.0.1)")
    serve.add_argument(
        _FLAG,
        metavar="ACCESS_KEY_ID=ARN",
        action="append",
        default=[],
        help="take whoever shows this access key id for this user or role, who may do what a grant allows, instead of "
        "for the account, which may do everything; no signature is checked",
    )


def _serve(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.kms.embedded.http import serve  # noqa: PLC0415 - the HTTP server, which no other command needs

    settings, known = embedded(site), _principals(parsed.principal)

    def ready(url: str) -> None:
        if parsed.output == "json":
            output.print_json({"Url": url})
        else:
            print(url)
        sys.stdout.flush()

    serve(settings, parsed.host, parsed.port, ready, principals=known)


def _principals(words: list[str]) -> dict[str, str]:
    """The ARN of whom each access key id is for."""
    known = pairs(words, _FLAG)
    for name, arn in known.items():
        if not _ACCESS_KEY_ID.fullmatch(name):
            raise InvalidParameter(
                f"{_FLAG} {shortened(name)} is no access key id", hint="write 1 to 128 letters, digits, _ or -"
            )
        if not _ARN.fullmatch(arn):
            raise InvalidParameter(
                f"{_FLAG} {name}={shortened(arn)} does not name a principal",
                hint="write ACCESS_KEY_ID=arn:aws:iam::ACCOUNT:role/NAME",
            )
    return known
