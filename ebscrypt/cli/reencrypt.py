"""Give a volume another data key, and turn all of its data to it. EBS cannot do this.

The volume must be detached, and cannot be attached until all is turned. The command returns at once; the data is turned
in the background, also after logout, and goes on after a crash or a power cut with the next command. --wait waits for
the end. There is no way back to the old data key: it opens nothing any more in the end, but in older copies and
snapshots of the volume. Keyslots with passphrases must be removed before, and made anew afterwards.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ebscrypt.cli import arguments, output
from ebscrypt.cli.progress import ProgressLine
from ebscrypt.errors import InvalidParameter
from ebscrypt.model import format_size, parse_size

if TYPE_CHECKING:
    from ebscrypt.control.reencrypting import Reencrypting
    from ebscrypt.control.site import Site


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    parser.add_argument(
        "--kms-key-id",
        metavar="KEY",
        help="key id, ARN, alias/… or alias ARN that wraps the new data key (the volume's own KMS key)",
    )
    parser.add_argument(
        "--throttle",
        metavar="RATE",
        type=_rate,
        help="turn this many bytes a second at most; K, M, G count by 1024 (as fast as it goes)",
    )
    parser.add_argument("--wait", action="store_true", help="wait until all is turned, with progress on a terminal")
    arguments.add_output(parser)


def _rate(text: str) -> int:
    value = parse_size(text)
    if value <= 0:
        raise InvalidParameter(f"--throttle {text} would never end", hint="for example --throttle 50M")
    return value


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.reencrypt import reencrypt_volume  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed) as site:
        found = reencrypt_volume(site, parsed.volume_id, parsed.kms_key_id, throttle=parsed.throttle)
        if parsed.wait:
            found = _waited(site, parsed.volume_id)
    if parsed.output == "json":
        output.print_json(output.reencryption_record(found))
    elif parsed.wait:
        arguments.say(f"{parsed.volume_id} has a new data key, wrapped by {found.target_kms_key_id}", parsed)
    else:
        done, total = format_size(found.bytes_done), format_size(found.bytes_total)
        hint = f"`ebscrypt reencrypt {parsed.volume_id} --wait` waits for the end"
        arguments.say(f"{parsed.volume_id} is being re-encrypted: {done} of {total}; {hint}", parsed)
    return 0


def _waited(site: Site, volume_id: str) -> Reencrypting:
    from ebscrypt.control.reencrypting import wait_for  # noqa: PLC0415 - not for --help

    with ProgressLine() as line:
        return wait_for(site, volume_id, lambda now: line.show(now.bytes_done, now.bytes_total))
