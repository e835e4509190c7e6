"""Blocks turned from one data key to another: what a restore or a copy under another KMS key does to every block.

    stored bytes ── source's device: decrypts ──→ plaintext ── target's device: enciphers ──→ stored bytes

The cipher is the core's and so is the tweak, which counts from the volume's start: each side is an ordinary device over
a sparse file in memory, as long as the volume, in which only the blocks that are being turned take room. Plaintext
exists for one block of each thread at a time, data keys in secret memory only. A sector that was never written stays
so: what is thin stays thin, and nobody can tell a hole of the old volume from one of the new.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from ebscrypt.errors import KeyMismatch, NotPermitted
from ebscrypt.stores.names import BLOCK_SIZE, Content

if TYPE_CHECKING:
    from ebscrypt.core import Device, SecretMemory


class Turning:
    """Made by `turning`. Safe for use from several threads, each with a block of its own."""

    def __init__(self, source: _Side | None, target: _Side, sector_size: int) -> None:
        self._source, self._target, self._sector_size = source, target, sector_size

    def turn(self, index: int, stored: Content) -> bytes:
        """The block at ``index`` as it is stored under the other key. ``stored``: whole sectors. Raises OSError."""
        offset = index * BLOCK_SIZE
        plain = stored if self._source is None else self._source.deciphered(offset, stored)
        runs = data_runs(stored, self._sector_size)
        return self._target.enciphered(offset, plain, runs)


class BlockCipher:
    """The blocks of one volume between plaintext and the form in which they are stored. Safe for use from threads.

    Of one block, one thread at a time has it: they would meet in the file in memory. To be closed; the key that it was
    made with may be wiped at once. Raises as `turning` does.
    """

    def __init__(self, size: int, sector_size: int, key: SecretMemory) -> None:
        self._stack = ExitStack()
        self._side = self._stack.enter_context(_side(size, sector_size, key))
        self._busy: set[int] = set()
        self._freed = threading.Condition()

    def enciphered(self, index: int, plain: Content) -> bytes:
        """The block at ``index`` as it is stored. Every sector of it is enciphered, those of zeros, too."""
        with self._alone(index):
            return self._side.enciphered(index * BLOCK_SIZE, plain, [(0, len(plain))])

    def deciphered(self, index: int, stored: Content) -> bytearray:
        """The plaintext of a stored block; a sector that was never written is zeros."""
        with self._alone(index):
            return self._side.deciphered(index * BLOCK_SIZE, stored)

    def close(self) -> None:
        """Wipe the round keys. Nobody may be at work. Idempotent."""
        self._stack.close()

    @contextmanager
    def _alone(self, index: int) -> Iterator[None]:
        with self._freed:
            self._freed.wait_for(lambda: index not in self._busy)
            self._busy.add(index)
        try:
            yield
        finally:
            with self._freed:
                self._busy.remove(index)
                self._freed.notify_all()


@contextmanager
def turning(
    *, size: int, sector_size: int, target_key: SecretMemory, source_key: SecretMemory | None
) -> Iterator[Turning]:
    """Turns the blocks of a volume of ``size`` bytes until the block ends; a ``source_key`` of None: they are plain.

    Both keys may be wiped as soon as this has begun. Raises `KeyMismatch` for what cannot be a data key,
    `NotPermitted` where no memory can be locked for the cipher.
    """
    with ExitStack() as undo:
        source = None if source_key is None else undo.enter_context(_side(size, sector_size, source_key))
        target = undo.enter_context(_side(size, sector_size, target_key))
        yield Turning(source, target, sector_size)


def data_runs(stored: Content, sector_size: int) -> list[tuple[int, int]]:
    """Begin and end of each run of sectors that are not all zeros, which are those that were written.

    Where the end is no whole sector, it counts as written.
    """
    content = bytes(stored)
    zeros = bytes(sector_size)
    runs: list[tuple[int, int]] = []
    for at in range(0, len(content), sector_size):
        if content.startswith(zeros, at):
            continue
        end = min(at + sector_size, len(content))
        if runs and runs[-1][1] == at:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((at, end))
    return runs


class _Side:
    """A device with one data key over a file in memory, into which and out of which stored bytes are put past it."""

    def __init__(self, descriptor: int, device: Device) -> None:
        self._descriptor, self._device = descriptor, device

    def deciphered(self, offset: int, stored: Content) -> bytearray:
        plain = bytearray(len(stored))
        os.pwrite(self._descriptor, stored, offset)
        self._device.pread_into(plain, offset)
        self._device.discard(offset, len(stored))
        return plain

    def enciphered(self, offset: int, plain: Content, runs: list[tuple[int, int]]) -> bytes:
        view = memoryview(plain)
        for begin, end in runs:
            self._device.pwrite(view[begin:end], offset + begin)
        stored = os.pread(self._descriptor, len(plain), offset)
        self._device.discard(offset, len(plain))
        return stored


@contextmanager
def _side(size: int, sector_size: int, key: SecretMemory) -> Iterator[_Side]:
    descriptor = os.memfd_create("ebscrypt-turning", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        device = _device(descriptor, size, sector_size, key)
        try:
            yield _Side(descriptor, device)
        finally:
            device.close()
    finally:
        os.close(descriptor)


def _device(descriptor: int, size: int, sector_size: int, key: SecretMemory) -> Device:
    from ebscrypt.core import Device  # noqa: PLC0415 - the compiled core, which few commands need

    try:
        return Device(descriptor, size=size, sector_size=sector_size, key=key)
    except ValueError as error:
        raise KeyMismatch(f"what KMS unwrapped cannot be a data key: {error}") from error
    except OSError as error:
        raise NotPermitted(
            f"no memory can be locked for the cipher: {error.strerror}", hint="raise RLIMIT_MEMLOCK (`ulimit -l`)"
        ) from error
