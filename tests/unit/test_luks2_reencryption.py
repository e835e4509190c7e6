import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ebscrypt import luks2
from ebscrypt.core import Device, SecretMemory
from ebscrypt.errors import HeaderDamaged, HeaderUnsupported, StateError
from ebscrypt.luks2 import COPY_SIZE, DATA_OFFSET, Header, Reencryption, journal, reencryption
from ebscrypt.luks2.metadata import Digest
from ebscrypt.model import KIB, MIB

AREA = (2 * COPY_SIZE, DATA_OFFSET - 2 * COPY_SIZE)


@pytest.fixture
def sealed(volume_header: Header) -> Header:
    digest = Digest(salt=b"s" * 32, digest=b"d" * 32)
    return volume_header.with_digest(digest)


@pytest.fixture
def wanted(sealed: Header) -> Reencryption:
    """Another wrapped key, by another KMS key."""
    token = msgspec.structs.replace(
        sealed.token(),
        kms_key_arn="arn:aws:kms:eu-central-1:111122223333:key/other",
        wrapped_key=b"another wrapped key",
        data_encryption_key_id="another-name",
    )
    return Reencryption(id=bytes(range(16)), token=token, digest=Digest(salt=b"S" * 32, digest=b"D" * 32))


@pytest.fixture
def fd(volume_backing: Path) -> Iterator[int]:
    with volume_backing.open("r+b", buffering=0) as file:
        yield file.fileno()


def test_begun_and_found(sealed: Header, wanted: Reencryption) -> None:
    """What was put in comes out; without the mark the header is what it was."""
    begun = reencryption.begun(sealed, wanted)

    assert reencryption.find(begun) == wanted
    assert reencryption.before(begun) == sealed
    assert reencryption.find(sealed) is None
    assert reencryption.before(sealed) is sealed


def test_only_who_asks_for_it_gets_such_a_header(fd: int, sealed: Header, wanted: Reencryption) -> None:
    """Every other reader and writer refuses, and says how it goes on."""
    first = luks2.read_header(fd).header
    begun = reencryption.begun(msgspec.structs.replace(sealed, seqid=first.seqid), wanted)
    with pytest.raises(HeaderUnsupported, match="is being re-encrypted"):
        luks2.write_header(fd, begun)

    written = luks2.write_header(fd, begun, reencrypting=True)

    for look in (luks2.read_header, luks2.repair_header):
        with pytest.raises(HeaderUnsupported, match="is being re-encrypted") as refused:
            look(fd)
        assert "ebscrypt reencrypt" in str(refused.value.hint)
        assert look(fd, reencrypting=True).header == written
    with pytest.raises(HeaderUnsupported, match="not of vol-"):
        luks2.read_header(fd, volume_id="vol-00000000000000000", reencrypting=True)


def test_a_bad_copy_is_mended_meanwhile(fd: int, sealed: Header, wanted: Reencryption) -> None:
    """The two copies protect this header as any other."""
    first = luks2.read_header(fd).header
    begun = reencryption.begun(msgspec.structs.replace(sealed, seqid=first.seqid), wanted)
    written = luks2.write_header(fd, begun, reencrypting=True)
    os.pwrite(fd, b"\xa5" * 512, COPY_SIZE + 4096)

    assert luks2.repair_header(fd, reencrypting=True).repair is not None
    assert luks2.read_header(fd, reencrypting=True) == luks2.Reading(header=written)


def test_the_end_leaves_nothing_of_it(sealed: Header, wanted: Reencryption) -> None:
    """Token and digest are the new data key's, all the rest is as before; the old wrapped key is nowhere."""
    ended = reencryption.ended(reencryption.begun(sealed, wanted))

    assert ended.token() == wanted.token
    assert ended.digest() == wanted.digest
    assert ended == msgspec.structs.replace(
        sealed.with_token(wanted.token).with_replaced_digest(wanted.digest), seqid=sealed.seqid
    )
    ended.check()
    with pytest.raises(StateError, match="no re-encryption"):
        reencryption.ended(ended)


def test_what_others_keep_in_the_header_stays(sealed: Header, wanted: Reencryption) -> None:
    """Unknown fields of the token, and other tokens, pass through to the end."""
    own = sealed.metadata["tokens"]["0"] | {"later": {"x": 1}}
    tokens = {"0": own, "3": {"type": "theirs", "keyslots": []}}
    header = msgspec.structs.replace(sealed, metadata=sealed.metadata | {"tokens": tokens})

    ended = reencryption.ended(reencryption.begun(header, wanted))

    assert ended.metadata["tokens"]["3"] == tokens["3"]
    assert ended.metadata["tokens"]["0"]["later"] == {"x": 1}


def test_not_without_a_digest_nor_with_keyslots(volume_header: Header, sealed: Header, wanted: Reencryption) -> None:
    """The old data key could not be proven, or would be held by a passphrase for nothing."""
    with pytest.raises(StateError, match="is not sealed"):
        reencryption.begun(volume_header, wanted)
    keyslots = msgspec.structs.replace(sealed, metadata=sealed.metadata | {"keyslots": {"1": {"key_size": 64}}})
    with pytest.raises(StateError, match="has keyslots"):
        reencryption.begun(keyslots, wanted)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("version", 2, HeaderUnsupported),
        ("version", "1", HeaderDamaged),
        ("id", "00", HeaderDamaged),
        ("wrapped_key", "", HeaderDamaged),
        ("wrapped_key", "?", HeaderDamaged),
        ("iterations", 0, HeaderDamaged),
        ("salt", None, HeaderDamaged),
        ("kms_key_arn", "arn:x y", HeaderDamaged),
    ],
)
def test_a_field_that_is_none(
    sealed: Header, wanted: Reencryption, field: str, value: Any, error: type[Exception]
) -> None:
    """Whatever an enemy wrote there is refused by name, and a later version as such."""
    begun = reencryption.begun(sealed, wanted)
    changed = begun.with_token_field(reencryption.FIELD, begun.token_field(reencryption.FIELD) | {field: value})

    with pytest.raises(error, match="re-encrypt"):
        reencryption.find(changed)


def test_a_mark_without_what_it_says(sealed: Header, wanted: Reencryption) -> None:
    """The requirement alone is damage; another one beside it is nothing that we can meet."""
    begun = reencryption.begun(sealed, wanted)
    with pytest.raises(HeaderDamaged, match="tampered with"):
        reencryption.find(begun.with_token_field(reencryption.FIELD, None))
    both = {"requirements": {"mandatory": ["online-reencrypt-v2", "ebscrypt-reencrypt"]}}
    header = msgspec.structs.replace(begun, metadata=begun.metadata | {"config": begun.metadata["config"] | both})
    assert reencryption.find(header) is None
    with pytest.raises(HeaderUnsupported, match="which ebscrypt does not do"):
        reencryption.before(header).check()


def test_the_journal_is_the_cores(fd: int, volume_backing: Path) -> None:
    """What begins here is taken up there, and how far it is there is read here; cleared, there is none."""
    journal_id, keys = secrets.token_bytes(16), [SecretMemory(), SecretMemory()]
    for key in keys:
        key.fill(os.urandom(64))
    device = Device(fd, size=8 * MIB, data_offset=DATA_OFFSET, key=keys[0])
    begin: dict[str, Any] = {"journal_offset": AREA[0], "journal_length": AREA[1], "journal_id": journal_id}
    with pytest.raises(OSError, match="not there"):
        device.begin_reencryption(fd, keys[1], **begin)
    device.pwrite(b"x" * 8 * MIB, 0)
    journal.begin(fd, AREA, journal_id)
    assert journal.boundary(fd, AREA, journal_id) == 0
    assert journal.boundary(fd, AREA, bytes(16)) is None

    device.begin_reencryption(fd, keys[1], **begin)

    for reached in (4 * MIB, 8 * MIB):
        assert device.reencrypt_next() == device.reencrypted == reached
        assert journal.boundary(fd, AREA, journal_id) == reached
    device.end_reencryption()
    assert device.reencrypted is None
    assert device.pread(8 * MIB, 0) == b"x" * 8 * MIB
    device.close()
    again = Device(fd, size=8 * MIB, data_offset=DATA_OFFSET, key=keys[1])
    assert again.pread(8 * MIB, 0) == b"x" * 8 * MIB
    again.close()
    journal.clear(fd, AREA)
    assert journal.boundary(fd, AREA, journal_id) is None
    assert volume_backing.read_bytes()[AREA[0] : DATA_OFFSET] == bytes(AREA[1])


def test_a_frozen_progress(fd: int) -> None:
    """The bytes of a first progress, for ever: the second page, little-endian, its SHA-256 behind it."""
    journal.begin(fd, AREA, bytes(range(16)))

    assert os.pread(fd, 4096, AREA[0]) == bytes(4096)
    page = os.pread(fd, 72, AREA[0] + 4096)
    assert page[:40].hex() == "4542535455524e31" + bytes(range(16)).hex() + "0100000000000000" + "0000000000000000"
    assert page[40:].hex() == "9248e08ae30f0278f9debbb40f74cd93cde3a44f1d43c441d4221142549565ea"


def test_a_torn_progress_is_none(fd: int) -> None:
    """The other one counts then; with both torn nothing is known."""
    journal.begin(fd, AREA, bytes(16))
    os.pwrite(fd, b"\xff", AREA[0] + 4096 + 33)

    assert journal.boundary(fd, AREA, bytes(16)) is None


def test_a_header_without_room(fd: int) -> None:
    """A journal needs two progresses and a zone."""
    with pytest.raises(HeaderUnsupported, match="for a journal"):
        journal.begin(fd, (AREA[0], 64 * KIB), bytes(16))
