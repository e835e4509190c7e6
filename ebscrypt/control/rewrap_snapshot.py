"""`rewrap_snapshot`: a new wrapped key for a snapshot's data key, by another KMS key or the same one's newest material.

    KMS        ReEncrypt gives the new wrapped key, for the snapshot's own encryption context
    proof      old and new one are unwrapped as for an attachment, and must give the same data key
    catalog    the digest of the new manifest and its KMS key are noted: from now on readers take either manifest
    store      the new manifest in the place of the old one; it lists the same blocks
    catalog    the snapshot has that digest and KMS key, and no rewrap is under way

No block moves. An object of a store is replaced whole or not at all, so after a crash there is the one manifest or the
other, and `settle_rewrap` lets the catalog follow. Copies and volumes made before are not concerned.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import msgspec

from ebscrypt.catalog.snapshots import Rewrap
from ebscrypt.control import data_key, faultpoints, locks
from ebscrypt.control.snapshot_source import find_source, largest, witness_of
from ebscrypt.errors import KeyMismatch, StateError
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.manifest import decode, encode, manifest_digest
from ebscrypt.stores.witness import load_manifest_key

if TYPE_CHECKING:
    from ebscrypt.control.site import Site
    from ebscrypt.model import Snapshot
    from ebscrypt.stores.manifest import Manifest, Wrapping
    from ebscrypt.stores.store import Store


def rewrap_snapshot(site: Site, snapshot_id: str, kms_key_id: str, *, dry_run: bool = False) -> Snapshot:
    """Have the data key of a completed snapshot wrapped by ``kms_key_id``; the key it has already is allowed.

    ``dry_run`` checks all that can be checked and changes nothing. Raises `StateError` for a plain snapshot and one
    that is not completed, what `KmsClient.resolve_key` raises, `KmsError`, `KeyMismatch` when the new wrapped key is
    not one of the snapshot's data key, `StoreError`. Then it has its old key, or by misfortune the new one.
    """
    find_source(site, snapshot_id)
    with locks.held(site.settings, snapshot_id, "rewrap"):
        settle_rewrap(site, snapshot_id)
        snapshot = find_source(site, snapshot_id)
        with closing(open_store(site.settings, snapshot.store, create=False)) as store:
            manifest = _manifest(site, snapshot, store)
            old = _wrapping(manifest)
            key = site.kms.resolve_key(kms_key_id)
            if dry_run:
                site.kms.dry_run("ReEncrypt", key.arn, **data_key.reencrypt_request(old, key.arn))
                return snapshot
            new = _proven(site, snapshot_id, old, key.arn)
            faultpoints.reach("rewrap.proven")
            return _replace(site, snapshot, store, manifest, new)


def settle_rewrap(site: Site, snapshot_id: str) -> None:
    """Let the catalog have what the store's manifest says after an interrupted rewrap. The caller holds the lock."""
    rewrap = site.catalog.snapshots.rewrap(snapshot_id)
    if rewrap is None:
        return
    snapshot = site.catalog.snapshots.get(snapshot_id)
    with closing(open_store(site.settings, snapshot.store, create=False)) as store:
        done = _manifest(site, snapshot, store).digest.hex() == rewrap.digest
    site.catalog.snapshots.end_rewrap(snapshot_id, done=done)
    kept = rewrap.kms_key_arn if done else snapshot.kms_key_arn
    site.notes.append(f"the rewrap of {snapshot_id} was interrupted: its data key is wrapped by {kept}")


def _manifest(site: Site, snapshot: Snapshot, store: Store) -> Manifest:
    raw = store.get_manifest(snapshot.snapshot_id, largest(snapshot))
    return decode(raw, snapshot.snapshot_id, witness_of(site, snapshot))


def _wrapping(manifest: Manifest) -> Wrapping:
    if manifest.header.encryption is None:
        raise StateError(
            f"snapshot {manifest.header.snapshot_id} is not encrypted: a rewrap needs a data key",
            hint="`ebscrypt snapshot copy SNAP --kms-key-id KEY` makes an encrypted copy",
        )
    return manifest.header.encryption


def _proven(site: Site, snapshot_id: str, old: Wrapping, key_arn: str) -> Wrapping:
    """The new wrapped key, once KMS has unwrapped the same data key from it as from the old one."""
    wrapped = data_key.wrapped_anew(site, old, key_arn, old.encryption_context)
    new = msgspec.structs.replace(old, kms_key_arn=wrapped.key_arn, wrapped_key=wrapped.blob)
    with data_key.unwrapped(site, old) as before, data_key.unwrapped(site, new) as after:
        if not data_key.matches(after, data_key.digest_of(before)):
            raise KeyMismatch(
                f"the wrapped key that KMS made for {snapshot_id} opens, but not to the snapshot's data key",
                hint="nothing has been changed; check what answers at kms.endpoint",
            )
    return new


def _replace(site: Site, snapshot: Snapshot, store: Store, manifest: Manifest, new: Wrapping) -> Snapshot:
    header = msgspec.structs.replace(manifest.header, encryption=new)
    raw = encode(header, manifest.blocks, load_manifest_key(site.settings.manifest_key_path))
    rows = site.catalog.snapshots
    rows.begin_rewrap(snapshot.snapshot_id, Rewrap(digest=manifest_digest(raw).hex(), kms_key_arn=new.kms_key_arn))
    faultpoints.reach("rewrap.noted")
    # An error from here on leaves the note: whether the store took the new manifest is for `settle_rewrap` to see.
    store.replace_manifest(snapshot.snapshot_id, raw)
    faultpoints.reach("rewrap.described")
    rows.end_rewrap(snapshot.snapshot_id, done=True)
    site.notes.append(
        "the data key is the same as before: whoever has it, or has an older manifest and may use the key that wrapped "
        "it then, can read the snapshot still"
    )
    return rows.get(snapshot.snapshot_id)
