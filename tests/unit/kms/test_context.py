"""The encryption context's canonical form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebscrypt.errors import InvalidParameter
from ebscrypt.kms.context import canonical, check_context

contexts = st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=4)


@given(contexts, contexts)
def test_equal_contexts_only_are_equal(one: dict[str, str], other: dict[str, str]) -> None:
    """Two contexts share a canonical form exactly when they are equal, in whatever order their pairs came."""
    assert (canonical(one) == canonical(other)) == (one == other)
    assert canonical(one) == canonical(dict(reversed(one.items())))


def test_the_classic_collision() -> None:
    """Moving a letter from name to value, or from pair to pair, changes the form."""
    forms = [{"a": "bc"}, {"ab": "c"}, {"abc": ""}, {"a": "", "b": "c"}, {"a": "b", "c": ""}, {}]

    assert len({canonical(form) for form in forms}) == len(forms)


def test_known_form() -> None:
    """The form is the documented one, byte by byte."""
    assert canonical({"b": "", "a": "é"}) == bytes.fromhex("00000002 00000001 61 00000002 c3a9 00000001 62 00000000")


@pytest.mark.parametrize("bad", [{"a": 1}, {1: "a"}, {"a": None}, {"a": "\ud800 hidden"}, {"hidden \udfff": "a"}])
def test_what_is_not_text_is_refused(bad: dict[str, str]) -> None:
    """Values that are not strings, or not Unicode, are refused without being quoted."""
    with pytest.raises(InvalidParameter, match="EncryptionContext") as caught:
        check_context(bad)

    assert "hidden" not in caught.value.message
