"""`KeyRows`: what the catalog knows of KMS keys besides each volume's own: defaults, grants, rewraps under way.

A grant's row is written before KMS is asked for the grant, and removed after KMS has retired it; so a crash at any
point leaves a row that says what has to be retired, and no grant that nobody remembers.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, Protocol

import msgspec
from sqlalchemy import Connection, delete, insert, select, update

from ebscrypt.catalog.tables import ENCRYPTION_DEFAULTS, GRANTS, VOLUMES
from ebscrypt.errors import VolumeNotFound


class EncryptionDefaults(msgspec.Struct, frozen=True, kw_only=True):
    """Encryption by default of one account and Region (facts §2). ``kms_key_arn`` None: ``alias/aws/ebs``."""

    enabled: bool = False
    kms_key_arn: str | None = None


class GrantRow(msgspec.Struct, frozen=True, kw_only=True):
    """A grant to be retired. ``grant_id`` is None until KMS has answered; the same ``name`` gives the same grant."""

    name: str
    volume_id: str
    kms_key_arn: str
    grant_id: str | None = None
    create_time: datetime


class _Transaction(Protocol):
    def __call__(self, *, write: bool = False) -> AbstractContextManager[Connection]: ...


class KeyRows:
    """The rows about KMS keys of one catalog: what `Catalog.keys` gives."""

    def __init__(self, transaction: _Transaction) -> None:
        self._transaction = transaction

    def defaults(self, account: str, region: str) -> EncryptionDefaults:
        """What was set for this account and Region; EBS's own defaults where nothing was."""
        with self._transaction() as connection:
            return _defaults(connection, account, region)

    def change_defaults(self, account: str, region: str, **values: Any) -> EncryptionDefaults:
        """Set ``enabled`` or ``kms_key_arn``, and return all of them, in one transaction."""
        with self._transaction(write=True) as connection:
            now = msgspec.structs.replace(_defaults(connection, account, region), **values)
            connection.execute(delete(ENCRYPTION_DEFAULTS).where(_scope(account, region)))
            if now != EncryptionDefaults():
                row = {"account": account, "region": region, "enabled": now.enabled, "kms_key_arn": now.kms_key_arn}
                connection.execute(insert(ENCRYPTION_DEFAULTS).values(**row))
            return now

    def add_grant(self, grant: GrantRow) -> None:
        """Note a grant that KMS is about to be asked for."""
        with self._transaction(write=True) as connection:
            connection.execute(insert(GRANTS).values(**msgspec.structs.asdict(grant)))

    def set_grant_id(self, name: str, grant_id: str) -> None:
        """Note what KMS called it."""
        with self._transaction(write=True) as connection:
            connection.execute(update(GRANTS).where(GRANTS.c.name == name).values(grant_id=grant_id))

    def remove_grant(self, name: str) -> None:
        """Forget a grant that KMS has retired, or never made. Idempotent."""
        with self._transaction(write=True) as connection:
            connection.execute(delete(GRANTS).where(GRANTS.c.name == name))

    def grants(self, volume_id: str | None = None) -> list[GrantRow]:
        """The grants noted for a volume, or all, oldest first."""
        statement = select(GRANTS).order_by(GRANTS.c.create_time, GRANTS.c.name)
        if volume_id is not None:
            statement = statement.where(GRANTS.c.volume_id == volume_id)
        with self._transaction() as connection:
            rows = connection.execute(statement).mappings()
            return [GrantRow(**{name: row[name] for name in GrantRow.__struct_fields__}) for row in rows]

    def begin_rewrap(self, volume_id: str, target_kms_key_arn: str) -> None:
        """Note the KMS key that a rewrap is on its way to, before the header is touched."""
        self._update(volume_id, {"target_kms_key_arn": target_kms_key_arn})

    def end_rewrap(self, volume_id: str, kms_key_arn: str) -> None:
        """The header names ``kms_key_arn`` (the old one, if the rewrap was undone), and no rewrap is under way."""
        self._update(volume_id, {"kms_key_arn": kms_key_arn, "target_kms_key_arn": None})

    def rewraps(self) -> dict[str, str]:
        """Volume id → target KMS key of every rewrap that has begun and not ended."""
        target = VOLUMES.c.target_kms_key_arn
        with self._transaction() as connection:
            rows = connection.execute(select(VOLUMES.c.volume_id, target).where(target.is_not(None)))
            return {row.volume_id: row.target_kms_key_arn for row in rows}

    def _update(self, volume_id: str, values: dict[str, Any]) -> None:
        with self._transaction(write=True) as connection:
            statement = update(VOLUMES).where(VOLUMES.c.volume_id == volume_id).values(**values)
            if connection.execute(statement).rowcount != 1:
                raise VolumeNotFound(f"the volume {volume_id!r} does not exist", hint="see `ebscrypt ls`")


def _scope(account: str, region: str) -> Any:
    return (ENCRYPTION_DEFAULTS.c.account == account) & (ENCRYPTION_DEFAULTS.c.region == region)


def _defaults(connection: Connection, account: str, region: str) -> EncryptionDefaults:
    row = connection.execute(select(ENCRYPTION_DEFAULTS).where(_scope(account, region))).mappings().first()
    if row is None:
        return EncryptionDefaults()
    return EncryptionDefaults(enabled=row["enabled"], kms_key_arn=row["kms_key_arn"])
