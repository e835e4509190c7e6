"""Where the store keeps sealed secrets: one list, for whoever must seal them all again.

Every secret in keys.db is in a column that `KINDS` names, sealed by `material.seal` for the ARN of the row's key, the
row's id and the kind's purpose. A new kind of secret is an entry here, and nothing else knows how many there are.

    with store.write() as db:
        for secret in secrets_kept.every(db):
            secrets_kept.put(db, secret, secret.sealed_again(old_root, new_root))
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import Final

from ebscrypt.kms.embedded import material
from ebscrypt.kms.embedded.root_key import RootKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A table whose rows may hold a sealed secret; NULL is a secret that was destroyed. Each has a ``key_id``."""

    table: str
    id_column: str
    sealed_column: str
    purpose: str


KINDS: Final = (
    Kind(table="material", id_column="material_id", sealed_column="sealed", purpose=material.MATERIAL),
    Kind(table="import_key", id_column="import_id", sealed_column="sealed", purpose=material.IMPORT_KEY),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """One sealed secret: its kind, the id of its row, and the ARN of its key, which together it is bound to."""

    kind: Kind
    identity: str
    arn: str
    sealed: bytes = field(repr=False)

    def opened(self, root: RootKey) -> bytes:
        """The secret in clear. Raises `KmsError` when it was not sealed under ``root`` for this place."""
        return material.unseal(root, self.arn, self.identity, self.sealed, purpose=self.kind.purpose)

    def sealed_again(self, old: RootKey, new: RootKey) -> bytes:
        """The same secret for the same place, sealed under another root key. Raises `KmsError` as `opened` does."""
        return material.seal(new, self.arn, self.identity, self.opened(old), purpose=self.kind.purpose)


def every(db: sqlite3.Connection) -> list[Secret]:
    """All secrets of all accounts and Regions, in no order."""
    found: list[Secret] = []
    for kind in KINDS:
        query = (
            f"SELECT s.{kind.id_column}, k.arn, s.{kind.sealed_column} "  # noqa: S608 - names of this module's own
            f"FROM {kind.table} s JOIN kms_key k USING (key_id) WHERE s.{kind.sealed_column} IS NOT NULL"
        )
        found.extend(
            Secret(kind=kind, identity=identity, arn=arn, sealed=bytes(sealed))
            for identity, arn, sealed in db.execute(query)
        )
    return found


def put(db: sqlite3.Connection, secret: Secret, sealed: bytes) -> None:
    """Let ``sealed`` take the place of the secret's stored form, within the caller's transaction."""
    kind = secret.kind
    db.execute(
        f"UPDATE {kind.table} SET {kind.sealed_column} = ? WHERE {kind.id_column} = ?",  # noqa: S608 - see `every`
        (sealed, secret.identity),
    )
