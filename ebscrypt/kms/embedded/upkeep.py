"""What is due by the clock: done by the first request of any kind that comes after, before it sees anything else.

Keys whose waiting period is over are deleted, imported material whose time is over is destroyed, the private keys of
old imports are, and keys that rotate by themselves are rotated. So nobody ever meets what should not be there any more,
and nothing has to run while nobody asks. It is one transaction; many processes may come at once, and one does the work.
"""

from __future__ import annotations

import sqlite3

from ebscrypt.kms.embedded import imports, material_rows, rotation, rows
from ebscrypt.kms.embedded.store import Store


def do_what_is_due(store: Store, now: float) -> None:
    """Bring the store up to the time ``now``. Raises what the store raises."""
    with store.read() as db:
        if not _is_due(db, now):
            return
    with store.write() as db:
        for key_id in rows.overdue(db, now):
            rows.destroy(db, key_id)
        for row in material_rows.expired(db, now):
            imports.drop(db, row)
        material_rows.forget_import_keys(db, expired_by=now, long_ago=now - imports.REMEMBERED)
        rotation.rotate_due(db, store.root, now)
    store.forget_deleted()


def _is_due(db: sqlite3.Connection, now: float) -> bool:
    return bool(
        rows.overdue(db, now)
        or material_rows.expired(db, now)
        or material_rows.has_expired_import_keys(db, now)
        or material_rows.due(db, now)
    )
