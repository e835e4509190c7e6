"""`Site`: what one command works on, that is the settings, the catalog and the KMS of one state directory.

The catalog and KMS are opened when they are first needed: SQLAlchemy and boto3 take longer to import than most commands
take to run.
"""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from ebscrypt.catalog.events import SnapshotEvent, VolumeEvent, snapshot_event, volume_event
from ebscrypt.catalog.reading import CatalogReader, open_reader
from ebscrypt.errors import CatalogError

if TYPE_CHECKING:
    from datetime import datetime
    from types import TracebackType

    from ebscrypt.catalog.catalog import Catalog
    from ebscrypt.config import Settings
    from ebscrypt.kms.client import KmsClient
    from ebscrypt.model import Snapshot


class Site:
    """One state directory. ``notes`` collects what the user should know although nothing failed.

    A context manager: leaving it starts the delivery of events, if there are any to deliver, and closes the catalog.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.notes: list[str] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._may_have_events():
            from ebscrypt.control.deliveries import start_deliveries  # noqa: PLC0415 - it imports us

            start_deliveries(self)
        self.forget_catalog()

    @cached_property
    def catalog(self) -> Catalog:
        from ebscrypt.catalog.catalog import Catalog  # noqa: PLC0415 - imported when needed

        return Catalog(self.settings.catalog_path, keep_events=self.settings.events.keep)

    @property
    def reading(self) -> Catalog | CatalogReader:
        """What answers questions about volumes and snapshots: the catalog if it is open, else a reader of it."""
        if "catalog" in self.__dict__:
            return self.catalog
        return self.catalog if self._reader is None else self._reader

    @cached_property
    def _reader(self) -> CatalogReader | None:
        return open_reader(self.settings.catalog_path)

    def _may_have_events(self) -> bool:
        """Whether there may be something to deliver: certainly not where a reader was enough and sees nothing."""
        if "catalog" in self.__dict__:
            return True
        reader = self.__dict__.get("_reader")
        with contextlib.suppress(CatalogError):
            return reader is not None and reader.is_work_left()
        return False

    def forget_catalog(self) -> None:
        """Close the catalog, so that the next use opens it anew. For when its file was replaced."""
        if (reader := self.__dict__.pop("_reader", None)) is not None:
            reader.close()
        if "catalog" in self.__dict__:
            self.catalog.close()
            del self.catalog

    @cached_property
    def kms(self) -> KmsClient:
        from ebscrypt.kms.client import KmsClient  # noqa: PLC0415 - imported when needed

        return KmsClient(self.settings, notes=self.notes)

    def event(
        self, event: VolumeEvent, result: str, volume_id: str, *, cause: str = "", key_arn: str | None = None
    ) -> dict[str, Any]:
        """The record of an event about a volume of this site."""
        kms = self.settings.kms
        return volume_event(
            event,
            result,
            volume_id=volume_id,
            region=kms.region,
            account=kms.account,
            cause=cause,
            key_arn=key_arn,
        )

    def snapshot_event(
        self,
        event: SnapshotEvent,
        result: str,
        snapshot: Snapshot,
        *,
        cause: str = "",
        end_time: datetime | None = None,
        incremental: bool | None = None,
        source_region: str | None = None,
    ) -> dict[str, Any]:
        """The record of an event about a snapshot of this site."""
        kms = self.settings.kms
        return snapshot_event(
            event,
            result,
            snapshot_id=snapshot.snapshot_id,
            source=snapshot.volume_id if snapshot.copied_from is None else snapshot.copied_from,
            region=kms.region,
            account=kms.account,
            start_time=snapshot.start_time,
            end_time=end_time,
            cause=cause,
            incremental=incremental,
            source_region=source_region,
        )
