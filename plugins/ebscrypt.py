"""An ebscrypt volume in nbdkit: the same core, the same way of the key, and nbdkit's filters and TLS in front.

    nbdkit --unix /run/volume.sock python plugins/ebscrypt.py volume=vol-0123456789abcdef0
    nbdkit --unix /run/volume.sock --filter=cow python plugins/ebscrypt.py backing=/srv/volume.img

    volume=ID        the volume, as the catalog knows it
    backing=PATH     its backing; without `volume` no catalog is needed, the header says everything
    read_only=true   open the backing for reading only; nbdkit's own -r forbids writing to clients, not to us

Everything else comes from ebscrypt's settings. nbdkit embeds the system's Python and knows of no virtual environment:
PYTHONPATH must name the folders in which ebscrypt and its dependencies are. The volume is locked while nbdkit serves
it, like one that is attached; the catalog's state does not change.

nbdkit forks after `get_ready`, and secret memory does not survive that. So the volume is opened a first time in a
process of its own, while the user is still looking for errors; what is left of it is the descriptor of the memory with
the data key, by which `after_fork` opens the volume for good.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec
import nbdkit

if TYPE_CHECKING:
    from ebscrypt.config import Settings

# In an embedded interpreter sys.executable is a guess from PATH; the unwrap process must be the very same Python.
sys.executable = f"{sys.base_prefix}/bin/python{sys.version_info.major}.{sys.version_info.minor}"

from ebscrypt import config as settings_of_ebscrypt  # noqa: E402 - after the interpreter has its name
from ebscrypt import luks2  # noqa: E402
from ebscrypt.core import SecretMemory, harden_process  # noqa: E402
from ebscrypt.daemon.volume import OpenVolume, open_volume  # noqa: E402
from ebscrypt.errors import DaemonError, EbscryptError, from_record  # noqa: E402
from ebscrypt.model import AttachmentSpec, BackingKind, check_volume_id  # noqa: E402

API_VERSION: Final = 2
_LARGEST_REQUEST: Final = 32 << 20
"""Bytes: the core's own NBD server takes no more either."""
_LARGEST_REPORT: Final = 64 << 10
_PREFERRED_BLOCK: Final = 4096

_parameters: dict[str, str] = {}
_spec: AttachmentSpec
_settings: Settings
_key: int | None = None
_volume: OpenVolume


def config(key: str, value: str) -> None:
    """One ``key=value`` of the command line."""
    if key not in ("volume", "backing", "read_only"):
        raise ValueError(f"there is no parameter {key!r}: parameters are volume, backing and read_only")
    if key in _parameters:
        raise ValueError(f"the parameter {key} is given twice")
    _parameters[key] = value


def config_complete() -> None:
    """All parameters are there."""
    if not {"volume", "backing"} & _parameters.keys():
        raise ValueError("say which volume: volume=vol-… or backing=PATH")
    if _parameters.get("read_only", "false") not in ("true", "false"):
        raise ValueError(f"read_only={_parameters['read_only']} is neither true nor false")


def thread_model() -> int:
    """The core takes requests from any number of threads, and holds the GIL in none of them."""
    return int(nbdkit.THREAD_MODEL_PARALLEL)


def get_ready() -> None:
    """Open the volume once, so that whatever is wrong is said while the user is looking."""
    global _spec, _settings, _key  # noqa: PLW0603 - nbdkit calls functions of this module
    with _told():
        _settings = settings_of_ebscrypt.load()
        _spec = _attachment_spec()
        report, _key = _try()
        if report.error is not None:
            raise from_record(report.error)
    for note in report.notes:
        sys.stderr.write(f"nbdkit: ebscrypt: {note}\n")


def after_fork() -> None:
    """Open the volume for good, in the process that serves it."""
    global _volume, _key  # noqa: PLW0603 - the same
    with _told():
        harden_process(lock_memory=True, io_flusher=False)
        stored = None if _key is None else SecretMemory.adopt(_key)
        _key = None
        _volume = open_volume(_spec, _settings, [], stored_key=stored)


def cleanup() -> None:
    """Flush, wipe the keys, unlock the backing."""
    if "_volume" in globals():
        _volume.close()


class Client:
    """nbdkit's handle of one connection."""

    def __init__(self, *, read_only: bool) -> None:
        self.read_only = read_only


def open(readonly: bool) -> Client:  # noqa: A001, FBT001 - nbdkit's name and signature
    """A client connects; ``readonly`` is nbdkit's -r."""
    return Client(read_only=readonly or _spec.read_only)


def get_size(_: Client) -> int:
    return _volume.device.size


def block_size(_: Client) -> tuple[int, int, int]:
    """Any request is served, whole sectors without read-modify-write."""
    return 1, max(_PREFERRED_BLOCK, _volume.block_size), _LARGEST_REQUEST


def can_multi_conn(_: Client) -> bool:
    """A flush makes the writes of every connection durable: there is one device under all of them."""
    return True


def can_write(client: Client) -> bool:
    return not client.read_only


def can_fast_zero(client: Client) -> bool:
    return not client.read_only


def can_fua(_: Client) -> int:
    return int(nbdkit.FUA_NATIVE)


def pread(_: Client, buf: memoryview, offset: int, flags: int) -> None:  # noqa: ARG001
    with _errno():
        _volume.device.pread_into(buf, offset)


def pwrite(_: Client, buf: memoryview, offset: int, flags: int) -> None:
    with _errno():
        _volume.device.pwrite(buf, offset, fua=_has(flags, nbdkit.FLAG_FUA))


def flush(_: Client, flags: int) -> None:  # noqa: ARG001
    with _errno():
        _volume.device.flush()


def trim(_: Client, count: int, offset: int, flags: int) -> None:
    with _errno():
        _volume.device.discard(offset, count, fua=_has(flags, nbdkit.FLAG_FUA))


def zero(_: Client, count: int, offset: int, flags: int) -> None:
    with _errno():
        _volume.device.write_zeroes(
            offset,
            count,
            fua=_has(flags, nbdkit.FLAG_FUA),
            no_hole=not _has(flags, nbdkit.FLAG_MAY_TRIM),
            fast=_has(flags, nbdkit.FLAG_FAST_ZERO),
        )


def extents(_: Client, count: int, offset: int, flags: int) -> Iterable[tuple[int, int, int]]:
    with _errno():
        found = _volume.device.extents(offset, count)
    hole = nbdkit.EXTENT_HOLE | nbdkit.EXTENT_ZERO
    wanted = found[:1] if _has(flags, nbdkit.FLAG_REQ_ONE) else found
    return [(each.offset, each.length, hole if each.hole else 0) for each in wanted]


def _attachment_spec() -> AttachmentSpec:
    volume_id = _parameters.get("volume")
    common: dict[str, Any] = {
        "read_only": _parameters.get("read_only") == "true",
        "cache": _settings.attach.cache,
        "discard": _settings.attach.discard,
    }
    if volume_id is not None:
        check_volume_id(volume_id)
    if "backing" in _parameters:
        return _spec_by_header(_parameters["backing"], volume_id, common)
    from ebscrypt.catalog.catalog import Catalog  # noqa: PLC0415 - only who names a volume by its id needs a catalog

    assert volume_id is not None  # noqa: S101 - config_complete saw to it
    with Catalog(_settings.catalog_path) as catalog:
        known = catalog.volume(volume_id)
    return AttachmentSpec(
        volume_id=known.volume_id,
        backing=known.backing,
        backing_kind=known.backing_kind,
        encrypted=known.encrypted,
        size=known.size,
        kms_key_arn=known.kms_key_arn,
        **common,
    )


def _spec_by_header(path: str, volume_id: str | None, common: dict[str, Any]) -> AttachmentSpec:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        block = stat.S_ISBLK(os.fstat(fd).st_mode)
        header = luks2.read_header(fd, volume_id=volume_id).header
        size = header.segment().size_on(luks2.backing_size(fd))
    finally:
        os.close(fd)
    return AttachmentSpec(
        volume_id=header.token().volume_id,
        backing=str(Path(path).resolve()),
        backing_kind=BackingKind.BLOCK if block else BackingKind.FILE,
        encrypted=True,
        size=size,
        **common,
    )


class _Report(msgspec.Struct):
    """What the first opening came to."""

    error: dict[str, Any] | None = None
    notes: list[str] = []


def _try() -> tuple[_Report, int | None]:
    """Open and close the volume in another process; the descriptor is of the secret memory that holds its data key."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = os.fork()
    if child == 0:
        _try_and_tell(theirs)
    theirs.close()
    with ours:
        answer, descriptors, _, _ = socket.recv_fds(ours, _LARGEST_REPORT, 1, socket.MSG_CMSG_CLOEXEC)
    os.waitpid(child, 0)
    if not answer:
        raise DaemonError("the process that tries to open the volume died")
    return msgspec.json.decode(answer, type=_Report), next(iter(descriptors), None)


def _try_and_tell(peer: socket.socket) -> NoReturn:
    report, key = _Report(), None
    try:
        report.notes = harden_process(lock_memory=True, io_flusher=False)
        volume = open_volume(_spec, _settings, report.notes, keep_key=True)
        key, volume.key = volume.key, None
        volume.close()
    except EbscryptError as error:
        report.error = error.record()
    except Exception as error:  # noqa: BLE001 - the process ends here, and its reason must not be lost
        report.error = DaemonError(f"the volume cannot be opened: {error}").record()
    finally:
        socket.send_fds(peer, [msgspec.json.encode(report)], [] if key is None else [key.fileno()])
        # Without destructors: they would end what the process that we are a copy of still needs.
        os._exit(0)


def _has(flags: int, flag: int) -> bool:
    return bool(flags & flag)


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Errors at start with their hints; nbdkit prints a traceback, whose last lines these are."""
    try:
        yield
    except EbscryptError as error:
        hint = f"\nhint: {error.hint}" if error.hint else ""
        raise RuntimeError(f"{error.message}{hint}") from None


@contextlib.contextmanager
def _errno() -> Iterator[None]:
    """The core's errno as the one that the client gets."""
    try:
        yield
    except OSError as error:
        nbdkit.set_error(error.errno or errno.EIO)
        raise
