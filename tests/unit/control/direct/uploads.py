"""Clients of the direct functions, and what independent arithmetic makes of what they stored."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from ebscrypt.control import upload
from ebscrypt.control.direct import DirectAccess
from ebscrypt.control.list_snapshot_blocks import get_snapshot_block, list_snapshot_blocks
from ebscrypt.control.put_snapshot_block import complete_snapshot, put_snapshot_block
from ebscrypt.control.site import Site
from ebscrypt.control.start_snapshot import StartRequest, start_snapshot
from ebscrypt.kms.client import KmsClient
from ebscrypt.model import Snapshot, SnapshotState
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.manifest import Wrapping
from ebscrypt.stores.names import BLOCK_SIZE
from tests.unit.control.from_snapshots.contents import manifest_of, noise

ZEROS = bytes(BLOCK_SIZE)
LAST = 2047
"""The index of the last block of 1 GiB."""


def data(seed: int) -> bytes:
    """A block that is the same in each run, with some sectors of zeros in it."""
    return noise(100_000, seed) + bytes(8192) + noise(BLOCK_SIZE - 108_192, seed + 1000)


def checksum(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode("ascii")


def linear(blocks: Mapping[int, bytes]) -> str:
    """The LINEAR aggregate of blocks, as a client computes it."""
    digests = b"".join(hashlib.sha256(blocks[index]).digest() for index in sorted(blocks))
    return checksum(digests)


def put(site: Site, access: DirectAccess, snapshot_id: str, index: int, content: bytes) -> None:
    told = put_snapshot_block(site, access, snapshot_id, index, content, checksum=checksum(content))
    assert told == checksum(content)


def start(site: Site, **request: object) -> Snapshot:
    return start_snapshot(site, StartRequest(**({"volume_size": 1} | request)))  # type: ignore[arg-type]


def complete(site: Site, snapshot_id: str, blocks: Mapping[int, bytes]) -> Snapshot:
    """Complete, with the right count and aggregate."""
    snapshot = complete_snapshot(site, snapshot_id, changed_blocks_count=len(blocks), checksum=linear(blocks))
    assert snapshot.state is SnapshotState.COMPLETED, snapshot.state_message
    return snapshot


def uploaded(site: Site, access: DirectAccess, blocks: Mapping[int, bytes], **request: object) -> Snapshot:
    """A completed snapshot with these blocks."""
    snapshot = start(site, **request)
    for index, content in blocks.items():
        put(site, access, snapshot.snapshot_id, index, content)
    return complete(site, snapshot.snapshot_id, blocks)


def downloaded(site: Site, access: DirectAccess, snapshot_id: str) -> dict[int, bytes]:
    """All blocks of a snapshot, by the reading functions."""
    found: dict[int, bytes] = {}
    token = None
    while True:
        page = list_snapshot_blocks(site, access, snapshot_id, next_token=token, max_results=100)
        for block, block_token in page.blocks:
            got = get_snapshot_block(site, access, snapshot_id, block, block_token=block_token)
            assert got.checksum == checksum(got.content)
            found[block] = got.content
        token = page.next_token
        if token is None:
            return found


def stored_blocks(site: Site, snapshot: Snapshot) -> dict[int, bytes]:
    """The stored bytes of a completed snapshot's blocks."""
    with contextlib.closing(open_store(site.settings, snapshot.store, create=False)) as store:
        return {index: store.get_block(name) for index, name in manifest_of(site, snapshot).blocks}


def deciphered(site: Site, snapshot: Snapshot) -> dict[int, bytes]:
    """The plaintext of a completed snapshot by `cryptography`'s AES-XTS: nothing of the core has a part in it."""
    wrapping = manifest_of(site, snapshot).header.encryption
    assert wrapping is not None
    key = data_key_of(site, wrapping)
    return {
        index: _xts(key, index * BLOCK_SIZE, stored, snapshot.sector_size)
        for index, stored in stored_blocks(site, snapshot).items()
    }


def data_key_of(site: Site, wrapping: Wrapping) -> bytes:
    opened = KmsClient(site.settings).decrypt(
        wrapping.wrapped_key, wrapping.encryption_context, expected_key_arn=wrapping.kms_key_arn
    )
    return opened.plaintext


def _xts(key: bytes, offset: int, stored: bytes, sector_size: int) -> bytes:
    """Sectors that are all zeros were never written."""
    plain = bytearray()
    for at in range(0, len(stored), sector_size):
        sector = stored[at : at + sector_size]
        tweak = ((offset + at) // 512).to_bytes(16, "little")
        decryptor = Cipher(algorithms.AES(key), modes.XTS(tweak)).decryptor()
        plain += decryptor.update(sector) + decryptor.finalize() if any(sector) else sector
    return bytes(plain)


def age_log(site: Site, snapshot_id: str, seconds: float) -> None:
    """Let the last block have been put so many seconds earlier."""
    path: Path = upload.folder(site.settings, snapshot_id) / "log"
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))
