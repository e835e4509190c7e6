"""`put_snapshot_block` and `complete_snapshot`: a pending snapshot filled, and sealed.

Plaintext is enciphered in the core before anything keeps it, under the snapshot's data key and with the tweak of the
block's place: what is stored is what a volume would have there. A block of zeros is a hole and not stored at all.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import TYPE_CHECKING, Final

from ebscrypt.control import faultpoints, locks, storing, upload
from ebscrypt.control.direct import existing
from ebscrypt.control.upload_log import Record, Uploaded
from ebscrypt.control.upload_puts import check_open, not_pending
from ebscrypt.errors import InvalidBlockRequest, StateError
from ebscrypt.model import Snapshot, SnapshotState
from ebscrypt.stores.names import BLOCK_SIZE, block_name

if TYPE_CHECKING:
    from ebscrypt.control.direct import DirectAccess
    from ebscrypt.control.site import Site
    from ebscrypt.control.upload import UploadJob

COMMAND: Final = "snapshot complete"
_PATIENCE: Final = 10.0
"""Seconds that `complete_snapshot` waits for another one of the same snapshot before it says "pending"."""
_ZEROS: Final = bytes(BLOCK_SIZE)


def put_snapshot_block(
    site: Site, access: DirectAccess, snapshot_id: str, index: int, content: bytes, *, checksum: str
) -> str:
    """Put a block of 524288 bytes at ``index``; when this returns it is there to stay. Returns its checksum.

    ``checksum`` is the base64 of its SHA-256. What was put there before is replaced. Raises `InvalidBlockRequest` of
    the fitting reason, `SnapshotNotFound`, `KmsError` and `StoreError`; then the block is as it was.
    """
    digest = _checked(content, checksum)
    snapshot, job = _pending(site, snapshot_id)
    if not 0 <= index < snapshot.volume_size // BLOCK_SIZE:
        raise InvalidBlockRequest(
            f"block {index} is not in {snapshot_id}, which has {snapshot.volume_size // BLOCK_SIZE} blocks",
            reason="INVALID_BLOCK",
        )
    puts = access.puts(snapshot_id)
    with puts.claimed(index, digest):
        store = access.store(job.store_url)
        if content == _ZEROS:
            puts.put(site, store, Record(index, None, digest), b"")
        else:
            stored = content
            if job.encryption is not None:
                with access.cipher(site, snapshot, job.encryption) as cipher:
                    stored = cipher.enciphered(index, content)
            name = block_name(stored)
            store.put_block(name, stored)
            faultpoints.reach("upload.put")
            puts.put(site, store, Record(index, name, digest), stored)
    return base64.b64encode(digest).decode("ascii")


def complete_snapshot(
    site: Site, snapshot_id: str, *, changed_blocks_count: int, checksum: str | None = None
) -> Snapshot:
    """Seal the snapshot and return it: ``completed``, or ``error`` with its reason; ``pending`` while another does it.

    ``changed_blocks_count`` is how many blocks were put, ``checksum`` their LINEAR aggregate. Once it was answered it
    may be repeated. Raises `InvalidBlockRequest` where count or checksum is another: nothing is sealed then.
    """
    snapshot = existing(site, snapshot_id)
    if snapshot.state is SnapshotState.COMPLETED and snapshot.volume_id == upload.NO_VOLUME:
        return snapshot
    log = upload.log_of(site.settings, snapshot_id)
    if upload.upload_job(site, snapshot_id) is None or not log.exists():
        raise not_pending(snapshot_id)
    try:
        with locks.held(site.settings, snapshot_id, COMMAND, timeout=_PATIENCE):
            snapshot = existing(site, snapshot_id)
            if snapshot.state is SnapshotState.PENDING:
                if not log.is_sealed():
                    check_open(site, snapshot_id)
                    with log.read() as uploaded:
                        _compare(snapshot_id, uploaded, changed_blocks_count, checksum)
                    log.seal()
                    faultpoints.reach("upload.sealed")
                storing.store_snapshot(site, snapshot)
    except StateError:
        if not locks.holder(site.settings, snapshot_id):
            raise
    return site.catalog.snapshots.get(snapshot_id)


def _pending(site: Site, snapshot_id: str) -> tuple[Snapshot, UploadJob]:
    snapshot = existing(site, snapshot_id)
    job = upload.upload_job(site, snapshot_id) if snapshot.state is SnapshotState.PENDING else None
    if job is None:
        raise not_pending(snapshot_id)
    if not upload.is_open(site, snapshot):
        # Its time is up, or it was sealed by a process that died: what is left to do with it is done now.
        storing.settle_snapshot(site, snapshot_id)
        raise not_pending(snapshot_id)
    return snapshot, job


def _checked(content: bytes, checksum: str) -> bytes:
    """The SHA-256 of a block, which ``checksum`` must be as well."""
    if len(content) != BLOCK_SIZE:
        raise InvalidBlockRequest(f"a block has {BLOCK_SIZE} bytes, not {len(content)}", reason="INVALID_BLOCK")
    digest = hashlib.sha256(content).digest()
    if not hmac.compare_digest(digest, _decoded(checksum)):
        raise InvalidBlockRequest(
            "the block's SHA-256 is not the checksum that came with it: it was changed on the way",
            hint="send it again; the checksum is the base64 of the 32 bytes",
            reason="INVALID_BLOCK",
        )
    return digest


def _decoded(checksum: str) -> bytes:
    try:
        return base64.b64decode(checksum, validate=True)
    except (binascii.Error, ValueError):
        return b""


def _compare(snapshot_id: str, uploaded: Uploaded, count: int, checksum: str | None) -> None:
    if uploaded.count != count:
        raise InvalidBlockRequest(
            f"ChangedBlocksCount is {count}, and {uploaded.count} blocks were put into {snapshot_id}",
            hint="put what is missing, or count again: a block that was put twice counts once",
        )
    if checksum is not None and not hmac.compare_digest(uploaded.linear_checksum(), _decoded(checksum)):
        raise InvalidBlockRequest(
            f"the aggregated checksum is not that of the blocks that were put into {snapshot_id}",
            hint="it is the SHA-256 of the blocks' SHA-256s, 32 bytes each, in the order of their indexes, in base64",
        )
