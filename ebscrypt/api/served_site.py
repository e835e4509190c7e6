"""`ServedSite`: the `Site` of one request, with what is dear to open shared by all requests of a server."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ebscrypt.control.direct import DirectAccess
from ebscrypt.control.site import Site

if TYPE_CHECKING:
    from ebscrypt.catalog.catalog import Catalog
    from ebscrypt.config import Settings
    from ebscrypt.kms.client import KmsClient


class ServedSite(Site):
    """A site whose catalog and KMS client belong to `Shared` and outlive it. Leaving it starts what is to be delivered.

    ``direct`` is what the EBS direct APIs keep between requests.
    """

    def __init__(self, settings: Settings, catalog: Catalog, kms: KmsClient, direct: DirectAccess) -> None:
        super().__init__(settings)
        self.direct = direct
        self.__dict__["catalog"] = catalog
        self.__dict__["kms"] = kms

    def forget_catalog(self) -> None:
        """Let go of the catalog without closing it: other requests are using it."""
        self.__dict__.pop("catalog", None)


class Shared:
    """The catalog and KMS client of a server. Safe to use from several threads; both are."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._opened: tuple[Catalog, KmsClient, DirectAccess] | None = None

    def site(self) -> ServedSite:
        """A site for one request, or for one thread's work. Raises what opening the catalog raises."""
        with self._lock:
            if self._opened is None:
                from ebscrypt.catalog.catalog import Catalog  # noqa: PLC0415 - a server that only refuses needs none
                from ebscrypt.kms.client import KmsClient  # noqa: PLC0415 - the same

                settings = self._settings
                catalog = Catalog(settings.catalog_path, keep_events=settings.events.keep)
                self._opened = catalog, KmsClient(settings), DirectAccess(settings)
            return ServedSite(self._settings, *self._opened)

    def close(self) -> None:
        """Close the catalog, wipe the keys of EBS direct. Idempotent; a later `site` opens it again."""
        with self._lock:
            if self._opened is not None:
                self._opened[0].close()
                self._opened[2].close()
            self._opened = None
