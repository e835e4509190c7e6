"""Show one volume: state, size, key, backing and attachment."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.describe import describe_volume  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed) as site:
        volume, attached = describe_volume(site, parsed.volume_id)
    if parsed.output == "json":
        output.print_json(output.volume_record(volume, attached))
    else:
        output.print_fields(output.volume_fields(volume, attached))
    return 0
