import base64
import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebscrypt.errors import HeaderDamaged, HeaderError, HeaderUnsupported, KeyMismatch
from ebscrypt.luks2 import KmsToken
from ebscrypt.luks2.token import token_from_json

PRINTABLE = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=64)
TOKENS = st.builds(
    KmsToken,
    volume_id=st.text("0123456789abcdef", min_size=17, max_size=17).map("vol-".__add__),
    kms_key_arn=PRINTABLE.map("arn:".__add__),
    wrapped_key=st.binary(min_size=1, max_size=6144),
    encryption_context=st.dictionaries(st.text(max_size=20), st.text(max_size=20), min_size=1, max_size=4),
    region=PRINTABLE,
    sealed=st.booleans(),
)


@given(TOKENS)
def test_a_token_reads_back_as_it_was_written(token: KmsToken) -> None:
    """Every token survives its JSON form."""
    assert token_from_json(token.to_json()) == token


def test_the_json_form_is_the_documented_one(kms_token: KmsToken) -> None:
    """Names, order and encodings are those of docs/formats/luks2.md, version 1."""
    assert list(kms_token.to_json().items()) == [
        ("type", "ebscrypt-kms"),
        ("keyslots", []),
        ("version", 1),
        ("volume_id", "vol-0123456789abcdef0"),
        ("kms_key_arn", "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"),
        ("wrapped_key", base64.b64encode(bytes(range(256)) * 3).decode()),
        ("encryption_context", {"aws:ebs:id": "vol-0123456789abcdef0"}),
        ("region", "eu-central-1"),
        ("sealed", False),
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("volume_id", "vol-0123456789ABCDEF0"),
        ("volume_id", "vol-0123456789abcdef0\n"),
        ("volume_id", 7),
        ("kms_key_arn", "alias/aws/ebs"),
        ("kms_key_arn", "arn:aws kms"),
        ("kms_key_arn", "arn:" + "x" * 2048),
        ("wrapped_key", ""),
        ("wrapped_key", "!!!!"),
        ("wrapped_key", "QUJD\n"),
        ("wrapped_key", base64.b64encode(bytes(6145)).decode()),
        ("wrapped_key", None),
        ("encryption_context", {}),
        ("encryption_context", {"aws:ebs:id": 1}),
        ("encryption_context", ["aws:ebs:id"]),
        ("region", ""),
        ("region", "eu central"),
        ("sealed", "true"),
        ("sealed", 1),
        ("version", 0),
        ("version", "1"),
        ("version", True),
        ("version", None),
    ],
)
def test_a_field_that_is_not_one_is_damage(kms_token: KmsToken, field: str, value: Any) -> None:
    """A wrong type, form or length in any field is told as damage, without showing the field's value."""
    with pytest.raises(HeaderDamaged, match="corrupted or tampered with") as caught:
        token_from_json(kms_token.to_json() | {field: value})

    for secret in (base64.b64encode(kms_token.wrapped_key).decode(), "vol-0123456789ABCDEF0"):
        assert secret not in caught.value.message


@pytest.mark.parametrize(
    "field", ["volume_id", "kms_key_arn", "wrapped_key", "encryption_context", "region", "sealed", "version"]
)
def test_a_missing_field_is_damage(kms_token: KmsToken, field: str) -> None:
    """Each field of version 1 must be there; above all, a missing ``sealed`` is not taken for false."""
    fields = kms_token.to_json()
    del fields[field]

    with pytest.raises(HeaderDamaged, match="corrupted or tampered with"):
        token_from_json(fields)


def test_a_later_version_is_refused_before_anything_else_is_judged(kms_token: KmsToken) -> None:
    """A token of version 2 may hold anything: it is unsupported, not damaged, and the hint says what helps."""
    with pytest.raises(HeaderUnsupported, match=r"version 2.*reads version 1") as caught:
        token_from_json(kms_token.to_json() | {"version": 2, "wrapped_key": ["another", "form"]})
    assert "later" in str(caught.value.hint)


def test_unknown_fields_of_version_1_are_ignored(kms_token: KmsToken) -> None:
    """A later ebscrypt may add fields that older ones need not understand."""
    assert token_from_json(kms_token.to_json() | {"added_later": {"x": 1}}) == kms_token


@pytest.mark.parametrize(
    "change", [{"region": ""}, {"wrapped_key": bytes(6145)}, {"version": 2}, {"volume_id": "vol-1"}]
)
def test_a_token_that_could_not_be_read_is_not_written(kms_token: KmsToken, change: dict[str, Any]) -> None:
    """A mistake of the program shows when it writes, not when a user attaches."""
    with pytest.raises(ValueError, match="token"):
        msgspec.structs.replace(kms_token, **change).to_json()


@given(
    st.dictionaries(
        st.sampled_from(list(KmsToken.__struct_fields__)), st.none() | st.integers() | st.text() | st.lists(st.text())
    )
)
def test_random_fields_give_a_token_or_a_header_error(fields: dict[str, Any]) -> None:
    """Whatever a token holds, the answer is a token or a HeaderError."""
    with contextlib.suppress(HeaderError):
        assert isinstance(token_from_json(fields), KmsToken)


@pytest.mark.parametrize(
    ("context", "same_key", "said"),
    [
        pytest.param({"aws:ebs:id": "vol-0123456789abcdef0"}, True, None, id="its-own"),
        pytest.param({"aws:ebs:id": "vol-0123456789abcdef0"}, False, "names the KMS key", id="another-key"),
        pytest.param({"aws:ebs:id": "vol-0123456789abcdef1"}, True, "encryption context", id="another-volume"),
        pytest.param({"aws:ebs:id": "vol-0123456789abcdef0", "x": ""}, True, "encryption context", id="one-more-pair"),
        pytest.param({"x": "vol-0123456789abcdef0"}, True, "encryption context", id="another-name"),
    ],
)
def test_the_header_chooses_neither_key_nor_context(
    kms_token: KmsToken, *, context: dict[str, str], same_key: bool, said: str | None
) -> None:
    """KMS is asked by the catalog's key and the volume's own context, or not at all; no value of a context is told."""
    token = msgspec.structs.replace(kms_token, encryption_context=context)
    named = token.kms_key_arn if same_key else f"{token.kms_key_arn}0"

    if said is None:
        token.check_binding(token.volume_id, named)
        token.check_binding(token.volume_id, None)
        return
    with pytest.raises(KeyMismatch, match=said) as refused:
        token.check_binding(token.volume_id, named)
    assert "vol-0123456789abcdef1" not in f"{refused.value}{refused.value.hint}"
