"""Show one volume: state, size, key, backing and attachment."""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.describe import describe_volume, reencryptions  # noqa: PLC0415 - not for --help
    from ebscrypt.control.fill_job import progress  # noqa: PLC0415 - the same

    with arguments.opened(parsed) as site:
        volume, attached = describe_volume(site, parsed.volume_id)
        reencrypting = reencryptions(site, [volume]).get(volume.volume_id)
        filled = progress(site.settings, volume.volume_id)
    if parsed.output == "json":
        percent = {} if filled is None else {"InitializationPercent": filled.percent}
        output.print_json(output.volume_record(volume, attached, reencrypting) | percent)
    else:
        told = {} if filled is None else {"initialized": f"{filled.percent} %, {filled.done} of {filled.blocks} blocks"}
        output.print_fields(output.volume_fields(volume, attached, reencrypting) | told)
    return 0
