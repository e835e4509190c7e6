"""Types of the compiled core (core/crates/py); stubtest keeps this file true to it.

Everything here releases the GIL while it works. Errors are `OSError` with the errno that a block device would give
(EINVAL out of range, EPERM read-only, ENOSPC, EIO, EOPNOTSUPP, ESHUTDOWN closed), and `ValueError` for arguments that
make no sense.
"""

from typing import Final, final

from typing_extensions import Buffer

__all__ = [
    "Device",
    "Extent",
    "NbdServer",
    "OperationStatistics",
    "SecretMemory",
    "__version__",
    "drop_privileges",
    "harden_process",
]

__version__: Final[str]

@final
class SecretMemory:
    """Memory for one data key: memfd_secret, or a sealed-off, locked and dump-excluded memfd where that is missing.

    The content belongs to everybody who has the descriptor: dropping the object leaves it alone, `wipe` ends it for
    all. A child that goes on after fork without exec has no access (OSError, EBADFD).
    """

    def __new__(cls, size: int = 64) -> SecretMemory:
        """Allocate, zeroed. Raises OSError when no memory can be locked at all."""
    @staticmethod
    def adopt(fd: int, size: int = 64) -> SecretMemory:
        """Map the secret memory behind an inherited descriptor; takes the descriptor over.

        Raises OSError (EINVAL) when it is anything else, or not of this size.
        """
    @property
    def size(self) -> int: ...
    @property
    def kind(self) -> str:
        """``memfd_secret`` or ``memfd``."""
    @property
    def locked(self) -> bool:
        """Whether the pages are certain never to reach swap. Always so: memory that cannot be locked is refused."""
    def fileno(self) -> int:
        """The descriptor, close-on-exec, for a child or a descriptor store. Still owned by this object."""
    def fill(self, data: Buffer, /) -> None:
        """Copy exactly ``size`` bytes in. Only the unwrap process has anything to put here."""
    def digest(self, salt: Buffer, iterations: int, hash_name: str, length: int) -> bytes:
        """PBKDF2 of the content: what LUKS2 calls a digest. ``hash_name`` is sha256 or sha512."""
    def matches(self, salt: Buffer, iterations: int, hash_name: str, digest: Buffer) -> bool:
        """Whether `digest` would give this, compared in constant time."""
    def wipe(self) -> None:
        """Zero for everybody, unmap, close the descriptor. Any later use raises ValueError. Idempotent."""

@final
class OperationStatistics:
    """One operation's counters since the device was opened."""

    @property
    def operations(self) -> int: ...
    @property
    def bytes(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def latency(self) -> list[int]:
        """Counts by latency: bucket ``i`` holds requests of [2**i, 2**(i+1)) nanoseconds, 40 buckets."""

@final
class Extent:
    """A run of the volume in one state. ``hole``: nothing stored, reads as zeros."""

    @property
    def offset(self) -> int: ...
    @property
    def length(self) -> int: ...
    @property
    def hole(self) -> bool: ...

@final
class Device:
    """The device stack over one backing: gate, align, crypt, file. Offsets and lengths are bytes of the volume."""

    def __new__(
        cls,
        fd: int,
        *,
        size: int,
        data_offset: int = 0,
        sector_size: int = 4096,
        key: SecretMemory | None = None,
        read_only: bool = False,
        discard: bool = True,
    ) -> Device:
        """Open over a duplicate of ``fd`` (regular file or block device; O_DIRECT is noticed and honoured).

        With ``key`` (64 bytes, halves different, else ValueError) sectors are AES-256-XTS; the round keys are in
        secret memory and ``key`` may be wiped afterwards. Without, the bytes are plain and ``sector_size`` ignored.
        ``size`` and ``data_offset`` are multiples of the sector size, and of what O_DIRECT or the block device asks
        (else ValueError). A backing that is shorter than the volume is an OSError (EINVAL).
        """
    @property
    def size(self) -> int: ...
    @property
    def read_only(self) -> bool: ...
    @property
    def encrypted(self) -> bool: ...
    def pread(self, length: int, offset: int) -> bytes: ...
    def pread_into(self, buffer: Buffer, offset: int) -> None: ...
    def pwrite(self, data: Buffer, offset: int, *, fua: bool = False) -> None: ...
    def flush(self) -> None: ...
    def discard(self, offset: int, length: int, *, fua: bool = False) -> None: ...
    def write_zeroes(
        self, offset: int, length: int, *, fua: bool = False, no_hole: bool = False, fast: bool = False
    ) -> None: ...
    def extents(self, offset: int, length: int) -> list[Extent]:
        """The states of a range, in order, covering it exactly."""
    def grow(self, size: int) -> None:
        """Let the volume end at ``size``; the backing must already be that long. Never shrinks (ValueError)."""
    def statistics(self) -> dict[str, OperationStatistics]:
        """By operation: read, write, flush, discard, write_zeroes, block_status."""
    def close(self) -> None:
        """Refuse new requests, wait for those under way, flush, wipe the round keys, close. Idempotent.

        Raises OSError if the flush failed; the keys are wiped all the same.
        """

@final
class NbdServer:
    """NBD over `Device`: threads of the core, no Python on the path."""

    def __new__(
        cls, device: Device, *, export_name: str = "", max_connections: int = 16, handshake_timeout: float = 10.0
    ) -> NbdServer: ...
    def listen(self, fd: int) -> None:
        """Accept clients on a listening stream socket; takes a duplicate. Fixed newstyle handshake for each."""
    def adopt(self, fd: int) -> None:
        """Serve one connected socket that is already in the transmission phase (the kernel's end is the peer)."""
    @property
    def transmission_flags(self) -> int:
        """The flags as NBD_OPT_GO would send them; nbd.ko wants them at set-up."""
    @property
    def connections(self) -> int: ...
    def stop(self, timeout: float) -> bool:
        """Accept no more, let requests under way finish, close all. False when a client had to be cut off."""

def harden_process(*, lock_memory: bool, io_flusher: bool) -> list[str]:
    """PR_SET_DUMPABLE 0, RLIMIT_CORE 0, and on wish mlockall and PR_SET_IO_FLUSHER.

    The first two must work (OSError). What the machine did not allow of the others comes back as notes.
    """

def drop_privileges(uid: int, gid: int) -> None:
    """Become ``uid``:``gid``, without supplementary groups and capabilities, and set no_new_privs.

    The ids are not changed where they are the current ones. Threads that run already lose their capabilities with a
    change of the user id; where one would keep any, because ``uid`` is the current one, the call fails with EBUSY.
    Raises OSError; then the process must end.
    """
