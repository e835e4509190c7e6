"""`rebuild_snapshots`: the catalog's rows of snapshots from the manifests in the stores, should the catalog be lost.

Looked at is every store of the settings. With the catalog its digests are lost, so the manifest key vouches for the
manifests: those of another installation are left alone, and told. Tags are lost, and so is which snapshot is a copy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ebscrypt.control import faultpoints
from ebscrypt.control.rebuild import Found, Outcome
from ebscrypt.control.site import Site
from ebscrypt.errors import EbscryptError, ManifestNotAuthentic, StoreNotFound
from ebscrypt.model import Snapshot, SnapshotState
from ebscrypt.stores.addresses import LOCAL, open_store
from ebscrypt.stores.manifest import Manifest, decode
from ebscrypt.stores.store import Store
from ebscrypt.stores.witness import Witness, load_manifest_key


def rebuild_snapshots(site: Site) -> list[Found]:
    """Enter every snapshot that is found and not in the catalog. A store that does not answer is told, as refused."""
    stores = site.settings.stores
    found: list[Found] = []
    for name in dict.fromkeys([stores.default, LOCAL, *stores.urls]):
        try:
            with contextlib.closing(open_store(site.settings, name, create=False)) as store:
                found.extend(_in_store(site, name, store))
        except StoreNotFound as error:
            if name not in (LOCAL, stores.default):
                found.append(Found(path=name, result=Outcome.REFUSED, message=error.message))
        except EbscryptError as error:
            found.append(Found(path=name, result=Outcome.REFUSED, message=error.message))
    return found


def _in_store(site: Site, name: str, store: Store) -> Iterator[Found]:
    known = {snapshot.snapshot_id for snapshot in site.catalog.snapshots.list()}
    witness = Witness(keys=(load_manifest_key(site.settings.manifest_key_path),))
    foreign = 0
    for snapshot_id in store.list_manifests():
        result, message = Outcome.KNOWN, None
        if snapshot_id not in known:
            try:
                manifest = decode(store.get_manifest(snapshot_id), snapshot_id, witness)
                site.catalog.snapshots.add(_snapshot(name, manifest))
                faultpoints.reach("rebuild.snapshot")
                result = Outcome.ADDED
            except ManifestNotAuthentic:
                foreign += 1
                continue
            except EbscryptError as error:
                result, message = Outcome.REFUSED, error.message
        yield Found(path=store.url, result=result, snapshot_id=snapshot_id, message=message)
    if foreign:
        site.notes.append(
            f"{foreign} snapshots in the store {name} bear no tag of this installation's manifest key: left alone"
        )


def _snapshot(store: str, manifest: Manifest) -> Snapshot:
    header = manifest.header
    encryption = header.encryption
    size = sum(header.block_length(index) for index, _ in manifest.blocks)
    return Snapshot(
        snapshot_id=header.snapshot_id,
        volume_id=header.volume_id,
        state=SnapshotState.COMPLETED,
        volume_size=header.volume_size,
        sector_size=header.sector_size,
        encrypted=encryption is not None,
        kms_key_arn=None if encryption is None else encryption.kms_key_arn,
        data_encryption_key_id=None if encryption is None else encryption.data_encryption_key_id,
        description=header.description,
        start_time=header.start_time,
        completion_time=header.completion_time,
        bytes_done=size,
        bytes_total=size,
        store=store,
        digest=manifest.digest.hex(),
        parent=header.parent,
    )
