"""List the volumes, oldest first."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output
from ebscrypt.model import format_size


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.describe import describe_volumes, reencryptions  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed) as site:
        described = describe_volumes(site)
        if parsed.output == "json":
            under_way = reencryptions(site, [each.volume for each in described])
            records = [output.volume_record(*each, under_way.get(each.volume.volume_id)) for each in described]
            output.print_json({"Volumes": records})
            return 0
    rows = [
        (
            volume.volume_id,
            output.state_text(volume, attached),
            format_size(volume.size),
            "yes" if volume.encrypted else "no",
            attached.attachment.device if attached is not None and attached.attachment is not None else "-",
            volume.tags.get("Name", "-"),
        )
        for volume, attached in described
    ]
    output.print_table(("VOLUME", "STATE", "SIZE", "ENCRYPTED", "DEVICE", "NAME"), rows)
    return 0
