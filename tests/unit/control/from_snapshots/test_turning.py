"""Blocks turned from one data key to another."""

from __future__ import annotations

import itertools
import os
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis.strategies as st
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given

from ebscrypt.control.turning import data_runs, turning
from ebscrypt.core import SecretMemory
from ebscrypt.errors import KeyMismatch
from ebscrypt.model import KIB, MIB, TIB
from ebscrypt.stores.names import BLOCK_SIZE

OLD, NEW = bytes(range(64)), bytes(range(64, 128))
SIZE = 16 * TIB
INDEXES = {"first": 0, "second": 1, "beyond 2^32 sectors": 5 * TIB // BLOCK_SIZE + 7, "last": SIZE // BLOCK_SIZE - 1}


def secret(key: bytes) -> SecretMemory:
    memory = SecretMemory()
    memory.fill(key)
    return memory


def enciphered(key: bytes, index: int, plain: bytes, sector_size: int) -> bytes:
    """What dm-crypt would store: each sector's tweak is the number of its first 512-byte unit (design, section 5)."""
    stored = b""
    for at in range(0, len(plain), sector_size):
        tweak = (index * BLOCK_SIZE + at) // 512
        encryptor = Cipher(algorithms.AES(key), modes.XTS(tweak.to_bytes(16, "little"))).encryptor()
        stored += encryptor.update(plain[at : at + sector_size])
    return stored


def noise(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)  # noqa: S311 - the same in each run


@pytest.mark.parametrize("sector_size", [512, 4096])
@pytest.mark.parametrize("place", INDEXES)
@pytest.mark.parametrize("source", ["plain", "encrypted"])
def test_a_turned_block_is_what_the_new_key_makes_of_the_plaintext(source: str, place: str, sector_size: int) -> None:
    """Another implementation of AES-XTS says the same, at every place of a volume of 16 TiB."""
    index, plain = INDEXES[place], noise(64 * KIB)
    stored = plain if source == "plain" else enciphered(OLD, index, plain, sector_size)
    source_key = None if source == "plain" else secret(OLD)

    with turning(size=SIZE, sector_size=sector_size, target_key=secret(NEW), source_key=source_key) as turned:
        result = turned.turn(index, stored)

    assert result == enciphered(NEW, index, plain, sector_size)


def test_a_sector_that_was_never_written_stays_so() -> None:
    """Zeros stay zeros; zeros that somebody wrote, stored as ciphertext, are turned like any data."""
    plain = noise(4096) + bytes(4096) + noise(4096, 2) + bytes(4096)
    stored = bytearray(enciphered(OLD, 3, plain, 4096))
    stored[3 * 4096 :] = bytes(4096)

    with turning(size=64 * MIB, sector_size=4096, target_key=secret(NEW), source_key=secret(OLD)) as turned:
        result = turned.turn(3, stored)

    assert result[: 3 * 4096] == enciphered(NEW, 3, plain, 4096)[: 3 * 4096]
    assert result[3 * 4096 :] == bytes(4096)


def test_holes_of_a_plain_volume_are_holes_of_the_encrypted_one() -> None:
    """Nothing is enciphered where there is nothing."""
    plain = bytes(4096) + noise(512) + bytes(3584)

    with turning(size=8 * MIB, sector_size=512, target_key=secret(NEW), source_key=None) as turned:
        result = turned.turn(0, plain)

    assert result == bytes(4096) + enciphered(NEW, 0, bytes(4096) + noise(512), 512)[4096:] + bytes(3584)


def test_the_last_block_of_a_volume_may_be_short() -> None:
    """It is turned as long as it is."""
    plain = noise(12 * KIB)

    with turning(size=BLOCK_SIZE + 12 * KIB, sector_size=4096, target_key=secret(NEW), source_key=None) as turned:
        assert turned.turn(1, plain) == enciphered(NEW, 1, plain, 4096)


def test_the_keys_may_be_wiped_once_it_has_begun() -> None:
    """The round keys are the core's by then."""
    old, new, plain = secret(OLD), secret(NEW), noise(8 * KIB)

    with turning(size=MIB, sector_size=4096, target_key=new, source_key=old) as turned:
        old.wipe()
        new.wipe()
        assert turned.turn(0, enciphered(OLD, 0, plain, 4096)) == enciphered(NEW, 0, plain, 4096)


def test_many_threads_turn_their_blocks_side_by_side() -> None:
    """What each gets is what it would get alone."""
    together = threading.Barrier(4, timeout=30)
    blocks = {index: noise(BLOCK_SIZE, index) for index in range(4)}

    with turning(size=4 * BLOCK_SIZE, sector_size=4096, target_key=secret(NEW), source_key=secret(OLD)) as turned:
        alone = {index: turned.turn(index, block) for index, block in blocks.items()}

        def turn(index: int) -> bool:
            together.wait()
            return all(turned.turn(index, blocks[index]) == alone[index] for _ in range(10))

        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(turn, blocks))


def test_nothing_stays_in_memory_of_the_blocks_that_were_turned() -> None:
    """Two sparse files as long as the volume, with nothing in them between two blocks; none when it is over."""

    def files() -> list[os.stat_result]:
        links = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
        return [link.stat() for link in links if str(link.readlink()).startswith("/memfd:ebscrypt-turning")]

    with turning(size=SIZE, sector_size=4096, target_key=secret(NEW), source_key=secret(OLD)) as turned:
        for index in range(40):
            turned.turn(index * 1000, noise(BLOCK_SIZE, index))

        assert {file.st_size for file in files()} == {SIZE}
        assert sum(file.st_blocks for file in files()) == 0

    assert files() == []


def test_what_cannot_be_a_data_key_turns_nothing() -> None:
    """XTS with two equal halves is refused, and no file is left."""
    with (
        pytest.raises(KeyMismatch, match="cannot be a data key"),
        turning(size=MIB, sector_size=4096, target_key=secret(bytes(64)), source_key=None),
    ):
        pass


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 3)), max_size=8), st.integers(0, 511))
def test_runs_of_data_are_exactly_what_is_not_zero(pieces: list[tuple[bool, int]], tail: int) -> None:
    """Runs cover every sector with a byte in it and no other, in order and without touching; a rest counts as data."""
    content = b"".join((b"\1" if data else b"\0") + (b"\0" * 511) for data, count in pieces for _ in range(count))
    content += bytes(tail)

    runs = data_runs(content, 512)

    covered = {at for begin, end in runs for at in range(begin, end, 512)}
    wanted = {at for at in range(0, len(content), 512) if content[at : at + 512] != bytes(512)}
    assert covered == wanted
    assert all(left[1] < right[0] for left, right in itertools.pairwise(runs))
