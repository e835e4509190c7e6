"""Arguments that several commands have, and the site that a command works on."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from ebscrypt.errors import InvalidParameter
from ebscrypt.model import OnKeyUnusable, parse_size

if TYPE_CHECKING:
    from ebscrypt.control.site import Site

_SMALLEST: Final = 512
_LARGEST_GIB: Final = 65_536


def add_output(parser: argparse.ArgumentParser) -> None:
    """``--output``, which every command has."""
    parser.add_argument(
        "--output", choices=("text", "json"), default="text", help="json: EC2's field names; errors as JSON too"
    )


def add_volume(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("volume_id", metavar="VOL", help="a volume id, vol-…")


def add_on_key_unusable(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--on-key-unusable",
        choices=[mode.value for mode in OnKeyUnusable],
        required=required,
        default=None if required else OnKeyUnusable.IGNORE.value,
        help="what becomes of the attached volume while its KMS key cannot be used (ignore)",
    )


def add_size(parser: argparse.ArgumentParser, *, required: bool, text: str) -> None:
    parser.add_argument(
        "--size",
        metavar="SIZE",
        required=required,
        type=size,
        help=f"{text}; K, M, G, T count by 1024, none counts bytes",
    )


def size(text: str) -> int:
    """Bytes of ``--size``. EBS counts GiB where files count bytes: a small bare number may be meant either way."""
    value = parse_size(text)
    if text.strip().isdigit() and 0 < value <= _LARGEST_GIB and value % _SMALLEST:
        raise InvalidParameter(f"--size {text} means {value} bytes, which is no size of a volume", hint=f"say {value}G")
    return value


def tags(words: Sequence[str]) -> dict[str, str]:
    """Tags from ``key=value`` words. Raises `InvalidParameter` for one without ``=`` or given twice."""
    found: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise InvalidParameter(f"{word[:60]!r} is not a tag", hint="write key=value")
        if key in found:
            raise InvalidParameter(f"the tag {key[:60]!r} is given twice")
        found[key] = value
    return found


@contextmanager
def opened(parsed: argparse.Namespace, *, recovering: bool = True) -> Iterator[Site]:
    """The site of this process's settings, put in order after crashes. Its notes go to stderr at the end."""
    from ebscrypt import config  # noqa: PLC0415 - not for --help
    from ebscrypt.control.settled import is_settled  # noqa: PLC0415 - the same
    from ebscrypt.control.site import Site  # noqa: PLC0415 - the same

    with Site(config.load()) as site:
        try:
            if recovering and not is_settled(site):
                from ebscrypt.control.recover import recover  # noqa: PLC0415 - it imports all the use cases

                recover(site)
            yield site
        finally:
            for note in dict.fromkeys(site.notes):
                say(note, parsed, prefix="note: ")


def say(text: str, parsed: argparse.Namespace, *, prefix: str = "") -> None:
    """Talk: a line on stderr, or one JSON object where the output is JSON."""
    print(json.dumps({"Note": text}) if parsed.output == "json" else f"{prefix}{text}", file=sys.stderr)
