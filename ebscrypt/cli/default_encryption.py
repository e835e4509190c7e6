"""Encryption by default, and the default KMS key, of this account and Region. Nothing that exists is changed.

Once it is enabled, no volume can be made with --no-encrypted. The default key is that of volumes for which no key is
named, whether encryption by default is on or off: alias/aws/ebs until another is set.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ebscrypt.cli import arguments, output
from ebscrypt.cli.commands import Parser
from ebscrypt.kms.names import MANAGED_ALIAS

if TYPE_CHECKING:
    from ebscrypt.catalog.keys import EncryptionDefaults
    from ebscrypt.control.site import Site


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser, title="commands")

    def add(name: str, handler: Any, text: str, *, changing: bool = True) -> Parser:
        command: Parser = commands.add_parser(name, help=text, description=text)
        command.set_defaults(handler=handler, dry_run=False)
        if changing:
            command.add_argument("--dry-run", action="store_true", help="check everything and change nothing")
        arguments.add_output(command)
        return command

    add("show", _show, "show both settings", changing=False)
    add("enable", _enable, "encrypt every new volume; warns if you cannot use the default key")
    add("disable", _disable, "let volumes be made plain again with --no-encrypted")
    set_key = add("set-key", _set_key, "let this KMS key be the default")
    set_key.add_argument(
        "kms_key_id", metavar="KEY", help="key id, ARN, alias/… or alias ARN; symmetric, of this Region"
    )
    add("reset-key", _reset_key, f"let {MANAGED_ALIAS} be the default again")


def run(parsed: argparse.Namespace) -> int:
    with arguments.opened(parsed) as site:
        defaults: EncryptionDefaults = parsed.handler(site, parsed)
    key = defaults.kms_key_arn or MANAGED_ALIAS
    if parsed.output == "json":
        output.print_json({"EbsEncryptionByDefault": defaults.enabled, "KmsKeyId": key})
    else:
        output.print_fields({"encryption by default": "on" if defaults.enabled else "off", "default KMS key": key})
    return 0


def _show(site: Site, _: argparse.Namespace) -> EncryptionDefaults:
    from ebscrypt.control.defaults import get_ebs_encryption_by_default  # noqa: PLC0415 - not for --help

    return get_ebs_encryption_by_default(site)


def _enable(site: Site, parsed: argparse.Namespace) -> EncryptionDefaults:
    from ebscrypt.control.defaults import enable_ebs_encryption_by_default  # noqa: PLC0415 - not for --help

    return enable_ebs_encryption_by_default(site, dry_run=parsed.dry_run)


def _disable(site: Site, parsed: argparse.Namespace) -> EncryptionDefaults:
    from ebscrypt.control.defaults import disable_ebs_encryption_by_default  # noqa: PLC0415 - not for --help

    return disable_ebs_encryption_by_default(site, dry_run=parsed.dry_run)


def _set_key(site: Site, parsed: argparse.Namespace) -> EncryptionDefaults:
    from ebscrypt.control.defaults import modify_ebs_default_kms_key_id  # noqa: PLC0415 - not for --help

    return modify_ebs_default_kms_key_id(site, parsed.kms_key_id, dry_run=parsed.dry_run)


def _reset_key(site: Site, parsed: argparse.Namespace) -> EncryptionDefaults:
    from ebscrypt.control.defaults import reset_ebs_default_kms_key_id  # noqa: PLC0415 - not for --help

    return reset_ebs_default_kms_key_id(site, dry_run=parsed.dry_run)
