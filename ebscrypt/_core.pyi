"""Types of the compiled core (core/crates/py); stubtest keeps this file true to it.

Everything here releases the GIL while it works. Errors are `OSError` with the errno that a block device would give
(EINVAL out of range, EPERM read-only, ENOSPC, EIO, EOPNOTSUPP, ESHUTDOWN closed, ENOKEY without its data key), and
`ValueError` for arguments that make no sense.
"""

from typing import Final, final

from typing_extensions import Buffer

__all__ = [
    "Device",
    "Extent",
    "Filling",
    "NbdServer",
    "OperationStatistics",
    "SecretMemory",
    "SnapshotView",
    "Tracking",
    "__version__",
    "create_fill_file",
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
class Tracking:
    """What a device's change file knows.

    ``base`` is the name of the snapshot since which changes are noted, empty where everything counts as changed;
    ``changed`` of the volume's ``blocks`` (512 KiB each) have changed since.
    """

    @property
    def base(self) -> str: ...
    @property
    def blocks(self) -> int: ...
    @property
    def changed(self) -> int: ...

@final
class SnapshotView:
    """The stored bytes of a volume at the instant at which a snapshot began, in blocks of 512 KiB.

    Stored: ciphertext where the volume is encrypted; neither making nor reading it needs the key. Blocks are numbered
    from the start of the volume, and the last one may be shorter. Reading never keeps a writer waiting; a write to a
    block that is not stored yet waits until its old content has been copied to the spool. Trouble with that ends the
    snapshot (OSError here, from then on), never a write. Dropping the view gives the snapshot up.
    """

    @property
    def size(self) -> int:
        """Bytes of the volume when it began."""
    @property
    def base(self) -> str:
        """The snapshot whose later changes this has; empty where it has the whole volume."""
    @property
    def blocks(self) -> int:
        """Blocks of the volume when it began."""
    @property
    def remaining(self) -> int:
        """Blocks that are still to be stored, holes among them."""
    @property
    def copies(self) -> int:
        """Blocks that were copied to the spool so far."""
    def next_block(self, index: int = 0) -> int | None:
        """The first block from ``index`` on that is still to be stored."""
    def next_data(self, index: int = 0) -> int | None:
        """The same without the blocks that are known to be holes without reading them."""
    def read_block(self, index: int) -> bytes:
        """A block's bytes. OSError: EINVAL unless it is still to be stored, ESHUTDOWN once ended or closed."""
    def read_block_into(self, buffer: Buffer, index: int) -> bytes | None:
        """Fill the beginning of ``buffer`` with a block; its SHA-256, or None where all of it is zeros.

        Raises as `read_block`, and ValueError for a buffer that is shorter than the block.
        """
    def hash_blocks(self, indexes: list[int]) -> list[bytes | None]:
        """The SHA-256 of each of these blocks, None for zeros; holes are not even read. Raises as `read_block`."""
    def done(self, index: int) -> None:
        """The block is stored: it needs no copy any more and cannot be read again. OSError (EINVAL) if it was done."""
    def done_rest(self) -> None:
        """The same of every block that is left, for who knows that these were holes; millions take under a second."""
    def commit(self, name: str) -> None:
        """End it well: from now on the change file has what changed since it began, and ``name`` is its base.

        OSError: EINVAL for a name that is empty or longer than 128 bytes, and while blocks remain; why the snapshot
        failed; ESHUTDOWN once it ended or the device was closed; EIO where the volume could not be flushed or the
        change file not be written: the snapshot is whole, but the next one cannot build on it.
        """
    def abort(self) -> None:
        """Give it up: whatever changed counts as changed since the base before. Idempotent."""

@final
class Filling:
    """The blocks of a volume that are still to come, in blocks of 512 KiB; all of it works while suspended, too.

    A request to a block that is missing waits for it, and fails with EIO when ``fill_patience`` is over. A change goes
    on when the block is durable and the fill file says so, durably; a change of a whole block does not wait for what
    was in it. No block that is supplied late overwrites a change, whatever dies when. OSError (ESHUTDOWN) once closed.
    """

    @property
    def left(self) -> int:
        """Blocks that a crash would let be supplied again. Zero: the volume is whole, and the fill file not needed."""
    def next_missing(self, index: int = 0) -> int | None:
        """The first block from ``index`` on that is missing."""
    def wanted(self, timeout: float) -> list[int]:
        """The missing blocks for which requests wait, after waiting up to ``timeout`` seconds for one.

        Each is told again after a second for as long as a request waits for it.
        """
    def supply(self, index: int, stored: Buffer) -> None:
        """A block, as it is stored, and zeros where there are fewer bytes than it has. No error if it is there already.

        OSError: EINVAL for a block that the volume does not have, or more bytes than it has; what the backing says
        (whoever waits for the block is told that, too); EIO where nothing can be made durable any more.
        """
    def fail(self, index: int, errno: int) -> None:
        """A block cannot be had now: requests that wait for it fail with ``errno``. The next one asks for it again."""
    def settle(self) -> None:
        """Make durable what is there, which happens by itself every 128 MiB. OSError (EIO) where that fails."""

@final
class Device:
    """The device stack over one backing: gate, align, crypt, track, fill, file. All offsets are those of the volume."""

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
        change_file: int | None = None,
        fill_file: int | None = None,
        fill_patience: float = 60.0,
    ) -> Device:
        """Open over a duplicate of ``fd`` (regular file or block device; O_DIRECT is noticed and honoured).

        With ``key`` (64 bytes, halves different, else ValueError) sectors are AES-256-XTS; the round keys are in
        secret memory and ``key`` may be wiped afterwards. Without, the bytes are plain and ``sector_size`` ignored.
        ``size`` and ``data_offset`` are multiples of the sector size, and of what O_DIRECT or the block device asks
        (else ValueError). A backing that is shorter than the volume is an OSError (EINVAL).

        With ``change_file``, a regular file of which a duplicate is taken, it notes which blocks change, and snapshots
        can be made; an empty one is begun. It belongs to one volume and to one device at a time, and every change of
        the volume must go through a device that has it. ValueError for ``read_only`` and beyond 64 TiB.

        With ``fill_file``, which `create_fill_file` made for this volume, blocks are still to come: see `Filling`. It
        belongs to one device at a time, and every change must go through one that has it until `Filling.left` is zero.
        OSError (EINVAL) for what is no fill file, or of another size; ValueError for ``read_only``.
        """
    @property
    def size(self) -> int: ...
    @property
    def read_only(self) -> bool:
        """Whether it was opened read-only, which nothing changes. See `access` for the present."""
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
        """Let the volume end at ``size``; the backing must already be that long. Never shrinks (ValueError).

        OSError: EINVAL for a shorter backing, EBUSY during a re-encryption, ESHUTDOWN once closed.
        """
    @property
    def tracking(self) -> Tracking | None:
        """What the change file knows; None where there is none. OSError (ESHUTDOWN) once closed."""
    def begin_snapshot(self, spool: int, *, since: str = "") -> SnapshotView:
        """Fix this instant: requests that completed before are in, none that comes later, and none under way is torn.

        The view has what changed since ``since`` where that is `Tracking.base`, else the whole volume. ``spool`` is an
        empty file, of which a duplicate is taken, for the old content of blocks that change before they are stored: it
        grows to the size of what is in use at worst. Works while suspended, too. OSError: EOPNOTSUPP without a change
        file, EBUSY while there is another snapshot or a re-encryption, ESHUTDOWN once closed, EIO where the change file
        cannot be written.
        """
    def begin_reencryption(
        self, fd: int, key: SecretMemory, *, journal_offset: int, journal_length: int, journal_id: bytes
    ) -> None:
        """Let each sector have one of two keys: below a boundary ``key``, from there on that of the device.

        ``fd`` is the backing, of which a duplicate is taken. There, in bytes from its start, is the journal, which has
        a progress of this id (16 bytes) already; a zone that it says was begun is finished first. Requests go on.
        ValueError for what cannot be a key, a journal without room for a zone (76 KiB) or not at a multiple of 4096,
        and a device that is not encrypted or opened read-only. OSError: EUCLEAN for a journal without such a progress,
        EBUSY while there is another re-encryption or a snapshot, ENOKEY, ESHUTDOWN, EIO.
        """
    def reencrypt_next(self) -> int:
        """Turn the next zone, 4 MiB at most, or pass the next hole; the boundary then. Durable when it returns.

        Requests to that zone wait, all others go on. While the device is suspended this waits, too. At the end of the
        volume nothing happens. OSError: EINVAL without a re-encryption, ESHUTDOWN once closed, what the backing says;
        where it fails in the middle requests to the zone fail with EIO until the volume is opened anew.
        """
    @property
    def reencrypted(self) -> int | None:
        """The boundary of the re-encryption, None where there is none. OSError (ESHUTDOWN) once closed."""
    def end_reencryption(self) -> None:
        """Let the new key be the only one, and wipe the old one. OSError (EINVAL) unless the boundary is at the end.

        ENOKEY where the round keys were wiped, ESHUTDOWN once closed.
        """
    @property
    def filling(self) -> Filling | None:
        """The blocks that are still to come; None where it was opened without a fill file."""
    def statistics(self) -> dict[str, OperationStatistics]:
        """By operation: read, write, flush, discard, write_zeroes, block_status."""
    @property
    def access(self) -> str:
        """What requests may do now: ``read-write``, ``read-only`` or ``suspended`` (`model.Access`)."""
    def set_access(self, access: str) -> None:
        """Change what requests may do, and return when none goes on that this would not let in.

        With ``read-only`` whatever would change the volume is EPERM; reads and flushes go on. ``suspended`` is
        `suspend`; from there the other two go on as `resume` without a key does. Raises OSError: EPERM for
        ``read-write`` where the device was opened read-only, ENOKEY where the round keys were wiped, ESHUTDOWN once
        closed, EIO for the flush of a suspension.
        """
    def suspend(self, *, wipe: bool = False, flush: bool = True) -> None:
        """Let new requests wait and those under way finish, flush, and with ``wipe`` wipe the round keys.

        When it returns nothing is under way below the gate. Who waits does so in the thread it came in, until
        `resume`, or until `abort` or `close` end it with ESHUTDOWN. Asked again it does what was left out. Raises
        OSError: ESHUTDOWN once closed, be it meanwhile; EIO when the flush failed, and the device is suspended, and
        wiped, all the same.
        """
    def resume(self, key: SecretMemory | None = None) -> None:
        """End a suspension: the access is what it was before. Idempotent.

        Where the round keys were wiped ``key`` brings them back and may be wiped afterwards: OSError (ENOKEY) without
        it, OSError (EKEYREJECTED) for any but the key that the device was opened with, ValueError for what cannot be a
        key or is not needed, OSError (EBUSY) where they were wiped during a re-encryption, which has two; the device
        stays suspended then. OSError (ESHUTDOWN) once closed.
        """
    def abort(self) -> None:
        """Refuse new requests, and those that wait for a suspension to end, with ESHUTDOWN; do not wait for anything.

        Those under way go on, and `close` is still to be called: for who has to end the users of a suspended device
        before it closes.
        """
    def close(self) -> None:
        """Refuse new requests, wait for those under way, flush, wipe the round keys, close. Idempotent.

        Requests that wait for a suspension to end fail with ESHUTDOWN. Raises OSError if the flush failed; the keys
        are wiped all the same.
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

def create_fill_file(fd: int, size: int, missing: list[tuple[int, int]]) -> None:
    """Make an empty file the fill file of a volume of ``size`` bytes; durable but for its name.

    ``missing`` has the first block and the count of each run of blocks that are still to come. OSError: EINVAL beyond
    64 TiB and for blocks that the volume does not have; no space.
    """

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
