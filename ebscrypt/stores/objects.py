"""The plug point under a store: bytes at paths. A directory and S3 are two of them; more pass the contract suite first.

A path is a relative one of plain ASCII, parts joined by ``/``. What a kind must promise, and no more:

* *Linearizable*: who lists, asks or reads after a `put` or `delete` returned sees it. S3 does since December 2020, a
  local directory does; the safety of sweeps rests on it (docs/decisions/0040-*.md).
* *Whole or not at all*: nobody ever sees a part of an object, whenever the writer is killed.
* Safe for use from several threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from ebscrypt.stores.names import Content


class Entry(NamedTuple):
    """One object of a listing. ``modified`` is when it was written: seconds by the store's clock."""

    path: str
    size: int
    modified: float


class Objects(Protocol):
    """Bytes at paths. Everything raises `StoreError` of the fitting kind."""

    @property
    def url(self) -> str:
        """The address, for messages: never with a secret in it."""

    def put(self, path: str, content: Content, *, sha256: bytes, replace: bool = False, durable: bool = True) -> bool:
        """Put an object, unless one is there (``replace``: in its place). Returns whether it was put.

        Of several who put at once without ``replace``, one gets True if the kind can tell, at least one if it cannot.
        ``sha256`` is the content's; a kind that can has the other side check it. With ``durable`` the object, and
        everything put before, outlives a power cut; without, only after the next `sync` or durable put.
        """

    def get(self, path: str, largest: int) -> bytes | None:
        """The object's first ``largest`` + 1 bytes at most (so that a longer one can be told), or None."""

    def present(self, paths: Sequence[str]) -> set[str]:
        """Those of ``paths`` at which there is an object."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        """The objects under ``prefix`` (which ends with ``/``), in order of their paths, a page at a time in memory."""

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; what is not there is passed over. Attempts nothing again that might strike later."""

    def is_empty(self) -> bool:
        """Whether there is nothing at all here, not even of others."""

    def sync(self) -> None:
        """Return once everything put before is durable. Once it failed, it fails until the store is opened anew."""

    def clean_up(self) -> int:
        """Remove what killed processes left half-done. Returns how many pieces went."""

    def close(self) -> None:
        """Give back connections and files. Blocks that were put and not synced may be lost."""
