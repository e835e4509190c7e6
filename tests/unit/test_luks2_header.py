import base64
import copy
import hashlib
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ebscrypt.errors import (
    BackingError,
    HeaderDamaged,
    HeaderError,
    HeaderUnsupported,
    InvalidParameter,
    StateError,
)
from ebscrypt.luks2 import Digest, Header, KmsToken, Segment, create_header, new_digest_salt
from ebscrypt.model import MIB, TIB

KEYSLOT = {"type": "luks2", "key_size": 64, "area": {"type": "raw", "offset": "32768", "size": "258048"}}


def changed(header: Header, *path: str, value: Any) -> Header:
    """``header`` with one value of its metadata replaced."""
    metadata = copy.deepcopy(header.metadata)
    place = metadata
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return msgspec.structs.replace(header, metadata=metadata)


def without(header: Header, *path: str) -> Header:
    """``header`` with one value of its metadata gone."""
    metadata = copy.deepcopy(header.metadata)
    place = metadata
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return msgspec.structs.replace(header, metadata=metadata)


def test_a_new_header_is_the_documented_one(kms_token: KmsToken) -> None:
    """Every field of a new header's metadata is what docs/formats/luks2.md says."""
    header = create_header(kms_token, size=10 * MIB, sector_size=512)

    digest = header.metadata["digests"]["0"]
    assert header.metadata == {
        "keyslots": {},
        "tokens": {"0": kms_token.to_json()},
        "segments": {
            "0": {
                "type": "crypt",
                "offset": "16777216",
                "size": "10485760",
                "iv_tweak": "0",
                "encryption": "aes-xts-plain64",
                "sector_size": 512,
            }
        },
        "digests": {
            "0": {
                "type": "pbkdf2",
                "keyslots": [],
                "segments": ["0"],
                "hash": "sha256",
                "iterations": 1000,
                "salt": digest["salt"],
                "digest": digest["digest"],
            }
        },
        "config": {"json_size": "12288", "keyslots_size": "16744448"},
    }
    assert (header.label, header.subsystem, header.copy_size, header.seqid) == (
        kms_token.volume_id,
        "ebscrypt",
        16384,
        0,
    )
    assert str(uuid.UUID(header.uuid)) == header.uuid
    header.check(kms_token.volume_id)


def test_two_new_headers_share_nothing_random(kms_token: KmsToken) -> None:
    """UUID, salt and placeholder digest are drawn anew for each volume."""
    first, second = (create_header(kms_token, size=MIB) for _ in range(2))

    assert first.uuid != second.uuid
    assert first.digest().salt != second.digest().salt
    assert first.digest().digest != second.digest().digest


def test_a_uuid_can_be_given(kms_token: KmsToken) -> None:
    """A caller that has written the UUID down already gets that one."""
    assert create_header(kms_token, size=MIB, uuid="2f5a0d4e-0000-4000-8000-000000000001").uuid.endswith("1")


@pytest.mark.parametrize(
    ("size", "sector_size"), [(0, 4096), (-4096, 4096), (4097, 4096), (MIB, 1024), (65 * TIB, 4096)]
)
def test_no_header_is_made_for_a_size_that_no_volume_may_have(kms_token: KmsToken, size: int, sector_size: int) -> None:
    """Size and sector size follow the rules for volumes."""
    with pytest.raises(InvalidParameter):
        create_header(kms_token, size=size, sector_size=sector_size)


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        (("segments", "0", "encryption"), "serpent-xts-plain64", "cipher 'serpent-xts-plain64'.*aes-xts-plain64"),
        (("segments", "0", "encryption"), "x" * 5000, "cipher 'x{20,70}…"),
        (("segments", "0", "type"), "linear", "type 'linear'"),
        (("segments", "0", "iv_tweak"), "8", "IV tweak '8'"),
        (("segments", "0", "integrity"), {"type": "hmac(sha256)"}, "integrity"),
        (("segments", "0", "flags"), ["backup-previous"], "flags"),
        (("segments", "0", "sector_size"), 2048, "sector size 2048"),
        (("segments", "0", "offset"), "0", "detached"),
        (("segments", "0", "offset"), "16777728", "multiples of 4096"),
        (("segments", "0", "offset"), str(2**63), "up to 64 TiB"),
        (("segments", "0", "size"), str(65 * TIB), "up to 64 TiB"),
        (("segments", "1"), {"type": "linear", "offset": "0", "size": "dynamic"}, "2 segments"),
        (("digests", "0", "type"), "argon2id", "digest of kind 'argon2id'"),
        (("digests", "0", "hash"), "whirlpool", "'whirlpool'"),
        (("digests", "0", "iterations"), 2**31, "2147483648 iterations"),
        (("digests", "0", "iterations"), 0, "0 iterations"),
        (("config", "requirements"), {"mandatory": ["online-reencrypt-v2"]}, "'online-reencrypt-v2'"),
        (("config", "requirements"), {"mandatory": ["from-the-future"]}, "'from-the-future'"),
        (("tokens",), {}, "no ebscrypt-kms token"),
        (("tokens",), {"0": {"type": "luks2-keyring", "keyslots": []}}, "no ebscrypt-kms token"),
        (("tokens", "0", "version"), 2, "version 2"),
        (("tokens", "5"), {"type": "ebscrypt-kms"}, r"2 ebscrypt-kms tokens \(0, 5\)"),
        (("tokens", "0", "volume_id"), "vol-11111111111111111", "labelled"),
    ],
)
def test_a_sound_header_that_we_cannot_serve_is_refused(
    volume_header: Header, path: tuple[str, ...], value: Any, why: str
) -> None:
    """Each is HeaderUnsupported, says what was found, and hints at what to do."""
    with pytest.raises(HeaderUnsupported, match=why) as caught:
        changed(volume_header, *path, value=value).check()
    assert caught.value.hint
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("key_size", [32, 63, 128])
def test_a_keyslot_with_another_size_of_key_is_refused(volume_header: Header, key_size: int) -> None:
    """LUKS2 tells the key's size in keyslots only; one of this segment's must say 512 bits."""
    header = changed(volume_header, "digests", "0", "keyslots", value=["3"])
    changed(header, "keyslots", value={"3": KEYSLOT}).check()

    with pytest.raises(HeaderUnsupported, match=f"{key_size * 8} bits"):
        changed(header, "keyslots", value={"3": KEYSLOT | {"key_size": key_size}}).check()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("segments",), None),
        (("segments",), []),
        (("segments", "0"), "crypt"),
        (("segments", "0", "offset"), 16777216),
        (("segments", "0", "offset"), "-4096"),
        (("segments", "0", "offset"), "16777216\n"),
        (("segments", "0", "offset"), "1e9"),
        (("segments", "0", "offset"), "8192"),
        (("segments", "0", "size"), "huge"),
        (("segments", "0", "size"), "0"),
        (("segments", "0", "size"), "1"),
        (("segments", "0", "sector_size"), "4096"),
        (("segments", "0", "sector_size"), 4096.5),
        (("digests",), {}),
        (("digests",), "0"),
        (("digests", "0", "segments"), []),
        (("digests", "0", "segments"), "0"),
        (("digests", "0", "salt"), "===="),
        (("digests", "0", "salt"), ""),
        (("digests", "0", "digest"), base64.b64encode(bytes(19)).decode()),
        (("digests", "0", "digest"), base64.b64encode(bytes(65)).decode()),
        (("digests", "0", "iterations"), "1000"),
        (("digests", "0", "keyslots"), ["9"]),
        (("digests", "1"), {"type": "pbkdf2", "keyslots": [], "segments": ["0"]}),
        (("keyslots",), []),
        (("config",), {}),
        (("config", "keyslots_size"), "4097"),
        (("config", "keyslots_size"), str(2**40)),
        (("config", "requirements"), ["online-reencrypt"]),
        (("config", "requirements"), {"mandatory": [1]}),
        (("tokens",), None),
        (("tokens", "0"), []),
        (("tokens", "0", "wrapped_key"), "%"),
    ],
)
def test_a_header_that_contradicts_the_specification_is_damaged(
    volume_header: Header, path: tuple[str, ...], value: Any
) -> None:
    """Each is HeaderDamaged and says corrupted or tampered with."""
    header = changed(volume_header, "digests", "0", "keyslots", value=["0"])
    header = changed(header, "keyslots", value={"0": KEYSLOT})

    with pytest.raises(HeaderDamaged, match="corrupted or tampered with"):
        changed(header, *path, value=value).check()


@pytest.mark.parametrize("section", ["segments", "digests", "tokens", "config"])
def test_a_missing_section_is_damage(volume_header: Header, section: str) -> None:
    """A header without one of its sections is no header."""
    with pytest.raises(HeaderDamaged, match="corrupted or tampered with"):
        without(volume_header, section).check()


def test_a_header_of_another_volume_is_refused(volume_header: Header) -> None:
    """Whoever expects a volume is told which one this is, and no context value beyond the id."""
    with pytest.raises(HeaderUnsupported, match="vol-0123456789abcdef0, not of vol-99999999999999999"):
        volume_header.check("vol-99999999999999999")


@pytest.mark.parametrize("label", ["", "my disk", "vol-", "été", "\udcff"])
def test_a_label_of_the_users_own_is_no_reason_to_refuse(volume_header: Header, label: str) -> None:
    """Only a label that is another volume's id contradicts the token."""
    msgspec.structs.replace(volume_header, label=label).check("vol-0123456789abcdef0")


def test_what_cryptsetup_may_change_is_accepted(volume_header: Header) -> None:
    """Activation flags, further digests, tokens and keyslots of others are none of our business."""
    header = changed(volume_header, "config", "flags", value=["allow-discards"])
    header = changed(header, "tokens", "1", value={"type": "systemd-tpm2", "keyslots": ["0"], "tpm2-pcrs": [7]})
    header = changed(header, "keyslots", "0", value=KEYSLOT)
    header = changed(header, "digests", "3", value={"type": "unknown", "keyslots": ["1"], "segments": []})
    header = changed(header, "segments", "0", "size", value="dynamic")
    header.check()

    assert header.segment() == Segment(data_offset=16 * MIB, size=None, sector_size=4096)


def test_sealing_puts_the_digest_in_and_says_so(volume_header: Header) -> None:
    """After with_digest the digest is the one given, the token is sealed, and nothing else differs."""
    digest = Digest(salt=new_digest_salt(), digest=hashlib.sha256(b"any").digest())

    sealed = volume_header.with_digest(digest)

    assert sealed.digest() == digest
    assert sealed.token() == msgspec.structs.replace(volume_header.token(), sealed=True)
    expected = changed(volume_header, "tokens", "0", "sealed", value=True)
    expected = changed(expected, "digests", "0", "salt", value=base64.b64encode(digest.salt).decode())
    expected = changed(expected, "digests", "0", "digest", value=base64.b64encode(digest.digest).decode())
    assert sealed == expected


def test_a_sealed_header_is_not_sealed_again(volume_header: Header) -> None:
    """The digest is the only proof of the right key: no second attachment may replace it."""
    digest = Digest(salt=new_digest_salt(), digest=bytes(32))
    sealed = volume_header.with_digest(digest)

    with pytest.raises(StateError, match="sealed already"):
        sealed.with_digest(digest)


@pytest.mark.parametrize("digest", [Digest(salt=b"", digest=bytes(32)), Digest(salt=b"s" * 32, digest=bytes(8))])
def test_a_digest_that_could_not_be_read_is_not_put_in(volume_header: Header, digest: Digest) -> None:
    """A mistake of the program shows before anything is written."""
    with pytest.raises(HeaderError):
        volume_header.with_digest(digest)


def test_a_new_token_replaces_the_old_and_keeps_what_we_do_not_know(volume_header: Header) -> None:
    """Re-wrapping changes our fields only, at the token's own place, among tokens of others."""
    foreign = {"type": "clevis", "keyslots": [], "jwe": {"a": [1, 2]}}
    ours = volume_header.metadata["tokens"]["0"] | {"added_later": [1]}
    header = changed(volume_header, "tokens", value={"0": foreign, "7": ours})
    token = msgspec.structs.replace(header.token(), wrapped_key=b"another", kms_key_arn="arn:aws:kms:x:1:key/2")

    result = header.with_token(token)

    assert result.token() == token
    assert result.metadata["tokens"] == {"0": foreign, "7": token.to_json() | {"added_later": [1]}}


def test_a_header_without_our_token_takes_it_at_a_free_place(volume_header: Header) -> None:
    """A header that cryptsetup made becomes a volume by adding the token."""
    foreign = {"type": "clevis", "keyslots": []}
    header = changed(volume_header, "tokens", value={"0": foreign, "2": foreign})

    result = header.with_token(volume_header.token())

    assert result.metadata["tokens"] == {"0": foreign, "2": foreign, "1": volume_header.token().to_json()}


def test_no_token_is_added_to_a_header_that_has_32(volume_header: Header) -> None:
    """A header has 32 tokens at most: more are not read by libcryptsetup."""
    foreign = {"type": "clevis", "keyslots": []}
    header = changed(volume_header, "tokens", value={str(n): foreign for n in range(32)})

    with pytest.raises(HeaderUnsupported, match="32 tokens already"):
        header.with_token(volume_header.token())


def test_two_tokens_of_ours_are_not_guessed_between(volume_header: Header) -> None:
    """Neither of two KMS tokens is replaced."""
    header = changed(volume_header, "tokens", "1", value=volume_header.metadata["tokens"]["0"])

    with pytest.raises(HeaderUnsupported, match="2 ebscrypt-kms tokens"):
        header.with_token(volume_header.token())


def test_resizing_changes_the_segments_size_only(volume_header: Header) -> None:
    """The size becomes the one given, as a fixed number; unknown fields of the segment stay."""
    header = changed(volume_header, "segments", "0", "added_later", value=1)

    result = header.with_segment_size(24 * MIB)

    assert result == changed(header, "segments", "0", "size", value=str(24 * MIB))
    with pytest.raises(InvalidParameter, match="multiple of the sector size"):
        header.with_segment_size(24 * MIB + 512)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.with_digest(Digest(salt=new_digest_salt(), digest=bytes(32))),
        lambda header: header.with_token(msgspec.structs.replace(header.token(), region="x")),
        lambda header: header.with_segment_size(MIB),
    ],
)
def test_a_change_leaves_the_value_it_was_made_from_alone(
    volume_header: Header, change: Callable[[Header], Header]
) -> None:
    """Headers are values: the old one is as it was, down to its metadata."""
    before = copy.deepcopy(volume_header)

    assert change(volume_header) != volume_header
    assert volume_header == before


def test_the_size_of_a_volume_on_its_backing() -> None:
    """A fixed segment has its size on any backing that is long enough; a dynamic one takes the whole sectors there."""
    fixed = Segment(data_offset=16 * MIB, size=8 * MIB, sector_size=4096)
    dynamic = Segment(data_offset=16 * MIB, size=None, sector_size=4096)

    assert fixed.size_on(24 * MIB) == fixed.size_on(25 * MIB) == 8 * MIB
    assert dynamic.size_on(24 * MIB) == dynamic.size_on(24 * MIB + 4095) == 8 * MIB
    for segment, backing in ((fixed, 24 * MIB - 1), (dynamic, 16 * MIB + 4095), (dynamic, 0)):
        with pytest.raises(BackingError, match="cut off"):
            segment.size_on(backing)
