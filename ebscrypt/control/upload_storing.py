"""`UploadStoring`: the manifest of an upload that its client has completed. Its blocks are in the store already."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebscrypt.control import faultpoints, upload
from ebscrypt.control.block_storing import Published
from ebscrypt.errors import StateError
from ebscrypt.model import format_size, utc_now
from ebscrypt.stores.block_list import BlockList, block_list
from ebscrypt.stores.manifest import Header, Manifest, decode, encode, manifest_digest
from ebscrypt.stores.names import BLOCK_SIZE, BlockName, block_name
from ebscrypt.stores.publish import Pin, publish
from ebscrypt.stores.witness import UNCHECKED, load_manifest_key

if TYPE_CHECKING:
    from ebscrypt.control.site import Site
    from ebscrypt.control.upload import UploadJob
    from ebscrypt.model import Snapshot
    from ebscrypt.stores.store import Store


class UploadStoring:
    """One upload whose log is sealed, or whose time is up: then `run` raises `StateError` saying so."""

    def __init__(self, site: Site, snapshot: Snapshot, job: UploadJob, store: Store) -> None:
        self._site, self._snapshot, self._job, self._store = site, snapshot, job, store
        self._padded: dict[BlockName, bytes] = {}

    def run(self) -> Published:
        """Publish the manifest: the parent's blocks, less those that were put, and those."""
        blocks = self._blocks()
        now = utc_now()
        snapshot = self._snapshot
        header = Header(
            snapshot_id=snapshot.snapshot_id,
            volume_id=snapshot.volume_id,
            volume_size=snapshot.volume_size,
            sector_size=snapshot.sector_size,
            region=self._job.region,
            description=snapshot.description,
            start_time=snapshot.start_time,
            completion_time=now,
            parent=snapshot.parent,
            encryption=self._job.encryption,
        )
        raw = encode(header, blocks, load_manifest_key(self._site.settings.manifest_key_path))
        pin = Pin(self._store, snapshot.snapshot_id)
        publish(self._store, snapshot.snapshot_id, raw, names=blocks.names(), pin=pin, put_again=self._put_again)
        faultpoints.reach("upload.published")
        return Published(manifest_digest(raw), now)

    def _blocks(self) -> BlockList:
        log = upload.log_of(self._site.settings, self._snapshot.snapshot_id)
        try:
            uploaded = log.read()
        except FileNotFoundError:
            raise StateError("the start of the upload was interrupted") from None
        with uploaded:
            if not uploaded.sealed:
                minutes = self._job.timeout // 60
                raise StateError(
                    f"the upload was not completed within {minutes} minutes of its last block: "
                    f"{format_size(uploaded.count * BLOCK_SIZE)} were written"
                )
            changes = {record.block: record.name for record in uploaded}
        base = parent_of(self._site, self._snapshot)
        if base is None:
            return block_list((index, name) for index, name in changes.items() if name is not None)
        return base.blocks.with_changes(self._short_end(base) | changes)

    def _short_end(self, base: Manifest) -> dict[int, BlockName | None]:
        """The parent's last block where it is short and the volume goes on behind it now: with a hole at its end."""
        index = base.header.block_count - 1
        name = base.blocks.get(index)
        if name is None or base.header.volume_size % BLOCK_SIZE == 0:
            return {}
        content = self._store.get_block(name).ljust(BLOCK_SIZE, b"\0")
        longer = block_name(content)
        self._padded[longer] = content
        self._store.put_block(longer, content)
        return {index: longer}

    def _put_again(self, absent: set[BlockName]) -> None:
        """All others were made safe before they were acknowledged; if one is missing all the same, it is told."""
        for name in absent & self._padded.keys():
            self._store.put_block(name, self._padded[name])


def parent_of(site: Site, snapshot: Snapshot) -> Manifest | None:
    """The manifest that an upload builds on, from its folder, which nobody else can write to."""
    if snapshot.parent is None:
        return None
    path = upload.parent_path(site.settings, snapshot.snapshot_id)
    return decode(path.read_bytes(), snapshot.parent, UNCHECKED)
