"""`start_snapshot`: a pending snapshot that a client fills block by block, as EBS direct's StartSnapshot makes it.

    token     which snapshot this client token stands for, durable before there is one
    KMS       a data key without plaintext for the snapshot's own id; or its parent's, wrapped anew
    catalog   the row, ``pending``, with the job that says how long it waits for blocks
    folder    the parent's manifest, whose blocks are pinned, and the empty log

A request that is repeated with its token goes on where the first one ended, in this process or another.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from ebscrypt import durable
from ebscrypt.control import data_key, faultpoints, locks, upload
from ebscrypt.control.defaults import get_ebs_encryption_by_default
from ebscrypt.control.direct import readable
from ebscrypt.control.encryption import Outcome, upload_outcome
from ebscrypt.control.restore import SECTOR_SIZE_OF_PLAIN
from ebscrypt.control.snapshot_deletion import finish_deletion
from ebscrypt.control.snapshot_source import largest, witness_of
from ebscrypt.control.snapshots import check_description
from ebscrypt.control.tags import check_tags
from ebscrypt.control.upload import UploadJob
from ebscrypt.errors import ClientTokenReused, EbscryptError, InvalidBlockRequest, InvalidParameter, SnapshotNotFound
from ebscrypt.kms.names import is_key_arn
from ebscrypt.model import (
    GIB,
    MAX_VOLUME_SIZE,
    Snapshot,
    SnapshotState,
    encryption_context,
    new_data_encryption_key_id,
    new_snapshot_id,
    utc_now,
)
from ebscrypt.stores.addresses import open_store, store_url
from ebscrypt.stores.manifest import Wrapping, decode
from ebscrypt.stores.publish import hold

if TYPE_CHECKING:
    from ebscrypt.control.site import Site

COMMAND: Final = "snapshot start"
DEFAULT_TIMEOUT: Final = 60
"""Minutes (facts §6.7)."""
LONGEST_TOKEN: Final = 255
_TOKEN_KEPT: Final = 4 * 86_400.0
"""Seconds for which a client token is remembered: a day longer than the longest timeout."""


class StartRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What `start_snapshot` is asked for: ``volume_size`` in GiB, ``timeout`` in minutes, ``kms_key_arn`` a key ARN.

    ``encrypted`` None leaves it to the parent, the key and encryption by default.
    """

    volume_size: int
    parent_snapshot_id: str | None = None
    encrypted: bool | None = None
    kms_key_arn: str | None = None
    description: str = ""
    tags: dict[str, str] = {}
    timeout: int = DEFAULT_TIMEOUT


class _Token(msgspec.Struct, frozen=True):
    snapshot_id: Annotated[str, msgspec.Meta(pattern=r"\Asnap-[0-9a-f]{17}\Z")]
    asked: str


def start_snapshot(site: Site, request: StartRequest, *, client_token: str | None = None) -> Snapshot:
    """Make a pending snapshot and return it; with a ``client_token`` that was used before, the one that it made.

    Raises `InvalidBlockRequest` and other `UsageError`, `ClientTokenReused` where that request was another one,
    `SnapshotNotFound` for the parent, `KmsError`, `StoreError`. Then nothing has been made.
    """
    _check(request)
    if client_token is None:
        return _started(site, request, new_snapshot_id())
    if not 0 < len(client_token) <= LONGEST_TOKEN or not client_token.isprintable():
        raise InvalidBlockRequest(f"ClientToken has {len(client_token)} characters, not 1 to {LONGEST_TOKEN}")
    asked = hashlib.sha256(msgspec.json.encode(request, order="sorted")).hexdigest()
    with _token_file(site, client_token) as path:
        known = _known(path)
        if known is not None:
            if known.asked != asked:
                raise ClientTokenReused(
                    "the client token was used for a request with other parameters", hint="use another client token"
                )
            with contextlib.suppress(SnapshotNotFound):
                snapshot = site.catalog.snapshots.get(known.snapshot_id)
                return _begun(site, snapshot)
        snapshot_id = new_snapshot_id()
        durable.write_file(path, msgspec.json.encode(_Token(snapshot_id, asked)))
        faultpoints.reach("start.noted")
        try:
            return _started(site, request, snapshot_id)
        except EbscryptError:
            durable.remove_file(path)
            raise


def _check(request: StartRequest) -> None:
    check_description(request.description)
    try:
        check_tags(request.tags)
    except InvalidParameter as error:
        raise InvalidBlockRequest(error.message, hint=error.hint, reason="INVALID_TAG") from None
    if not 1 <= request.volume_size <= MAX_VOLUME_SIZE // GIB:
        raise InvalidBlockRequest(
            f"VolumeSize {request.volume_size} is not 1 to {MAX_VOLUME_SIZE // GIB} GiB", reason="INVALID_VOLUME_SIZE"
        )
    if not 10 <= request.timeout <= 4320:
        raise InvalidBlockRequest(f"Timeout {request.timeout} is not 10 to 4320 minutes")
    if request.kms_key_arn is not None and not is_key_arn(request.kms_key_arn):
        raise InvalidBlockRequest(
            "KmsKeyArn is not the ARN of a KMS key: ids and aliases are not allowed here",
            hint="an ARN of a key is arn:aws:kms:REGION:ACCOUNT:key/ID",
            reason="INVALID_CUSTOMER_KEY",
        )


@contextlib.contextmanager
def _token_file(site: Site, client_token: str) -> Iterator[Path]:
    """Where a client token is remembered, for one request at a time."""
    name = f"start-{hashlib.sha256(client_token.encode()).hexdigest()[:40]}"
    path = Path(site.settings.paths.state) / "uploads" / "tokens" / name
    with locks.held(site.settings, name, COMMAND):
        try:
            durable.make_directory(path.parent)
            _forget_old(path.parent)
            yield path
        finally:
            locks.forget(site.settings, name)


def _forget_old(directory: Path) -> None:
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime < time.time() - _TOKEN_KEPT:
                path.unlink()


def _known(path: Path) -> _Token | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Token)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _started(site: Site, request: StartRequest, snapshot_id: str) -> Snapshot:
    parent = None if request.parent_snapshot_id is None else readable(site, request.parent_snapshot_id)
    if parent is not None and request.volume_size * GIB < parent.volume_size:
        raise InvalidBlockRequest(
            f"VolumeSize {request.volume_size} GiB is smaller than the parent {parent.snapshot_id}",
            reason="INVALID_VOLUME_SIZE",
        )
    store = site.settings.stores.default if parent is None else parent.store
    url = store_url(site.settings, store)
    open_store(site.settings, url).close()
    wrapping = _wrapping(site, request, parent, snapshot_id)
    snapshot = Snapshot(
        snapshot_id=snapshot_id,
        volume_id=upload.NO_VOLUME,
        state=SnapshotState.PENDING,
        volume_size=request.volume_size * GIB,
        sector_size=SECTOR_SIZE_OF_PLAIN if parent is None else parent.sector_size,
        encrypted=wrapping is not None,
        kms_key_arn=None if wrapping is None else wrapping.kms_key_arn,
        data_encryption_key_id=None if wrapping is None else wrapping.data_encryption_key_id,
        description=request.description,
        start_time=utc_now(),
        bytes_total=request.volume_size * GIB,
        store=store,
        parent=None if parent is None else parent.snapshot_id,
        tags=request.tags,
    )
    job = UploadJob(store_url=url, region=site.settings.kms.region, encryption=wrapping, timeout=request.timeout * 60)
    site.catalog.snapshots.add(snapshot, job=msgspec.json.encode(job).decode())
    faultpoints.reach("start.entered")
    return _begun(site, snapshot)


def _wrapping(site: Site, request: StartRequest, parent: Snapshot | None, snapshot_id: str) -> Wrapping | None:
    """The wrapped data key of the snapshot, as the outcome table says (facts §6.7)."""
    defaults = get_ebs_encryption_by_default(site)
    outcome = upload_outcome(
        by_default=defaults.enabled,
        encrypted=request.encrypted,
        key_given=request.kms_key_arn is not None,
        parent_encrypted=None if parent is None else parent.encrypted,
    )
    context = encryption_context(snapshot_id)
    if outcome is Outcome.PLAIN:
        return None
    if outcome is Outcome.SOURCE_KEY:
        return _of_parent(site, parent, context)
    key = site.kms.resolve_key(request.kms_key_arn if outcome is Outcome.GIVEN_KEY else defaults.kms_key_arn)
    wrapped = site.kms.generate_data_key_without_plaintext(key.arn, context)
    return Wrapping(
        kms_key_arn=wrapped.key_arn,
        wrapped_key=wrapped.blob,
        encryption_context=context,
        data_encryption_key_id=new_data_encryption_key_id(),
    )


def _of_parent(site: Site, parent: Snapshot | None, context: dict[str, str]) -> Wrapping:
    """The parent's data key, bound to the new snapshot: its blocks stay as they are."""
    assert parent is not None  # noqa: S101 - the outcome says so
    with contextlib.closing(open_store(site.settings, parent.store, create=False)) as store:
        raw = store.get_manifest(parent.snapshot_id, largest(parent))
    old = decode(raw, parent.snapshot_id, witness_of(site, parent)).header.encryption
    if old is None:
        raise InvalidBlockRequest(f"snapshot {parent.snapshot_id} is encrypted, and its manifest is not")
    wrapped = data_key.wrapped_anew(site, old, old.kms_key_arn, context)
    return msgspec.structs.replace(old, wrapped_key=wrapped.blob, encryption_context=context)


def _begun(site: Site, snapshot: Snapshot) -> Snapshot:
    """The snapshot once its folder is there. What keeps it from being so takes the snapshot back."""
    with locks.held(site.settings, snapshot.snapshot_id, COMMAND):
        now = site.catalog.snapshots.get(snapshot.snapshot_id)
        log = upload.log_of(site.settings, snapshot.snapshot_id)
        if now.state is not SnapshotState.PENDING or now.deleting:
            return now
        try:
            if now.parent is not None:
                _hold_parent(site, now, now.parent)
            log.create()
        except BaseException:
            finish_deletion(site, site.catalog.snapshots.begin_deletion(snapshot.snapshot_id), force=True)
            raise
        faultpoints.reach("start.begun")
        return now


def _hold_parent(site: Site, snapshot: Snapshot, parent_id: str) -> None:
    """Pin the parent's blocks, which stay then even if it is deleted, and keep its manifest."""
    path = upload.parent_path(site.settings, snapshot.snapshot_id)
    if path.exists():
        return
    parent = readable(site, parent_id)
    with contextlib.closing(open_store(site.settings, parent.store, create=False)) as store:
        raw = store.get_manifest(parent_id, largest(parent))
        decode(raw, parent_id, witness_of(site, parent))
        # Released with all other pins of this snapshot, at its end.
        hold(store, snapshot.snapshot_id, parent_id, witness_of(site, parent), largest=largest(parent))
    faultpoints.reach("start.held")
    durable.make_directory(path.parent)
    durable.write_file(path, raw)
