"""`Catalog.snapshots`: states, events in the same transaction, progress, deletions that are noted, tags."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.catalog.events import SnapshotEvent, snapshot_event
from ebscrypt.errors import CatalogDamaged, CatalogError, SnapshotLimit, SnapshotNotFound, StateError
from ebscrypt.model import GIB, SNAPSHOT_TRANSITIONS, Snapshot, SnapshotState, new_snapshot_id, new_volume_id, utc_now

PENDING, COMPLETED, ERROR = SnapshotState.PENDING, SnapshotState.COMPLETED, SnapshotState.ERROR
VOLUME_ID = "vol-0123456789abcdef0"
DIGEST = "ab" * 32


def made(**fields: Any) -> Snapshot:
    """A snapshot as a creation enters it; keywords replace fields."""
    given: dict[str, Any] = {
        "snapshot_id": new_snapshot_id(),
        "volume_id": VOLUME_ID,
        "state": PENDING,
        "volume_size": GIB,
        "sector_size": 4096,
        "encrypted": True,
        "start_time": utc_now(),
        "store": "local",
    }
    return Snapshot(**(given | fields))


def event_of(snapshot: Snapshot) -> dict[str, Any]:
    return snapshot_event(
        SnapshotEvent.CREATE,
        "succeeded",
        snapshot_id=snapshot.snapshot_id,
        source=snapshot.volume_id,
        region="eu-central-1",
        account="111122223333",
        start_time=snapshot.start_time,
    )


def test_a_snapshot_comes_back_as_it_was_entered(catalog: Catalog) -> None:
    """Every field and every tag."""
    snapshot = made(
        kms_key_arn="arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab",
        data_encryption_key_id="6ebe7874-f36e-41de-ae1b-734f6b707946",
        description="nightly",
        parent=new_snapshot_id(),
        tags={"Name": "mail", "stage": ""},
    )
    catalog.snapshots.add(snapshot, job="{}")

    assert catalog.snapshots.get(snapshot.snapshot_id) == snapshot
    assert catalog.snapshots.job(snapshot.snapshot_id) == "{}"


def test_an_id_is_entered_once(catalog: Catalog) -> None:
    """A second row of one id is refused, and changes nothing."""
    snapshot = made()
    catalog.snapshots.add(snapshot)

    with pytest.raises(StateError, match="already"):
        catalog.snapshots.add(made(snapshot_id=snapshot.snapshot_id, description="other"))
    assert catalog.snapshots.list() == [snapshot]


@pytest.mark.parametrize("ask", ["get", "job", "progress", "begin_deletion", "change_tags", "change_state"])
def test_what_does_not_exist_is_told(catalog: Catalog, ask: str) -> None:
    """Every question about an unknown id is `SnapshotNotFound`, EC2's InvalidSnapshot.NotFound."""
    arguments: dict[str, tuple[Any, ...]] = {
        "progress": (1, 2),
        "change_tags": (dict,),
        "change_state": (PENDING, ERROR),
    }
    with pytest.raises(SnapshotNotFound) as caught:
        getattr(catalog.snapshots, ask)(new_snapshot_id(), *arguments.get(ask, ()))
    assert caught.value.api_code == "InvalidSnapshot.NotFound"


@pytest.mark.parametrize("new", SnapshotState)
@pytest.mark.parametrize("old", SnapshotState)
def test_only_the_drawn_transitions_are_made(catalog: Catalog, old: SnapshotState, new: SnapshotState) -> None:
    """Whatever else is refused and leaves the state."""
    snapshot = made(state=old, digest=DIGEST)
    catalog.snapshots.add(snapshot)

    if new in SNAPSHOT_TRANSITIONS[old]:
        assert catalog.snapshots.change_state(snapshot.snapshot_id, old, new).state is new
    else:
        with pytest.raises(StateError):
            catalog.snapshots.change_state(snapshot.snapshot_id, old, new)
        assert catalog.snapshots.get(snapshot.snapshot_id).state is old


def test_completion_and_its_event_are_one_transaction(catalog: Catalog) -> None:
    """Both are there, and the job is gone."""
    snapshot = made()
    catalog.snapshots.add(snapshot, job="{}")

    catalog.snapshots.change_state(snapshot.snapshot_id, PENDING, COMPLETED, event_of(snapshot), digest=DIGEST)

    assert catalog.snapshots.get(snapshot.snapshot_id).digest == DIGEST
    assert catalog.snapshots.job(snapshot.snapshot_id) is None
    [(_, event)] = catalog.events()
    assert event["detail"]["snapshot_id"] == f"arn:aws:ec2::eu-central-1:snapshot/{snapshot.snapshot_id}"


def test_a_second_process_completes_nothing_twice(catalog: Catalog) -> None:
    """Compare and set: the second finds another state, is refused, and leaves no event."""
    snapshot = made()
    catalog.snapshots.add(snapshot)
    catalog.snapshots.change_state(snapshot.snapshot_id, PENDING, ERROR, event_of(snapshot))

    with pytest.raises(StateError, match="is error, not pending"):
        catalog.snapshots.change_state(snapshot.snapshot_id, PENDING, COMPLETED, event_of(snapshot), digest=DIGEST)
    assert len(catalog.events()) == 1


def test_nothing_is_completed_without_its_digest(catalog: Catalog) -> None:
    """The database refuses it: without a digest nothing would vouch for the manifest."""
    snapshot = made()
    catalog.snapshots.add(snapshot)

    with pytest.raises((IntegrityError, CatalogError)):
        catalog.snapshots.change_state(snapshot.snapshot_id, PENDING, COMPLETED)
    assert catalog.snapshots.get(snapshot.snapshot_id).state is PENDING


def test_one_snapshot_at_a_time_is_made_of_a_volume(catalog: Catalog) -> None:
    """A second is `SnapshotLimit` naming the first; one of another volume, and a copy, are in nobody's way."""
    first = made()
    catalog.snapshots.add(first, alone=True)

    with pytest.raises(SnapshotLimit, match=first.snapshot_id) as caught:
        catalog.snapshots.add(made(), alone=True)
    assert caught.value.api_code == "ConcurrentSnapshotLimitExceeded"
    catalog.snapshots.add(made(volume_id=new_volume_id()), alone=True)
    catalog.snapshots.change_state(first.snapshot_id, PENDING, ERROR)
    catalog.snapshots.add(made(copied_from=first.snapshot_id))
    catalog.snapshots.add(made(), alone=True)


def test_progress_is_noted_while_pending_only(catalog: Catalog) -> None:
    """It is how a copier learns that nobody wants its work any more."""
    snapshot, failed = made(), made(state=ERROR)
    for one in (snapshot, failed):
        catalog.snapshots.add(one)
    catalog.snapshots.progress(snapshot.snapshot_id, 5, 10)
    assert catalog.snapshots.get(snapshot.snapshot_id).bytes_done == 5

    catalog.snapshots.begin_deletion(snapshot.snapshot_id)
    with pytest.raises(StateError, match="being deleted"):
        catalog.snapshots.progress(snapshot.snapshot_id, 6, 10)
    with pytest.raises(StateError, match="is error"):
        catalog.snapshots.progress(failed.snapshot_id, 6, 10)


def test_a_deletion_is_noted_before_the_row_goes(catalog: Catalog) -> None:
    """Without the note nothing is removed; with it nothing is completed; and a second removal is no error."""
    snapshot = made(tags={"Name": "mail"})
    catalog.snapshots.add(snapshot)
    with pytest.raises(StateError, match="not being deleted"):
        catalog.snapshots.remove(snapshot.snapshot_id)

    assert catalog.snapshots.begin_deletion(snapshot.snapshot_id).deleting
    with pytest.raises(StateError, match="being deleted"):
        catalog.snapshots.change_state(snapshot.snapshot_id, PENDING, COMPLETED, digest=DIGEST)
    assert [one.snapshot_id for one in catalog.snapshots.unsettled()] == [snapshot.snapshot_id]
    catalog.snapshots.remove(snapshot.snapshot_id)
    catalog.snapshots.remove(snapshot.snapshot_id)

    assert catalog.snapshots.list() == []
    with catalog._transaction() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM snapshot_tags").scalar_one() == 0


def test_a_list_is_by_state_volume_and_store_oldest_first(catalog: Catalog) -> None:
    """Each condition alone and together."""
    now, other = utc_now(), new_volume_id()
    old = made(start_time=now - timedelta(hours=1), state=COMPLETED, digest=DIGEST)
    new, far, foreign = made(start_time=now), made(store="s3://bucket/"), made(volume_id=other, start_time=now)
    for one in (new, old, far, foreign):
        catalog.snapshots.add(one)

    assert catalog.snapshots.list()[0] == old
    assert catalog.snapshots.list(COMPLETED) == [old]
    assert catalog.snapshots.list(volume_id=other) == [foreign]
    assert catalog.snapshots.list(store="s3://bucket/") == [far]
    assert catalog.snapshots.list(COMPLETED, ERROR, volume_id=other) == []


def test_tags_are_merged_in_one_transaction(catalog: Catalog) -> None:
    """What the change makes of the present ones is what is there afterwards."""
    snapshot = made(tags={"Name": "mail", "stage": "test"})
    catalog.snapshots.add(snapshot)

    changed = catalog.snapshots.change_tags(snapshot.snapshot_id, lambda old: {**old, "stage": "live", "x": "y"})

    assert changed.tags == {"Name": "mail", "stage": "live", "x": "y"}
    assert catalog.snapshots.get(snapshot.snapshot_id) == changed


def test_a_damaged_row_is_told(catalog: Catalog) -> None:
    """Never a half-read snapshot."""
    snapshot = made()
    catalog.snapshots.add(snapshot)
    with catalog._transaction(write=True) as connection:
        connection.exec_driver_sql("UPDATE snapshots SET sector_size = 'many'")

    with pytest.raises(CatalogDamaged, match=snapshot.snapshot_id):
        catalog.snapshots.get(snapshot.snapshot_id)


def test_an_event_has_the_form_of_ebss() -> None:
    """ARNs with the Region in the account's place, times in seconds, ``incremental`` as a string (facts §3.3)."""
    snapshot = made()
    event = event_of(snapshot)

    assert event["detail-type"] == "EBS Snapshot Notification"
    assert event["resources"] == [f"arn:aws:ec2::eu-central-1:snapshot/{snapshot.snapshot_id}"]
    assert event["detail"]["source"] == f"arn:aws:ec2::eu-central-1:volume/{VOLUME_ID}"
    assert event["detail"]["startTime"] == f"{snapshot.start_time:%Y-%m-%dT%H:%M:%SZ}"
    assert set(event["detail"]) == {
        "event",
        "result",
        "cause",
        "request-id",
        "snapshot_id",
        "source",
        "startTime",
        "endTime",
    }

    copied = snapshot_event(
        SnapshotEvent.COPY,
        "succeeded",
        snapshot_id=new_snapshot_id(),
        source=snapshot.snapshot_id,
        source_region="us-east-1",
        region="eu-central-1",
        account="111122223333",
        start_time=snapshot.start_time,
        incremental=False,
    )
    assert copied["detail"]["source"] == f"arn:aws:ec2::us-east-1:snapshot/{snapshot.snapshot_id}"
    assert copied["detail"]["incremental"] == "false"
