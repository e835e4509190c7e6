"""A volume from a snapshot: which key it gets, how large it is, and its blocks, all there before it is available.

`create_volume` does the rest, and takes everything back if anything fails. The header is written last: where there is
one, the volume is whole, whatever becomes of the catalog.

    decide      which of the outcomes of facts §1.6: plain, the snapshot's own key, the default key, the one named
    fitted      size and sector size that go with what the snapshot holds
    restoring   the snapshot's blocks pinned, and the volume's data key wrapped
    fill        every block checked by its name, turned to the new data key where there is one, and written

A hole of the snapshot is a hole of the volume: in a file of our own nothing is written there, and what was in a backing
that was there before is zeroed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ebscrypt import luks2
from ebscrypt.catalog.events import VolumeEvent
from ebscrypt.control import backing, faultpoints, fill_job, lineage, remains, snapshot_source
from ebscrypt.control.defaults import get_ebs_encryption_by_default
from ebscrypt.control.encryption import Outcome, volume_outcome
from ebscrypt.control.encryption import Source as Origin
from ebscrypt.control.turning import data_runs
from ebscrypt.errors import InvalidParameter
from ebscrypt.model import GIB, Snapshot, Volume, check_volume_size
from ebscrypt.stores.manifest import decode
from ebscrypt.stores.names import BLOCK_SIZE, BlockName
from ebscrypt.stores.publish import Pin
from ebscrypt.stores.transfer import Progress, transfer
from ebscrypt.stores.witness import Witness

if TYPE_CHECKING:
    from ebscrypt.control.lineage import Keying
    from ebscrypt.control.site import Site
    from ebscrypt.control.snapshot_source import Source, Told
    from ebscrypt.control.volume_request import VolumeRequest
    from ebscrypt.core import Device

SECTOR_SIZE_OF_PLAIN: Final = 512
"""Logical sector of a plain volume, whatever the export; partition tables and XFS count in it for ever."""
_GRAIN: Final = 4096
"""Bytes that are left a hole where they are zero: a page, which is what file systems allocate at least."""
_MOST_ZEROED: Final = GIB


def decide(site: Site, request: VolumeRequest, snapshot: Snapshot) -> VolumeRequest:
    """``request`` with what the table of facts §1.6 makes of ``encrypted`` and ``kms_key_id``.

    Raises as `volume_outcome` does.
    """
    defaults = get_ebs_encryption_by_default(site)
    outcome = volume_outcome(
        by_default=defaults.enabled,
        encrypted=request.encrypted,
        key_given=request.kms_key_id is not None,
        source=Origin(encrypted=snapshot.encrypted),
    )
    keys = {
        Outcome.PLAIN: None,
        Outcome.DEFAULT_KEY: defaults.kms_key_arn,
        Outcome.SOURCE_KEY: snapshot.kms_key_arn,
        Outcome.GIVEN_KEY: request.kms_key_id,
    }
    return msgspec.structs.replace(request, encrypted=outcome is not Outcome.PLAIN, kms_key_id=keys[outcome])


def fitted(request: VolumeRequest, snapshot: Snapshot) -> VolumeRequest:
    """``request`` with a size and a sector size; it says already whether the volume is encrypted.

    The sector size is the snapshot's: file systems remember it. That of a plain snapshot is 512, and an encrypted
    volume of it may have 4096 if that is asked for. Raises `InvalidParameter` for a size under the snapshot's, and for
    a sector size that its data cannot have.
    """
    size = snapshot.volume_size if request.size is None and request.backing is None else request.size
    if size is not None and size < snapshot.volume_size:
        raise InvalidParameter(
            f"a volume of {size} bytes is smaller than {snapshot.snapshot_id}, which has {snapshot.volume_size}",
            hint=f"leave out --size, or give at least {snapshot.volume_size}",
        )
    asked = request.sector_size
    if snapshot.encrypted:
        if asked not in (None, snapshot.sector_size):
            raise InvalidParameter(
                f"{snapshot.snapshot_id} has sectors of {snapshot.sector_size} bytes: what is in it counts in them, "
                f"and would not be found with sectors of {asked}",
                hint="leave out --sector-size",
            )
        sector_size = snapshot.sector_size
    else:
        sector_size = asked or (SECTOR_SIZE_OF_PLAIN if request.encrypted else snapshot.sector_size)
    check_volume_size(snapshot.volume_size, sector_size)
    if size is not None:
        check_volume_size(size, sector_size)
    return msgspec.structs.replace(request, size=size, sector_size=sector_size)


def initialized(site: Site, volume_id: str) -> dict[str, Any]:
    """EBS's event for a volume that has all of its snapshot's data."""
    event = site.event(VolumeEvent.INITIALIZE, "succeeded", volume_id)
    event["detail"]["completionTime"] = event["time"]
    return event


class Restoration:
    """One restore under way, while the snapshot's blocks are pinned; made by `restoring`."""

    def __init__(
        self,
        site: Site,
        volume: Volume,
        source: Source,
        keying: Keying | None,
        told: Told | None,
    ) -> None:
        self._site, self._volume, self._source, self._keying = site, volume, source, keying
        self._told, self._total = told, snapshot_source.data_size(source.manifest)

    def header(self) -> luks2.Header | None:
        """The LUKS2 header of the new volume: sealed where the data key was at hand, else as after any creation.

        None for a plain volume.
        """
        if self._keying is None:
            return None
        volume, wrapping = self._volume, self._keying.wrapping
        token = luks2.KmsToken(
            volume_id=volume.volume_id,
            kms_key_arn=wrapping.kms_key_arn,
            wrapped_key=wrapping.wrapped_key,
            encryption_context=wrapping.encryption_context,
            region=self._site.kms.region,
            sealed=False,
            data_encryption_key_id=wrapping.data_encryption_key_id,
        )
        header = luks2.create_header(token, size=volume.size, sector_size=volume.sector_size)
        return header if self._keying.digest is None else header.with_digest(self._keying.digest)

    def event(self) -> dict[str, Any]:
        """EBS's event for a volume that has all of its snapshot's data."""
        return initialized(self._site, self._volume.volume_id)

    def begin(self, snapshot: Snapshot) -> None:
        """Leave the blocks to a filler: keep them in the store, and note that all are still to come.

        Raises `StoreError`, `BackingError`. `fill_job.abandon` takes it back.
        """
        manifest, store, volume = self._source.manifest, self._source.store, self._volume
        raw = store.get_manifest(snapshot.snapshot_id, snapshot_source.largest(snapshot))
        # The same one, whatever has been put in its place since.
        decode(raw, snapshot.snapshot_id, Witness(digest=manifest.digest))
        job = fill_job.FillJob(
            snapshot_id=snapshot.snapshot_id,
            store=snapshot.store,
            digest=manifest.digest.hex(),
            blocks=len(manifest.blocks),
            turned=self._keying is not None and self._keying.turning is not None,
        )
        # First the job, by which whoever finds it knows the pin.
        with backing.translated(str(fill_job.fill_path(self._site.settings, volume.volume_id)), "write"):
            fill_job.begin(self._site.settings, volume, manifest, raw, job)
        Pin(store, volume.volume_id).add(manifest.blocks.names())

    def fill(self, descriptor: int, *, used: bool) -> None:
        """Write every block to the volume's backing, durably. ``used``: the backing may hold old bytes.

        Some `stores.workers` blocks are in memory at once. Raises `StoreError`, which names the block, `BackingError`.
        """
        from ebscrypt.core import Device  # noqa: PLC0415 - the compiled core, which few commands need

        volume = self._volume
        offset = luks2.DATA_OFFSET if volume.encrypted else 0
        with backing.translated(volume.backing, "restore to"):
            if used:
                # No old header is left that would say a volume is here, until there is one.
                remains.overwrite(descriptor, offset)
            device = Device(descriptor, size=volume.size, data_offset=offset)
            try:
                filling = _Filling(device, self._source, self._keying, used=used)
                workers = self._site.settings.stores.workers
                transfer(filling.pieces(volume.size), filling.write, workers=workers, progress=self._tell)
                faultpoints.reach("restore.written")
                device.flush()
            finally:
                device.close()

    def _tell(self, progress: Progress) -> None:
        if self._told is not None:
            self._told(progress.size, self._total)


@contextmanager
def restoring(
    site: Site,
    volume: Volume,
    snapshot: Snapshot,
    kms_key_id: str | None,
    told: Told | None,
) -> Iterator[Restoration]:
    """Hold the snapshot's blocks, and have KMS make the volume's wrapped key, under the KMS key of that name.

    Raises `StoreError` where the snapshot cannot be read, and what `lineage.keyed` raises.
    """
    with snapshot_source.held(site, snapshot, volume.volume_id) as source, ExitStack() as stack:
        keying = None
        if volume.encrypted:
            header = source.manifest.header
            keying = stack.enter_context(lineage.keyed(site, header, volume.volume_id, kms_key_id, volume.sector_size))
        yield Restoration(site, volume, source, keying, told)


class _Block(msgspec.Struct, frozen=True):
    """A block to be written."""

    index: int
    name: BlockName


class _Hole(msgspec.Struct, frozen=True):
    """A range of the volume that must read as zeros."""

    offset: int
    length: int


class _Filling:
    """Writes stored bytes, so it needs a device without a key."""

    def __init__(self, device: Device, source: Source, keying: Keying | None, *, used: bool) -> None:
        self._device, self._source, self._used = device, source, used
        self._turning = None if keying is None else keying.turning

    def pieces(self, size: int) -> Iterator[_Block | _Hole]:
        """The blocks in order, and where old bytes must go also what is between and behind them."""
        end = 0
        for index, name in self._source.manifest.blocks:
            yield from self._between(end, index * BLOCK_SIZE)
            yield _Block(index, name)
            end = index * BLOCK_SIZE + self._source.manifest.header.block_length(index)
        yield from self._between(end, size)

    def _between(self, begin: int, end: int) -> Iterator[_Hole]:
        if self._used:
            for offset in range(begin, end, _MOST_ZEROED):
                yield _Hole(offset, min(_MOST_ZEROED, end - offset))

    def write(self, piece: _Block | _Hole) -> int:
        """Write one piece; how many bytes of the snapshot it had."""
        if isinstance(piece, _Hole):
            self._device.write_zeroes(piece.offset, piece.length)
            return 0
        stored = self._source.store.get_block(piece.name)
        length = self._source.manifest.header.block_length(piece.index)
        snapshot_source.check_length(piece.index, stored, length)
        if self._turning is not None:
            stored = self._turning.turn(piece.index, stored)
        self._put(piece.index * BLOCK_SIZE, stored)
        return length

    def _put(self, offset: int, stored: bytes) -> None:
        view, at = memoryview(stored), 0
        for begin, end in data_runs(stored, _GRAIN):
            self._zero(offset + at, begin - at)
            self._device.pwrite(view[begin:end], offset + begin)
            at = end
        self._zero(offset + at, len(stored) - at)

    def _zero(self, offset: int, length: int) -> None:
        if self._used and length:
            self._device.write_zeroes(offset, length)
