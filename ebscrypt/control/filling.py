"""`fill_volume`: the snapshot's blocks come into a volume that is in use already, or may be at any moment.

    job, manifest, store      as they were noted when the volume was made; a pin keeps the blocks
    data keys                 where the volume has one of its own: both unwrapped by KMS, for each filler anew
    backing or daemon         decided under the volume's lock: a detached volume's backing is claimed, an attached one's
                              daemon asked
    blocks                    those that requests wait for at once, the others in order
    the end                   the header, or the sidecar, says that the volume is whole; then the event; then what was
                              kept for this is removed

What dies in between is taken up by the next filler. The header loses its mark only after the last block is durable.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Final

import msgspec

from ebscrypt import luks2
from ebscrypt.catalog.events import VolumeEvent
from ebscrypt.control import backing, data_key, faultpoints, fill_job, headers, locks, restore, runtime, sidecar
from ebscrypt.control.fill_job import lock_name
from ebscrypt.control.fill_target import DaemonTarget, DeviceTarget, Target, daemon_target
from ebscrypt.control.filler import COMMAND
from ebscrypt.control.snapshot_source import check_length
from ebscrypt.control.turning import turning
from ebscrypt.errors import EbscryptError, StateError, StoreError, VolumeNotFound
from ebscrypt.model import Volume, VolumeState
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.manifest import Manifest, decode
from ebscrypt.stores.names import Content
from ebscrypt.stores.witness import Witness

if TYPE_CHECKING:
    from ebscrypt.control.fill_job import FillJob
    from ebscrypt.control.site import Site
    from ebscrypt.control.turning import Turning
    from ebscrypt.stores.store import Store

_WANTED_AT_ONCE: Final = 4
"""Blocks that requests wait for and that are fetched at the same time, beside those of the background."""
_MOST_BACKGROUND: Final = 4
"""The same of the background: the daemon's control socket has places for others, too."""
_ASK: Final = 0.5
"""Seconds for which the daemon may keep a question whether a block is wanted."""
_TURN: Final = 5.0
"""Seconds for a filler that was told to end, or lost its daemon, to be gone."""


def fill_volume(site: Site, volume_id: str) -> None:
    """Fill the volume to its end. Nothing where it is whole, gone, or being filled by another process.

    Raises `StoreError`, `KmsError`, `BackingError` and `DaemonLost` for what keeps it from that: the blocks that came
    stay, and the next filler goes on.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(locks.held(site.settings, lock_name(volume_id), COMMAND, timeout=_TURN))
        except StateError:
            return
        try:
            volume = site.catalog.volume(volume_id)
        except VolumeNotFound:
            locks.forget(site.settings, lock_name(volume_id))
            return
        if (job := fill_job.load(site.settings, volume_id)) is None:
            return
        if not job.finishing:
            _fill(site, volume, job)
        _finish(site, volume_id, job)
        locks.forget(site.settings, lock_name(volume_id))


def _fill(site: Site, volume: Volume, job: FillJob) -> None:
    raw = fill_job.manifest_path(site.settings, volume.volume_id).read_bytes()
    manifest = decode(raw, job.snapshot_id, Witness(digest=bytes.fromhex(job.digest)))
    with (
        closing(open_store(site.settings, job.store, create=False)) as store,
        _turning(site, volume, job, manifest) as turns,
        _target(site, volume) as target,
    ):
        Filling(store, manifest, turns, target).run(min(site.settings.stores.workers, _MOST_BACKGROUND))
    faultpoints.reach("fill.filled")


@contextmanager
def _turning(site: Site, volume: Volume, job: FillJob, manifest: Manifest) -> Iterator[Turning | None]:
    """What turns blocks to the volume's data key; None where they are under it already."""
    if not job.turned:
        yield None
        return
    token, source = headers.read(volume).header.token(), manifest.header.encryption
    headers.check_token(volume, token)
    with ExitStack() as turned:
        with data_key.unwrapped(site, token) as new, ExitStack() as old:
            source_key = None if source is None else old.enter_context(data_key.unwrapped(site, source))
            size, sector_size = manifest.header.volume_size, volume.sector_size
            sides = turning(size=size, sector_size=sector_size, target_key=new, source_key=source_key)
            turns = turned.enter_context(sides)
        yield turns


@contextmanager
def _target(site: Site, volume: Volume) -> Iterator[Target]:
    """Whoever has the backing now, or the backing itself. Raises `StateError` while that is not clear."""
    volume_id = volume.volume_id
    with ExitStack() as stack:
        with locks.held(site.settings, volume_id, COMMAND):
            now = site.catalog.volume(volume_id)
            target: Target
            if now.state is VolumeState.IN_USE:
                target = stack.enter_context(_daemon(site, volume_id))
            elif now.state is VolumeState.AVAILABLE:
                target = stack.enter_context(_backing(site, now))
            else:
                raise StateError(f"volume {volume_id} is {now.state}: it is not filled")
        yield target


@contextmanager
def _daemon(site: Site, volume_id: str) -> Iterator[DaemonTarget]:
    path = runtime.directory(site.settings, volume_id).control_socket
    with daemon_target(path, _MOST_BACKGROUND + _WANTED_AT_ONCE) as target:
        yield target


@contextmanager
def _backing(site: Site, volume: Volume) -> Iterator[DeviceTarget]:
    from ebscrypt.core import Device  # noqa: PLC0415 - the compiled core, which few commands need

    offset = luks2.DATA_OFFSET if volume.encrypted else 0
    path = fill_job.fill_path(site.settings, volume.volume_id)
    with (
        path.open("r+b") as missing,
        backing.claimed(volume.backing, volume.backing_kind) as descriptor,
        backing.translated(volume.backing, "fill"),
    ):
        device = Device(descriptor, size=volume.size, data_offset=offset, fill_file=missing.fileno())
        try:
            yield DeviceTarget(device)
        finally:
            device.close()


class Filling:
    """One filler's work: blocks from ``store`` to ``target``, turned where they must be."""

    def __init__(self, store: Store, manifest: Manifest, turns: Turning | None, target: Target) -> None:
        self._store, self._manifest, self._turns, self._target = store, manifest, turns, target
        self._lock = threading.Lock()
        self._at, self._missing = 0, list[int]()
        self._wanted: set[int] = set()
        self._over = threading.Event()
        self._errors: list[StoreError] = []

    def run(self, workers: int) -> None:
        """Return when every block is there, durably. Raises why one is not, after all others were tried."""
        with ThreadPoolExecutor(workers + _WANTED_AT_ONCE + 1, "fill") as pool:
            asking = pool.submit(self._ask, pool)
            background = [pool.submit(self._work) for _ in range(workers)]
            try:
                for worker in background:
                    worker.result()
                left = self._target.settle()
            finally:
                self._over.set()
            asking.result()
        if left:
            raise self._errors[0] if self._errors else StateError(f"{left} blocks of the volume did not come")

    def _work(self) -> None:
        """Blocks of the background, one after another. An error of the target ends all: nobody takes blocks."""
        while not self._over.is_set() and (index := self._take()) is not None:
            try:
                stored = self._read(index)
            except StoreError as error:
                self._errors.append(error)
                continue
            try:
                self._target.supply(index, stored)
            except BaseException:
                self._over.set()
                raise
            faultpoints.reach("fill.supplied")

    def _take(self) -> int | None:
        """The next missing block; None when there are none behind the last one."""
        with self._lock:
            if not self._missing:
                self._missing = self._target.missing(self._at)[::-1]
            if not self._missing:
                return None
            index = self._missing.pop()
            self._at = index + 1
            return index

    def _ask(self, pool: ThreadPoolExecutor) -> None:
        """Fetch what requests wait for, before everything else."""
        while not self._over.is_set():
            for index in self._target.wanted(_ASK):
                with self._lock:
                    new = index not in self._wanted
                    self._wanted.add(index)
                if new:
                    pool.submit(self._serve, index)

    def _serve(self, index: int) -> None:
        try:
            self._target.supply(index, self._read(index))
        except (EbscryptError, OSError):
            # Who waits is told; what this was is found again by the background.
            self._target.fail(index)
        finally:
            with self._lock:
                self._wanted.discard(index)

    def _read(self, index: int) -> Content:
        """A block as the volume stores it; nothing for a hole. Raises `StoreError`, which names the block."""
        name = self._manifest.blocks.get(index)
        if name is None:
            return b""
        stored = self._store.get_block(name)
        check_length(index, stored, self._manifest.header.block_length(index))
        return stored if self._turns is None else self._turns.turn(index, stored)


def _finish(site: Site, volume_id: str, job: FillJob) -> None:
    """Every block is durable: say so, and remove what was kept for it. Safe to repeat. Law 7: the event comes once."""
    with locks.held(site.settings, volume_id, COMMAND):
        volume = site.catalog.volume(volume_id)
        _mark_whole(site, volume)
        faultpoints.reach("fill.marked")
        if not (job.finishing and _is_told(site, volume)):
            fill_job.save(site.settings, volume_id, msgspec.structs.replace(job, finishing=True))
            faultpoints.reach("fill.finishing")
            site.catalog.add_event(restore.initialized(site, volume_id))
        faultpoints.reach("fill.told")
        fill_job.release(site, volume_id, job)
        faultpoints.reach("fill.released")
        fill_job.forget(site.settings, volume_id)


def _mark_whole(site: Site, volume: Volume) -> None:
    """Let the volume say of itself that it is whole, durably."""
    if not volume.encrypted:
        sidecar.write_sidecar(site.settings, volume)
        return
    found = headers.read(volume)
    if found.header.filling or found.repair is not None:
        with headers.writable(volume) as descriptor:
            # A bad copy is what a filler left that died in the middle of this.
            header = luks2.repair_header(descriptor, volume_id=volume.volume_id).header
            if header.filling:
                luks2.write_header(descriptor, header.with_filling(filling=False))


def _is_told(site: Site, volume: Volume) -> bool:
    """Whether the event was written before a filler died. Only what died in its last moments is asked that."""
    arn = restore.initialized(site, volume.volume_id)["resources"]
    return any(
        event["detail"].get("event") == VolumeEvent.INITIALIZE and event["resources"] == arn
        for _, event in site.catalog.events()
    )
