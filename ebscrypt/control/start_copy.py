"""`start_copy`: a copy of a snapshot that nobody waits for, as EC2's CopySnapshot makes it.

    catalog   the row, ``pending``, with the job that says where its source is and under which key it shall be
    process   ``ebscrypt snapshot settle``, as behind any pending snapshot, which makes it as `copy_snapshot` does

It outlives whoever asked for it. Where the process dies the next command starts another, which takes back what the
first one left in the store and begins anew.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from ebscrypt.control import copy_undone, faultpoints, regions, snapshot_source, storing
from ebscrypt.control.copy_snapshot import MOST_COPIES, Plan, make_copy, plan_copy
from ebscrypt.control.copy_undone import CopyJob
from ebscrypt.errors import ConfigError, EbscryptError, InvalidParameter, StateError

if TYPE_CHECKING:
    from ebscrypt.control.copy_snapshot import CopyRequest
    from ebscrypt.control.site import Site
    from ebscrypt.model import Snapshot


def start_copy(site: Site, request: CopyRequest, *, source_site: Site | None = None) -> Snapshot:
    """Enter a copy and return it ``pending``; whether a KMS key lets it be made is seen later (facts §1.7).

    ``site`` is where the copy shall be, ``source_site`` where its source is, None for the same. Raises what
    `copy_snapshot` raises before anything exists.
    """
    at = source_site or site
    plan = plan_copy(site, at, request)
    job = CopyJob(source_region=at.settings.kms.region, in_background=True, kms_key_id=plan.kms_key_id)
    site.catalog.snapshots.add(plan.copy, job=msgspec.json.encode(job).decode(), copies=MOST_COPIES)
    faultpoints.reach("copy.asked")
    try:
        storing.start_storing(site, plan.copy.snapshot_id)
    except StateError as error:
        # It is entered: who was told of a failure here would ask again, and have two.
        site.notes.append(error.message)
    return plan.copy


def continue_copy(site: Site, copy: Snapshot) -> None:
    """The work on a pending copy, for who holds its lock. One that a command made, and died at, ends in ``error``.

    A failure is no error here but the state of the copy.
    """
    job = copy_undone.copy_job(site, copy)
    if job is None or not job.in_background or copy.copied_from is None:
        copy_undone.undo_interrupted_copy(site, copy)
        return
    try:
        with regions.site_of(site, job.source_region) as at:
            _make(site, at, copy, copy.copied_from, job)
    except (ConfigError, InvalidParameter) as error:
        copy_undone.undo_copy(site, copy, error)


def _make(site: Site, source_site: Site, copy: Snapshot, source_id: str, job: CopyJob) -> None:
    try:
        # Of a process that died at this work.
        copy_undone.remove_from_store(site, copy)
        snapshot_source.let_go(source_site, source_id, copy.snapshot_id)
        source = snapshot_source.find_source(source_site, source_id)
        make_copy(site, source_site, Plan(source, copy, job.kms_key_id))
    except Exception as error:
        # Whatever it is, it must not be tried again by every command from now on. Nothing where it is undone already.
        copy_undone.undo_copy(site, copy, error, source_site=source_site)
        if not isinstance(error, EbscryptError | OSError):
            raise
