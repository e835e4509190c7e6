"""The JSON area of a LUKS2 header: bytes ↔ one JSON object, read as strictly as an enemy's file deserves.

Two programs read these bytes, ebscrypt and libcryptsetup (json-c). Whatever they might understand differently is
refused here: names that occur twice, nesting deeper than json-c goes, numbers that do not fit 64 bits, text that is not
Unicode, anything after the closing brace but NUL. What is accepted is kept whole and written back in the same order.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from ebscrypt.errors import HeaderDamaged, HeaderError

MAX_DEPTH: Final = 32
"""Objects and arrays inside one another. json-c goes no deeper by default (checked against it)."""

_INT64_MIN: Final = -(1 << 63)
_UINT64_MAX: Final = (1 << 64) - 1
_LONGEST_INTEGER: Final = len(str(_INT64_MIN))


def load(area: bytes) -> dict[str, Any]:
    """The object in ``area``, names in their order. Raises `HeaderDamaged` unless it is just one, padded with NUL."""
    text, end, padding = area.partition(b"\0")
    if not end:
        raise HeaderDamaged("the JSON text is not ended by a NUL")
    if padding.strip(b"\0"):
        raise HeaderDamaged("there are bytes after the JSON text")
    if not (text.startswith(b"{") and text.endswith(b"}")):
        raise HeaderDamaged("the JSON text is not one object")
    try:
        metadata = json.loads(
            text.decode("utf-8"),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_real,
            parse_constant=_refuse_constant,
        )
        _text(metadata)
    except RecursionError:
        raise HeaderDamaged("the JSON text nests too deeply") from None
    except ValueError as error:
        raise HeaderDamaged(f"the JSON text is malformed: {error}") from None
    if _depth(metadata) > MAX_DEPTH:
        raise HeaderDamaged(f"the JSON text nests deeper than {MAX_DEPTH} levels")
    if not isinstance(metadata, dict):
        raise HeaderDamaged("the JSON text is not one object")
    return metadata


def dump(metadata: dict[str, Any], size: int) -> bytes:
    """``metadata`` as compact JSON, padded with NUL to ``size`` bytes.

    Raises `HeaderError` when the text and its closing NUL do not fit.
    """
    text = _text(metadata)
    if len(text) >= size:
        raise HeaderError(
            f"the LUKS2 header is full: its JSON text would have {len(text)} bytes, there is room for {size - 1}",
            hint="remove keyslots or tokens that nobody needs: cryptsetup luksKillSlot, cryptsetup token remove",
        )
    return text.ljust(size, b"\0")


def _text(metadata: Any) -> bytes:
    return json.dumps(metadata, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name occurs twice in one object")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _LONGEST_INTEGER or not _INT64_MIN <= (value := int(digits)) <= _UINT64_MAX:
        raise ValueError("a number does not fit 64 bits")
    return value


def _real(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _depth(value: Any) -> int:
    """How many objects and arrays lie inside one another; counted level by level, so that depth costs no stack."""
    depth, level = 0, [value]
    while containers := [each for each in level if isinstance(each, dict | list)]:
        depth += 1
        level = [inner for each in containers for inner in (each.values() if isinstance(each, dict) else each)]
    return depth
