"""Operations on tags: TagResource, UntagResource, ListResourceTags."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

from ebscrypt.kms.embedded import faults, rows
from ebscrypt.kms.embedded.calls import Call, paged
from ebscrypt.kms.embedded.rows import KeyRow

PER_KEY: Final = 50
"""Tags on one key (KMS developer guide, "Tagging keys")."""


def tag_resource(call: Call) -> dict[str, Any]:
    """New tags for a key, or new values for those that it has."""
    with call.store.write() as db:
        key = _changeable(call, db)
        put(db, key, call.parameters["Tags"])
    return {}


def untag_resource(call: Call) -> dict[str, Any]:
    """Remove tags; those that are not there are no concern."""
    with call.store.write() as db:
        key = _changeable(call, db)
        for name in call.parameters["TagKeys"]:
            _check_name(name)
            rows.remove_tag(db, key.key_id, name)
    return {}


def list_resource_tags(call: Call) -> dict[str, Any]:
    """A key's tags, a page at a time."""
    after, limit = call.page(default=50, largest=50)
    with call.store.read() as db:
        key = call.find_key(db, call.parameters["KeyId"], alias_too=False)
        call.check_state(key)
        found = rows.tags(db, key.key_id, after=after, limit=limit + 1)
    return paged("Tags", [{"TagKey": name, "TagValue": value} for name, value in found], limit, by="TagKey")


def put(db: sqlite3.Connection, key: KeyRow, tags: list[dict[str, str]]) -> None:
    """Tags as the API has them, onto a key. Raises TagException or LimitExceededException."""
    names = [tag["TagKey"] for tag in tags]
    if len(set(names)) < len(names):
        raise faults.KmsFault("TagException", "Duplicate tag keys")
    for tag in tags:
        _check_name(tag["TagKey"])
        rows.put_tag(db, key.key_id, tag["TagKey"], tag["TagValue"])
    if rows.count_tags(db, key.key_id) > PER_KEY:
        raise faults.KmsFault("LimitExceededException", f"{key.arn} would have more than {PER_KEY} tags")


def _check_name(name: str) -> None:
    if name.lower().startswith("aws:"):
        raise faults.KmsFault("TagException", "aws: prefixed tag key names are not allowed for external use.")


def _changeable(call: Call, db: sqlite3.Connection) -> KeyRow:
    key = call.find_key(db, call.parameters["KeyId"], alias_too=False)
    call.check_customer_managed(key)
    call.check_state(key)
    return key
