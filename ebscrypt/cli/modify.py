"""Change what becomes of a volume while its KMS key cannot be used; on an attached volume this takes effect at once.

ignore     nothing: an attached volume goes on working, as in EBS (the default)
read-only  writes are refused until the key can be used again
suspend    requests wait until then, and the data key is wiped from memory; nothing fails
detach     the volume is detached by force

The key of a volume that is not set to ignore is tried every attach.key_check_interval seconds while it is attached.
"""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments, output
from ebscrypt.model import OnKeyUnusable


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    arguments.add_on_key_unusable(parser, required=True)
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.modify import modify_volume  # noqa: PLC0415 - not for --help

    mode = OnKeyUnusable(parsed.on_key_unusable)
    with arguments.opened(parsed) as site:
        volume = modify_volume(site, parsed.volume_id, on_key_unusable=mode)
    if parsed.output == "json":
        output.print_json(output.volume_record(volume))
    return 0
