import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebscrypt import model
from ebscrypt.errors import InvalidParameter, StateError
from ebscrypt.model import GIB, KIB, MIB, TIB, VolumeState


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("10G", 10 * GIB),
        ("512MiB", 512 * MIB),
        ("4096", 4096),
        ("1 T", TIB),
        ("3kb", 3 * KIB),
        ("7B", 7),
        (" 2g ", 2 * GIB),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    """Units are powers of 1024 whichever way they are spelt, as EBS counts."""
    assert model.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1.5G", "10X", "1e9", "0x10", "10 G G", "٣G", "9" * 40])
def test_what_is_not_a_size_is_refused_by_its_text(text: str) -> None:
    """A refusal quotes what was written."""
    with pytest.raises(InvalidParameter, match="is not a size"):
        model.parse_size(text)


@given(st.integers(min_value=1, max_value=64 * TIB))
def test_a_formatted_size_is_exact_or_says_it_is_rounded(size: int) -> None:
    """An integer in the text reads back to the very size; only a decimal point may round."""
    text = model.format_size(size)
    if "." not in text:
        assert model.parse_size(text) == size


@pytest.mark.parametrize(
    ("size", "word"), [(0, "not positive"), (-4096, "not positive"), (4097, "multiple"), (65 * TIB, "over")]
)
def test_a_volume_size_that_cannot_be_is_refused(size: int, word: str) -> None:
    """Zero, negative, not whole sectors, too large: each names its limit."""
    with pytest.raises(InvalidParameter, match=word):
        model.check_volume_size(size, 4096)


def test_the_largest_volume_is_allowed() -> None:
    """64 TiB is a size, one sector more is none."""
    assert model.check_volume_size(64 * TIB, 4096) == 64 * TIB
    with pytest.raises(InvalidParameter):
        model.check_volume_size(64 * TIB + 4096, 4096)


def test_new_ids_are_ids_and_differ() -> None:
    """`new_volume_id` makes what `check_volume_id` takes, never twice."""
    ids = {model.check_volume_id(model.new_volume_id()) for _ in range(1000)}
    assert len(ids) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "vol-",
        "vol-XYZ",
        "vol-0123456789abcdef",
        "vol-0123456789abcdef0\n",
        "../vol-0123456789abcdef0",
        "x" * 10_000,
    ],
)
def test_what_is_not_an_id_never_becomes_a_path(text: str) -> None:
    """Ids name files: anything but the exact form is refused, and a long one is not echoed whole."""
    with pytest.raises(InvalidParameter) as caught:
        model.check_volume_id(text)
    assert len(caught.value.message) < 120


def test_only_the_drawn_transitions_are_allowed() -> None:
    """Every pair of states is either in the table or refused."""
    for old in VolumeState:
        for new in VolumeState:
            if new in model.VOLUME_TRANSITIONS[old]:
                model.check_transition("vol-0", old, new)
            else:
                with pytest.raises(StateError):
                    model.check_transition("vol-0", old, new)


def test_records_refuse_what_they_do_not_know() -> None:
    """A record of another version is refused, not half read."""
    spec = model.AttachmentSpec(
        volume_id="vol-0", backing="/b", backing_kind=model.BackingKind.FILE, encrypted=True, size=4096
    )
    raw = msgspec.json.decode(msgspec.json.encode(spec))
    assert msgspec.convert(raw, model.AttachmentSpec) == spec
    with pytest.raises(msgspec.ValidationError, match="surprise"):
        msgspec.convert({**raw, "surprise": 1}, model.AttachmentSpec)
