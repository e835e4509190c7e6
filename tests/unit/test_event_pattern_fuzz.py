"""Whatever is given as a pattern: it compiles or is refused with the one typed error, and then any event is decided."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ebscrypt.errors import InvalidEventPattern
from ebscrypt.events.patterns import Pattern

pattern_names = st.text(max_size=3) | st.sampled_from(
    ["$or", "prefix", "suffix", "anything-but", "numeric", "exists", "cidr", "wildcard", "equals-ignore-case", "a.b"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(pattern_names, inner, max_size=3),
    max_leaves=8,
)


def compiles_or_is_refused(source: Any, event: Any) -> None:
    try:
        pattern = Pattern.compile(source)
    except InvalidEventPattern as error:
        assert error.message.isprintable()  # noqa: PT017 (both outcomes are right, and each is checked)
    else:
        assert pattern.matches(event) in (True, False)


@given(pattern=st.dictionaries(pattern_names, json_values), event=st.dictionaries(pattern_names, json_values))
def test_any_json_is_a_pattern_or_is_refused(pattern: dict[str, Any], event: dict[str, Any]) -> None:
    """No JSON value raises anything but the typed error, nor does any event that is then put to the pattern."""
    compiles_or_is_refused(pattern, event)
    compiles_or_is_refused({"a": [pattern]}, event)
    compiles_or_is_refused({"a": [{"anything-but": pattern}, {"prefix": pattern}]}, event)


@given(text=st.text() | st.text(alphabet='{}[]",:\\$or.*ab01eE-+ \n'))
def test_any_text_is_a_pattern_or_is_refused(text: str) -> None:
    """The same of text, JSON or not."""
    compiles_or_is_refused(text, {})


@given(data=st.data())
def test_a_sound_pattern_with_one_character_changed_is_a_pattern_or_is_refused(data: st.DataObject) -> None:
    """The same of what a slip of the finger makes of a good pattern."""
    sound = (
        r'{"a":{"$or":[{"b":[{"numeric":[">",0,"<=",5]}]},{"c":[{"anything-but":{"wildcard":"\\*x*"}}]}]},"d":[null]}'
    )
    at = data.draw(st.integers(0, len(sound) - 1))
    slip = data.draw(st.sampled_from(["", *'{}[]",:\\$*a0-.\x00\ud800']))
    compiles_or_is_refused(sound[:at] + slip + sound[at + 1 :], {"a": {"b": 3}, "d": None})
