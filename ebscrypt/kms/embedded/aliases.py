"""Operations on aliases: CreateAlias, UpdateAlias, DeleteAlias, ListAliases."""

from __future__ import annotations

import re
import sqlite3
from typing import Any, Final

from ebscrypt.kms.embedded import faults, rows
from ebscrypt.kms.embedded.calls import Call, paged
from ebscrypt.kms.embedded.rows import AliasRow, KeyRow
from ebscrypt.kms.names import RESERVED_ALIASES

_MOST: Final = 50
"""Aliases of one key (facts §5.1)."""
_SIGNS: Final = re.compile(r"alias/[a-zA-Z0-9/_-]+")


def create_alias(call: Call) -> dict[str, Any]:
    """A new name for a key; the alias is resolved whenever it is used."""
    name = _own_name(call)
    with call.store.write() as db:
        key = _target(call, db)
        call.check_state(key)
        if rows.alias(db, call.scope, name):
            raise faults.KmsFault("AlreadyExistsException", f"An alias with the name {call.arn(name)} already exists")
        _check_quota(db, key)
        rows.add_alias(db, call.scope, name, key.key_id, call.now)
    return {}


def update_alias(call: Call) -> dict[str, Any]:
    """Let an alias name another key of the same type and usage."""
    name = _own_name(call)
    with call.store.write() as db:
        present = call.key(db, _existing(call, db, name).key_id)
        key = _target(call, db)
        call.check_state(key)
        if (present.usage, _type(present)) != (key.usage, _type(key)):
            raise faults.validation(
                f"Alias {call.arn(name)} cannot be changed from a {present.usage} key of spec {present.spec} "
                f"to a {key.usage} key of spec {key.spec}"
            )
        if present.key_id != key.key_id:
            _check_quota(db, key)
        rows.repoint_alias(db, call.scope, name, key.key_id, call.now)
    return {}


def delete_alias(call: Call) -> dict[str, Any]:
    """Remove the name; the key stays."""
    name = _own_name(call)
    with call.store.write() as db:
        _existing(call, db, name)
        rows.remove_alias(db, call.scope, name)
    return {}


def list_aliases(call: Call) -> dict[str, Any]:
    """All aliases, or those of one key, a page at a time."""
    after, limit = call.page(default=50, largest=100)
    with call.store.read() as db:
        key_id = call.parameters.get("KeyId")
        of = call.find_key(db, key_id, alias_too=False).key_id if key_id else None
        found = rows.aliases(db, call.scope, key_id=of, after=after, limit=limit + 1)
    return paged("Aliases", [_shown(call, alias) for alias in found], limit, by="AliasName")


def _shown(call: Call, alias: AliasRow) -> dict[str, Any]:
    return {
        "AliasName": alias.name,
        "AliasArn": call.arn(alias.name),
        "TargetKeyId": alias.key_id,
        "CreationDate": alias.created,
        "LastUpdatedDate": alias.updated,
    }


def _own_name(call: Call) -> str:
    """The alias that the request is about, if a customer may have such a one."""
    name: str = call.parameters["AliasName"]
    if not name.startswith("alias/"):
        raise faults.validation(
            'Alias must start with the prefix "alias/". '
            "Please see https://docs.aws.amazon.com/kms/latest/developerguide/kms-alias.html"
        )
    if name.startswith(RESERVED_ALIASES):
        raise faults.KmsFault("NotAuthorizedException", f"Aliases that begin with {RESERVED_ALIASES} are AWS's own")
    if not _SIGNS.fullmatch(name):
        raise faults.validation(f"{name} contains invalid characters for an alias")
    return name


def _target(call: Call, db: sqlite3.Connection) -> KeyRow:
    target = call.parameters["TargetKeyId"]
    if call.key_name(target).kind == "alias":
        raise faults.validation("Aliases must refer to keys. Not aliases")
    key = call.find_key(db, target)
    call.check_customer_managed(key)
    return key


def _existing(call: Call, db: sqlite3.Connection, name: str) -> AliasRow:
    alias = rows.alias(db, call.scope, name)
    if alias is None:
        raise faults.alias_not_found(call.arn(name))
    return alias


def _check_quota(db: sqlite3.Connection, key: KeyRow) -> None:
    if rows.count_aliases(db, key.key_id) >= _MOST:
        raise faults.KmsFault("LimitExceededException", f"{key.arn} has {_MOST} aliases, and may have no more")


def _type(key: KeyRow) -> str:
    """What must stay the same when an alias changes its key: symmetric, asymmetric or HMAC."""
    if key.spec.startswith("HMAC"):
        return "HMAC"
    return "symmetric" if key.spec == "SYMMETRIC_DEFAULT" else "asymmetric"
