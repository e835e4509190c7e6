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
    HeaderError,
    HeaderUnsupported,
    InvalidParameter,
    StateError,
)
from ebscrypt.luks2 import Digest, Header, KmsToken, Segment, binary, create_header, new_digest_salt
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


@pytest.mark.parametrize(("wrapped_size", "keyslots"), [(200, 32), (6144, 10)])
def test_the_json_area_has_room_for_the_users_keyslots(kms_token: KmsToken, wrapped_size: int, keyslots: int) -> None:
    """All 32 of LUKS2 beside a key as AWS wraps it, ten beside the longest; with Argon2, the largest that is made."""
    kdf = {"type": "argon2id", "time": 4, "memory": 1048576, "cpus": 4, "salt": "A" * 44}
    area = {"type": "raw", "offset": "16744448", "size": "258048", "encryption": "aes-xts-plain64", "key_size": 64}
    keyslot = KEYSLOT | {"area": area, "kdf": kdf, "af": {"type": "luks1", "stripes": 4000, "hash": "sha256"}}
    names = [str(number) for number in range(keyslots)]
    header = create_header(msgspec.structs.replace(kms_token, wrapped_key=bytes(wrapped_size)), size=64 * TIB)

    header = changed(header, "keyslots", value=dict.fromkeys(names, keyslot))
    header = changed(header, "digests", "0", "keyslots", value=names)

    header.check()
    assert binary.decode(binary.encode(header, offset=0, salt=bytes(64)), 0) == header
