"""Access to a running `Device`: read-only and back, suspended and resumed, with its key taken away meanwhile."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ebscrypt.core import Device, SecretMemory
from ebscrypt.model import Access
from tests.nbd_volume import eventually

SIZE = 8 << 20
SLOT = 1 << 20


def error_of(call: Callable[[], object]) -> int | None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the errno is compared by the caller
        call()
    return caught.value.errno


class Waiting:
    """A request in a thread of its own, and what came of it: True, or the errno."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self.result: int | bool | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
            self.result = True
        except OSError as error:
            self.result = error.errno or 0

    def at_the_gate(self) -> bool:
        """Whether it sleeps. Python's own locks are short: who is seen sleeping twice in a row sleeps in the core."""
        status = Path(f"/proc/self/task/{self._thread.native_id}/wchan").read_text(encoding="ascii")
        return self._thread.is_alive() and "futex" in status

    def end(self) -> int | bool | None:
        self._thread.join(20)
        assert not self._thread.is_alive(), "the request still waits"
        return self.result


def every_request(device: Device) -> list[Callable[[], object]]:
    """One request of each kind, each at a place of its own."""
    return [
        lambda: device.pread(4096, 0),
        lambda: device.pwrite(b"x" * 4096, SLOT),
        lambda: device.discard(2 * SLOT, 4096),
        lambda: device.write_zeroes(3 * SLOT, 4096),
        lambda: device.extents(0, SIZE),
        device.flush,
    ]


def counted(device: Device) -> int:
    return sum(counters.operations for counters in device.statistics().values())


def test_access_is_told(make: Callable[..., Device]) -> None:
    """The three names are those of the model; any other is a ValueError that lists them."""
    device = make()
    assert device.access == Access.READ_WRITE
    for access in (Access.READ_ONLY, Access.SUSPENDED, Access.READ_WRITE):
        device.set_access(access)
        assert device.access == access
    with pytest.raises(ValueError, match='"frozen" is not one of read-write, read-only, suspended'):
        device.set_access("frozen")
    assert not device.read_only


def test_read_only_refuses_what_changes(make: Callable[..., Device], key: SecretMemory) -> None:
    """Each kind of change is EPERM, of no length too; reads, extents and flushes go on; read-write undoes it."""
    device = make(key=key)
    device.pwrite(b"kept", 0)
    device.set_access("read-only")
    for change in (
        lambda: device.pwrite(b"lost", 0),
        lambda: device.pwrite(b"", 0),
        lambda: device.discard(0, 4096),
        lambda: device.write_zeroes(0, 4096),
    ):
        assert error_of(change) == errno.EPERM
    device.flush()
    assert device.pread(4, 0) == b"kept"
    assert not device.extents(0, 4096)[0].hole
    device.set_access("read-write")
    device.pwrite(b"more", 4)
    assert device.pread(8, 0) == b"keptmore"


def test_opened_read_only_it_stays_so(make: Callable[..., Device]) -> None:
    """A device that was opened read-only cannot be made writable, also not by way of a suspension."""
    device = make(read_only=True)
    assert device.access == Access.READ_ONLY
    assert error_of(lambda: device.set_access("read-write")) == errno.EPERM
    device.suspend()
    assert error_of(lambda: device.set_access("read-write")) == errno.EPERM
    assert device.access == Access.SUSPENDED
    device.resume()
    assert device.access == Access.READ_ONLY
    assert error_of(lambda: device.pwrite(b"x", 0)) == errno.EPERM


def test_nothing_changes_once_read_only_is_set(make: Callable[..., Device], path: Path, key: SecretMemory) -> None:
    """Under writers in full swing the backing never changes again from the moment the call returns."""
    device = make(key=key)
    stop = threading.Event()
    ends: list[int | None] = []

    def write(slot: int) -> None:
        data = os.urandom(100_000)
        while not stop.is_set():
            try:
                device.pwrite(data, slot * SLOT + 1)
            except OSError as error:
                ends.append(error.errno)
                return

    for _ in range(5):
        threads = [threading.Thread(target=write, args=(slot,)) for slot in range(4)]
        begun = device.statistics()["write"].operations
        for thread in threads:
            thread.start()
        eventually(lambda begun=begun: device.statistics()["write"].operations > begun + 20)  # type: ignore[misc]
        device.set_access("read-only")
        stored = path.read_bytes()
        for thread in threads:
            thread.join()
        assert path.read_bytes() == stored
        device.set_access("read-write")
    assert ends == [errno.EPERM] * 20


def test_requests_wait_while_suspended(make: Callable[..., Device], key: SecretMemory) -> None:
    """Each kind of request waits asleep, in its own thread, uncounted, and succeeds when it is over.

    What does not touch the data goes on: statistics, size, growing.
    """
    device = make(key=key, size=SIZE - 4096)
    device.suspend()
    before = counted(device)
    threads = threading.active_count()
    waiting = [Waiting(request) for request in every_request(device)[:4]]
    for request in waiting:
        eventually(request.at_the_gate)
    assert threading.active_count() == threads + len(waiting)
    device.suspend()
    device.grow(SIZE)
    assert (device.size, counted(device)) == (SIZE, before)
    assert [request.result for request in waiting] == [None] * len(waiting)
    device.resume()
    assert [request.end() for request in waiting] == [True] * len(waiting)
    assert counted(device) == before + len(waiting)
    device.resume()
    assert device.pread(4096, SLOT) == b"x" * 4096


@pytest.mark.parametrize("end", ["close", "abort"])
def test_the_end_of_a_suspended_device(make: Callable[..., Device], key: SecretMemory, end: str) -> None:
    """Closing and aborting end whoever waits with ESHUTDOWN, and whoever comes later; after an abort close works."""
    device = make(key=key)
    device.pwrite(b"kept", 0)
    device.suspend(wipe=True)
    waiting = [Waiting(request) for request in every_request(device)]
    for waiter in waiting:
        eventually(waiter.at_the_gate)
    getattr(device, end)()
    assert [waiter.end() for waiter in waiting] == [errno.ESHUTDOWN] * len(waiting)
    for request in (*every_request(device), device.suspend, device.resume, lambda: device.set_access("read-only")):
        assert error_of(request) == errno.ESHUTDOWN
    device.close()
    assert make(key=key).pread(4, 0) == b"kept"


def test_suspending_under_load_loses_nothing(make: Callable[..., Device], key: SecretMemory) -> None:
    """Twenty suspensions with the key wiped, among writers: nothing goes on meanwhile, and nothing is lost."""
    device = make(key=key)
    stop = threading.Event()
    last: dict[int, bytes] = {}

    def write(slot: int) -> None:
        while not stop.is_set():
            data = os.urandom(20_000)
            device.pwrite(data, slot * SLOT + 5)
            last[slot] = data
            assert device.pread(len(data), slot * SLOT + 5) == data

    writers = [Waiting(lambda slot=slot: write(slot)) for slot in range(4)]  # type: ignore[misc]
    for _ in range(20):
        device.suspend(wipe=True)
        before = counted(device)
        assert counted(device) == before
        device.resume(key)
        eventually(lambda before=before: counted(device) > before)  # type: ignore[misc]
    stop.set()
    assert [writer.end() for writer in writers] == [True] * 4
    device.close()
    again = make(key=key)
    for slot, data in last.items():
        assert again.pread(len(data), slot * SLOT + 5) == data


def test_a_wiped_device_wants_its_own_key(make: Callable[..., Device], key: SecretMemory) -> None:
    """Without the key ENOKEY, with another EKEYREJECTED, with what cannot be one ValueError: it stays suspended.

    One bit of either half is enough to be another key. A key that nobody needs is a ValueError too.
    """
    data = os.urandom(64)
    own = SecretMemory()
    own.fill(data)
    device = make(key=own)
    device.pwrite(b"secret", 0)
    with pytest.raises(ValueError, match="none was wiped"):
        device.resume(own)
    device.suspend(wipe=True)
    own.wipe()
    assert error_of(device.resume) == errno.ENOKEY
    for access in ("read-write", "read-only"):
        assert error_of(lambda access=access: device.set_access(access)) == errno.ENOKEY  # type: ignore[misc]
    for index in (0, 31, 32, 63):
        wrong = SecretMemory()
        wrong.fill(data[:index] + bytes([data[index] ^ 1]) + data[index + 1 :])
        assert error_of(lambda wrong=wrong: device.resume(wrong)) == errno.EKEYREJECTED  # type: ignore[misc]
    assert error_of(lambda: device.resume(key)) == errno.EKEYREJECTED
    short = SecretMemory(32)
    short.fill(data[:32])
    for impossible in (short, own):
        with pytest.raises(ValueError, match=r"64 bytes|wiped"):
            device.resume(impossible)
    assert device.access == Access.SUSPENDED
    given = SecretMemory()
    given.fill(data)
    device.resume(given)
    given.wipe()
    assert device.access == Access.READ_WRITE
    assert device.pread(6, 0) == b"secret"


def test_a_plain_device_has_no_key_to_wipe(make: Callable[..., Device], key: SecretMemory) -> None:
    """Suspended with ``wipe`` a plain device comes back without a key, and takes none."""
    device = make()
    device.suspend(wipe=True, flush=False)
    with pytest.raises(ValueError, match="none was wiped"):
        device.resume(key)
    device.resume()
    device.pwrite(b"x", 0)
