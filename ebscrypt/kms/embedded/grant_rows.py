"""The SQL of grants and their tokens, one function each, inside a transaction.

A grant token is 52 bytes in base64: ``ebg`` 0x01, the token's id (16), a secret (32), all random but the first. The
store has its id and the SHA-256 of the whole: who reads the store cannot use a grant, and whoever guesses learns
nothing from how long a refusal takes, since the hashes are compared in constant time.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import sqlite3
from dataclasses import dataclass, field
from typing import Any, Final

from ebscrypt.kms.embedded.rows import Scope

_MAGIC: Final = b"ebg\x01"
_ID_SIZE: Final = 16
_SECRET_SIZE: Final = 32
_TOKEN_SIZE: Final = len(_MAGIC) + _ID_SIZE + _SECRET_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantRow:
    """A grant on the key ``arn``. A principal is an ARN or the name of a service; ``retiring`` and ``name`` may be "".

    ``constraints`` has the members that the request had: EncryptionContextSubset, EncryptionContextEquals, SourceArn.
    """

    grant_id: str
    key_id: str
    arn: str
    created: float
    name: str
    grantee: str
    retiring: str
    issuer: str
    operations: tuple[str, ...]
    constraints: dict[str, Any] = field(repr=False)


_GRANTS: Final = "SELECT g.*, k.arn FROM kms_grant g JOIN kms_key k USING (key_id) WHERE account = ? AND region = ? "


def add(db: sqlite3.Connection, row: GrantRow) -> None:
    """A new grant."""
    db.execute(
        "INSERT INTO kms_grant (grant_id, key_id, created, name, grantee, retiring, issuer, operations, constraints) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.grant_id,
            row.key_id,
            row.created,
            row.name,
            row.grantee,
            row.retiring,
            row.issuer,
            json.dumps(row.operations),
            json.dumps(row.constraints),
        ),
    )


def remove(db: sqlite3.Connection, row: GrantRow) -> None:
    """Remove a grant and its tokens."""
    db.execute("DELETE FROM kms_grant WHERE grant_id = ?", (row.grant_id,))


def count(db: sqlite3.Connection, key_id: str) -> int:
    """How many grants a key has."""
    return int(db.execute("SELECT count(*) FROM kms_grant WHERE key_id = ?", (key_id,)).fetchone()[0])


def one(db: sqlite3.Connection, scope: Scope, key_id: str, grant_id: str) -> GrantRow | None:
    """The grant of that id, if it is on this key."""
    return _first(db, scope, "AND g.key_id = ? AND grant_id = ?", key_id, grant_id)


def same(db: sqlite3.Connection, scope: Scope, row: GrantRow) -> GrantRow | None:
    """A grant of the same name on the same key that says the same: what a repeated CreateGrant is answered with."""
    found = _all(db, scope, "AND g.key_id = ? AND name = ? AND name != ''", row.key_id, row.name)
    return next((grant for grant in found if _said(grant) == _said(row)), None)


def of_grantee(db: sqlite3.Connection, scope: Scope, key_id: str, names: tuple[str, str]) -> list[GrantRow]:
    """The grants on a key for a principal, who goes by two names."""
    return _all(db, scope, "AND g.key_id = ? AND grantee IN (?, ?)", key_id, *names)


def of_key(
    db: sqlite3.Connection, scope: Scope, key_id: str, *, grantee: str, grant_id: str, after: str, limit: int
) -> list[GrantRow]:
    """Up to ``limit`` grants on a key by their ids, from the one after ``after``; "" for any grantee, any id."""
    return _all(
        db,
        scope,
        "AND g.key_id = ? AND grant_id > ? AND ? IN ('', grantee) AND ? IN ('', grant_id) ORDER BY grant_id LIMIT ?",
        key_id,
        after,
        grantee,
        grant_id,
        limit,
    )


def retirable(db: sqlite3.Connection, scope: Scope, retiring: str, *, after: str, limit: int) -> list[GrantRow]:
    """Up to ``limit`` grants on any key that ``retiring`` may retire, by their ids, from the one after ``after``."""
    return _all(db, scope, "AND retiring = ? AND grant_id > ? ORDER BY grant_id LIMIT ?", retiring, after, limit)


def new_token(db: sqlite3.Connection, row: GrantRow) -> str:
    """A fresh token for a grant. Nobody can be told it again."""
    token = _MAGIC + secrets.token_bytes(_ID_SIZE + _SECRET_SIZE)
    db.execute("INSERT INTO grant_token VALUES (?, ?, ?)", (_token_id(token), row.grant_id, _hash(token)))
    return base64.b64encode(token).decode()


def of_token(db: sqlite3.Connection, scope: Scope, text: str) -> GrantRow | None:
    """The grant that a token is for; None when it is malformed, or of a grant that is no more."""
    try:
        token = base64.b64decode(text, validate=True)
    except ValueError:
        return None
    if len(token) != _TOKEN_SIZE or not token.startswith(_MAGIC):
        return None
    found = db.execute("SELECT grant_id, hash FROM grant_token WHERE token_id = ?", (_token_id(token),)).fetchone()
    if found is None or not hmac.compare_digest(bytes(found["hash"]), _hash(token)):
        return None
    return _first(db, scope, "AND grant_id = ?", found["grant_id"])


def _token_id(token: bytes) -> str:
    return token[len(_MAGIC) : len(_MAGIC) + _ID_SIZE].hex()


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _said(row: GrantRow) -> tuple[str, str, str, list[str], dict[str, Any]]:
    return row.name, row.grantee, row.retiring, sorted(row.operations), row.constraints


def _first(db: sqlite3.Connection, scope: Scope, condition: str, *values: str) -> GrantRow | None:
    return next(iter(_all(db, scope, condition, *values)), None)


def _all(db: sqlite3.Connection, scope: Scope, condition: str, *values: str | int) -> list[GrantRow]:
    found = db.execute(_GRANTS + condition, (scope.account, scope.region, *values))
    return [
        GrantRow(
            grant_id=row["grant_id"],
            key_id=row["key_id"],
            arn=row["arn"],
            created=row["created"],
            name=row["name"],
            grantee=row["grantee"],
            retiring=row["retiring"],
            issuer=row["issuer"],
            operations=tuple(json.loads(row["operations"])),
            constraints=json.loads(row["constraints"]),
        )
        for row in found
    ]
