import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebscrypt.errors import HeaderDamaged, HeaderError
from ebscrypt.luks2 import json_area

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))


def padded(text: str | bytes, size: int = 8192) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return raw.ljust(size, b"\0")


def nested(levels: int) -> str:
    """An object whose objects and arrays lie ``levels`` deep."""
    return '{"a":' + "[" * (levels - 1) + "]" * (levels - 1) + "}"


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_what_is_written_reads_back_equal_and_in_order(metadata: dict[str, Any]) -> None:
    """Any JSON object survives dump and load, its names in their order."""
    area = json_area.dump(metadata, 1 << 16)

    found = json_area.load(area)

    assert len(area) == 1 << 16
    assert found == metadata
    assert list(found) == list(metadata)


@given(st.binary(max_size=300))
def test_random_bytes_are_damaged_or_an_object(area: bytes) -> None:
    """Whatever stands in the area, the answer is an object or HeaderDamaged."""
    with contextlib.suppress(HeaderDamaged):
        assert isinstance(json_area.load(area), dict)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a":1,"a":2}', "twice"),
        ('{"t":{"0":{},"0":{}}}', "twice"),
        ('{"a":18446744073709551616}', "64 bits"),
        ('{"a":-9223372036854775809}', "64 bits"),
        ('{"a":' + "9" * 5000 + "}", "64 bits"),
        ('{"a":1e999}', "too large"),
        ('{"a":NaN}', "not JSON"),
        ('{"a":-Infinity}', "not JSON"),
        ('{"a":"\\ud800"}', "surrogates"),
        (b'{"a":"\xff"}', "decode"),
        ('{"a":"\x01"}', "control character"),
        ("[]", "not one object"),
        ('"{}"', "not one object"),
        (" {}", "not one object"),
        ("{} ", "not one object"),
        ("{}{}", "malformed"),
        ('{"a":1,}', "malformed"),
        ("{", "not one object"),
        ("", "not one object"),
        (nested(33), "deeper than 32"),
        (nested(4000), "deep"),
        ("{}\0{}", "after the JSON text"),
        ("{}" + " " * 8190, "not ended"),
    ],
)
def test_what_two_readers_could_understand_differently_is_damaged(text: str | bytes, why: str) -> None:
    """Each departure from strict JSON is refused, and the message says which it was."""
    with pytest.raises(HeaderDamaged, match=why):
        json_area.load(padded(text))


def test_nesting_goes_as_deep_as_json_c_goes() -> None:
    """32 levels are read, as libcryptsetup reads them."""
    assert json_area.load(padded(nested(32))) == json.loads(nested(32))


def test_the_last_byte_is_kept_for_the_nul() -> None:
    """A text that leaves room for its NUL fits; one byte more is refused with what to do about it."""
    text_size = len('{"a":""}') + 10

    assert json_area.dump({"a": "x" * 10}, text_size + 1).endswith(b"}\0")
    with pytest.raises(HeaderError, match=rf"would have {text_size} bytes.*room for {text_size - 1}") as caught:
        json_area.dump({"a": "x" * 10}, text_size)
    assert "luksKillSlot" in str(caught.value.hint)
