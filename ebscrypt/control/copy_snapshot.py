"""`copy_snapshot`: a snapshot anew, under the same data key or another, in the same store or another, or Region.

Of what is encrypted only encrypted copies are made, and no copy keeps its source's KMS key by itself (facts §1.7). The
wrapped key is bound to the copy's own id. The row is ``pending`` while blocks move, and ``completed``, in one
transaction with its event, once the manifest is in the store. A failure takes back what there is in the store and
leaves the row in ``error`` with its reason, as EBS does; so does `recover` with a copy whose process died.

Between Regions there are two sites: the source's, which is only read, and the destination's, which makes the copy with
its own KMS, stores and manifest key.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ebscrypt.control import faultpoints, lineage, locks, snapshot_source
from ebscrypt.control.copy_blocks import BlockCopier
from ebscrypt.control.copy_undone import CopyJob, copy_event, undo_copy
from ebscrypt.control.defaults import get_ebs_encryption_by_default
from ebscrypt.control.encryption import Outcome, copy_outcome
from ebscrypt.control.restore import SECTOR_SIZE_OF_PLAIN
from ebscrypt.control.snapshots import check_description
from ebscrypt.control.tags import check_tags
from ebscrypt.kms.names import parse_key_name
from ebscrypt.model import Snapshot, SnapshotState, new_snapshot_id, utc_now
from ebscrypt.stores.addresses import open_store
from ebscrypt.stores.manifest import Header, Wrapping, encode, manifest_digest
from ebscrypt.stores.witness import load_manifest_key

if TYPE_CHECKING:
    from ebscrypt.control.lineage import Keying
    from ebscrypt.control.site import Site
    from ebscrypt.control.snapshot_source import Source, Told
    from ebscrypt.stores.store import Store

MOST_COPIES: Final = 20
"""EBS's limit of copies that are under way in one destination Region (facts §1.7)."""
_NOTE_EVERY: Final = 1.0
"""Seconds between two notes of the progress in the catalog: each is a transaction."""


class CopyRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `copy_snapshot` is asked for. A copy inherits neither description nor tags (facts §1.7).

    ``encrypted`` None leaves it to the source and to encryption by default. ``store`` names where the copy shall lie;
    None is where the source does, or the default of another Region.
    """

    source_snapshot_id: str
    encrypted: bool | None = None
    kms_key_id: str | None = None
    description: str = ""
    store: str | None = None
    tags: dict[str, str] = {}


def copy_snapshot(
    site: Site,
    request: CopyRequest,
    *,
    source_site: Site | None = None,
    told: Told | None = None,
    cancel: threading.Event | None = None,
) -> Snapshot:
    """Make a copy and return it, completed. ``told`` hears of the progress while blocks move; ``cancel`` stops it.

    ``site`` is where the copy shall be, ``source_site`` where its source is, None for the same. Raises, before anything
    exists, `UsageError` of the fitting kind, `SnapshotNotFound` and `StateError` for a source that cannot be copied,
    `CopyLimit`, `StoreError` for a target that cannot be opened; and then, leaving nothing but the record, `KmsError`,
    `StoreError`, `NotPermitted`.
    """
    at = source_site or site
    plan = plan_copy(site, at, request)
    copy = plan.copy
    job = None if at is site else msgspec.json.encode(CopyJob(source_region=at.settings.kms.region)).decode()
    with locks.held(site.settings, copy.snapshot_id, "snapshot copy"):
        try:
            site.catalog.snapshots.add(copy, job=job, copies=MOST_COPIES)
            faultpoints.reach("copy.entered")
            return make_copy(site, at, plan, told=told, cancel=cancel)
        finally:
            locks.forget(site.settings, copy.snapshot_id)


class Plan(NamedTuple):
    """``copy`` is its row to be, ``kms_key_id`` the name of its key: None is the AWS managed one, or none is needed."""

    source: Snapshot
    copy: Snapshot
    kms_key_id: str | None


def plan_copy(site: Site, source_site: Site, request: CopyRequest) -> Plan:
    """What a copy will be. Nothing exists yet; raises what `copy_snapshot` raises before anything does."""
    source = snapshot_source.find_source(source_site, request.source_snapshot_id)
    encrypted, kms_key_id = _decided(site, request, source)
    _check(request)
    copy = _planned(site, request, source, encrypted=encrypted, same_region=source_site is site)
    open_store(site.settings, copy.store).close()
    return Plan(source, copy, kms_key_id)


def make_copy(
    site: Site,
    source_site: Site,
    plan: Plan,
    *,
    told: Told | None = None,
    cancel: threading.Event | None = None,
) -> Snapshot:
    """The work on a copy whose row is entered, for who holds its lock; what fails takes it back, and is raised."""
    return _Copying(site, source_site, plan.source, plan.copy, plan.kms_key_id, told=told, cancel=cancel).run()


def _decided(site: Site, request: CopyRequest, source: Snapshot) -> tuple[bool, str | None]:
    """Whether the copy is encrypted, and the name of its key: None where that is the AWS managed one (facts §1.7)."""
    defaults = get_ebs_encryption_by_default(site)
    outcome = copy_outcome(
        by_default=defaults.enabled,
        encrypted=request.encrypted,
        key_given=request.kms_key_id is not None,
        source_encrypted=source.encrypted,
    )
    if outcome is Outcome.PLAIN:
        return False, None
    return True, request.kms_key_id if outcome is Outcome.GIVEN_KEY else defaults.kms_key_arn


def _check(request: CopyRequest) -> None:
    if request.kms_key_id is not None:
        parse_key_name(request.kms_key_id)
    check_tags(request.tags)
    check_description(request.description)


def _planned(site: Site, request: CopyRequest, source: Snapshot, *, encrypted: bool, same_region: bool) -> Snapshot:
    """The row of the copy to be. What lies in a plain volume counts in sectors of 512 bytes, and goes on doing so."""
    turned_from_plain = encrypted and not source.encrypted
    return Snapshot(
        snapshot_id=new_snapshot_id(),
        volume_id=source.volume_id,
        state=SnapshotState.PENDING,
        volume_size=source.volume_size,
        sector_size=SECTOR_SIZE_OF_PLAIN if turned_from_plain else source.sector_size,
        encrypted=encrypted,
        description=request.description,
        start_time=source.start_time,
        store=request.store or (source.store if same_region else site.settings.stores.default),
        copied_from=source.snapshot_id,
        tags=request.tags,
    )


class _Made(NamedTuple):
    """What a copy turned out to be."""

    wrapping: Wrapping | None
    incremental: bool
    digest: bytes
    size: int


class _Copying:
    """One copy under way. ``began`` is when, for the event: the row's start time is that of the data."""

    def __init__(
        self,
        site: Site,
        source_site: Site,
        source: Snapshot,
        copy: Snapshot,
        kms_key_id: str | None,
        *,
        told: Told | None,
        cancel: threading.Event | None,
    ) -> None:
        self._site, self._source_site, self._source = site, source_site, source
        self._copy, self._kms_key_id = copy, kms_key_id
        self._told, self._cancel, self._noted, self._began = told, cancel, 0.0, utc_now()

    def run(self) -> Snapshot:
        try:
            made = self._make()
            faultpoints.reach("copy.published")
            return self._complete(made)
        except BaseException as error:
            undo_copy(self._site, self._copy, error, source_site=self._source_site, began=self._began)
            raise

    def _make(self) -> _Made:
        copy = self._copy
        with (
            snapshot_source.held(self._source_site, self._source, copy.snapshot_id) as source,
            contextlib.ExitStack() as stack,
        ):
            target = stack.enter_context(contextlib.closing(open_store(self._site.settings, copy.store)))
            keying = None
            if copy.encrypted:
                keys = lineage.keyed(
                    self._site,
                    source.manifest.header,
                    copy.snapshot_id,
                    self._kms_key_id,
                    copy.sector_size,
                    source_site=self._source_site,
                )
                keying = stack.enter_context(keys)
            faultpoints.reach("copy.wrapped")
            return self._move(source, target, keying)

    def _move(self, source: Source, target: Store, keying: Keying | None) -> _Made:
        turning, total = None if keying is None else keying.turning, snapshot_source.data_size(source.manifest)
        copier = BlockCopier(
            source,
            target,
            self._copy.snapshot_id,
            turning,
            workers=self._site.settings.stores.workers,
            told=lambda progress: self._tell(progress.size, total),
            cancel=self._cancel,
        )
        try:
            blocks = copier.copy()
            faultpoints.reach("copy.moved")
            wrapping = None if keying is None else keying.wrapping
            header = self._header(source.manifest.header, wrapping)
            raw = encode(header, blocks, load_manifest_key(self._site.settings.manifest_key_path))
            copier.publish(raw, blocks)
        finally:
            copier.release()
        return _Made(wrapping, incremental=turning is None, digest=manifest_digest(raw), size=total)

    def _header(self, of_source: Header, wrapping: Wrapping | None) -> Header:
        copy = self._copy
        return Header(
            snapshot_id=copy.snapshot_id,
            volume_id=copy.volume_id,
            volume_size=of_source.volume_size,
            sector_size=copy.sector_size,
            region=self._site.settings.kms.region,
            description=copy.description,
            start_time=of_source.start_time,
            completion_time=utc_now(),
            encryption=wrapping,
        )

    def _complete(self, made: _Made) -> Snapshot:
        wrapping = made.wrapping
        return self._site.catalog.snapshots.change_state(
            self._copy.snapshot_id,
            SnapshotState.PENDING,
            SnapshotState.COMPLETED,
            copy_event(
                self._site,
                self._copy,
                "succeeded",
                self._began,
                source_region=self._source_site.settings.kms.region,
                incremental=made.incremental,
            ),
            kms_key_arn=None if wrapping is None else wrapping.kms_key_arn,
            data_encryption_key_id=None if wrapping is None else wrapping.data_encryption_key_id,
            digest=made.digest.hex(),
            completion_time=utc_now(),
            bytes_done=made.size,
            bytes_total=made.size,
        )

    def _tell(self, done: int, total: int) -> None:
        """Pass the progress on, and note it now and then; that raises `StateError` once the copy is being deleted."""
        now = time.monotonic()
        if now - self._noted >= _NOTE_EVERY:
            self._noted = now
            self._site.catalog.snapshots.progress(self._copy.snapshot_id, done, total)
        if self._told is not None:
            self._told(done, total)
