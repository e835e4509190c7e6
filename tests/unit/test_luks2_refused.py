import base64
import copy
from typing import Any

import msgspec
import pytest

from ebscrypt.errors import (
    HeaderDamaged,
    HeaderUnsupported,
)
from ebscrypt.luks2 import Header, Segment
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
