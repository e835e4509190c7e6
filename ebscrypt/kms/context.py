"""The encryption context: string pairs that KMS binds to a ciphertext and wants back exactly.

KMS compares contexts exactly, case-sensitive and in no order, and all pairs count (facts §5.1). The canonical form
therefore sorts the pairs and gives every string its length, so that no two contexts share one:

    u32 number of pairs, then for each pair, sorted by the name's bytes:
    u32 length │ name, UTF-8 │ u32 length │ value, UTF-8             (u32 big-endian)

Joining names and values without lengths would make {"a": "bc"} and {"ab": "c"} the same, which at least one other
KMS double does (facts §8).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from ebscrypt.errors import InvalidParameter


def check_context(context: Mapping[str, str]) -> dict[str, str]:
    """A copy of ``context`` if it is one, else `InvalidParameter`. The message quotes no name and no value."""
    checked: dict[str, str] = {}
    for name, value in context.items():
        if not (_is_text(name) and _is_text(value)):
            raise InvalidParameter(
                "EncryptionContext has a pair that is not two strings of valid Unicode",
                hint="it is a map of strings: the pair of a volume is aws:ebs:id and the volume's id",
            )
        checked[name] = value
    return checked


def _is_text(text: object) -> bool:
    try:
        return isinstance(text, str) and text.encode() is not None
    except UnicodeEncodeError:  # a lone surrogate
        return False


def canonical(context: Mapping[str, str]) -> bytes:
    """The context's one canonical form, as drawn above."""
    pairs = sorted((name.encode(), value.encode()) for name, value in context.items())
    parts = [struct.pack(">I", len(pairs))]
    for pair in pairs:
        parts.extend(sized(text) for text in pair)
    return b"".join(parts)


def sized(data: bytes) -> bytes:
    """``data`` behind its length as a big-endian u32: the building block of everything we authenticate."""
    return struct.pack(">I", len(data)) + data
