"""Snapshots to try stores with: small blocks, headers, and manifests with their blocks in a store."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from ebscrypt.model import GIB
from ebscrypt.stores.block_list import BlockList, block_list
from ebscrypt.stores.manifest import Header, Wrapping, encode
from ebscrypt.stores.names import block_name
from ebscrypt.stores.store import Store
from ebscrypt.stores.witness import ManifestKey

KEY: Final = ManifestKey(bytes(range(32)))
VOLUME_ID: Final = "vol-0a1b2c3d4e5f60718"
WRAPPING: Final = Wrapping(
    kms_key_arn="arn:aws:kms:eu-central-1:111122223333:key/0987dcba-09fe-87dc-65ba-ab0987654321",
    wrapped_key=bytes(range(200)),
    encryption_context={"aws:ebs:id": VOLUME_ID},
    data_encryption_key_id="dek-0123456789abcdef0",
)


def snapshot_id(number: int) -> str:
    """The id of sample ``number``."""
    return f"snap-{number:017x}"


def header(number: int = 1, **changes: Any) -> Header:
    """A header of an encrypted volume of 1 GiB."""
    fields: dict[str, Any] = {
        "snapshot_id": snapshot_id(number),
        "volume_id": VOLUME_ID,
        "volume_size": GIB,
        "sector_size": 4096,
        "region": "eu-central-1",
        "description": "nightly",
        "start_time": datetime(2024, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
        "completion_time": datetime(2024, 1, 2, 3, 5, tzinfo=UTC),
        "encryption": WRAPPING,
    }
    return Header(**fields | changes)


def block(number: int) -> bytes:
    """A short block of its own content."""
    return b"block %d" % number


def blocks_of(numbers: Iterable[int]) -> BlockList:
    """Blocks by their numbers, each at the index of that number."""
    return block_list((number, block_name(block(number))) for number in sorted(numbers))


def manifest_of(number: int, numbers: Iterable[int]) -> bytes:
    """The manifest of snapshot ``number`` with these blocks."""
    return encode(header(number), blocks_of(numbers), KEY)


def put_blocks(store: Store, numbers: Iterable[int]) -> None:
    """Put blocks by their numbers."""
    for number in numbers:
        content = block(number)
        store.put_block(block_name(content), content)
