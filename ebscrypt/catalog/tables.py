"""The tables of the catalog. Nothing here knows which database they lie in.

    volumes ──< volume_tags          one row a volume; a deleted volume has none
    events                           one row an event, in the order of the changes, kept after the volume is gone
    rules ──< rule_targets           who wants which events; ``cursor`` is the last event that a rule has looked at
              rule_targets ──< deliveries     one row an event that a target has yet to get; gone when it has it
    encryption_defaults              one row for each account and Region that has other than EBS's own defaults
    grants                           one row a grant that must be retired; written before KMS is asked for it
    snapshots ──< snapshot_tags      one row a snapshot, also while it is made or deleted; a deleted one has none
    stacks ──< stack_events          one row a stack, also a deleted one for a while; `stack_records` says what is in it
    stacks ──< change_sets           one row a change set that waits to be executed
    stacks ──< stack_exports         one row an exported output; its name is given once in all
    stacks ──< stack_imports         which stack uses which export
    schema_version                   one row: which `schema.MIGRATIONS` have run

A backing belongs to one volume at most. A volume in ``error`` gives up its claim on it, so that its creation can be
tried again, and never gets it back; hence ``claim`` beside ``backing``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    literal_column,
    or_,
)

from ebscrypt.model import SnapshotState, VolumeState

if TYPE_CHECKING:
    from sqlalchemy import Dialect


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone. Stored as UTC, because SQLite keeps no zone; a naive time is refused, not guessed."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - the same
        return None if value is None else value.replace(tzinfo=UTC)


METADATA: Final = MetaData()

SCHEMA_VERSION: Final = Table("schema_version", METADATA, Column("version", Integer, nullable=False))

_STATES = ", ".join(f"'{state.value}'" for state in VolumeState if state is not VolumeState.DELETED)

VOLUMES: Final = Table(
    "volumes",
    METADATA,
    Column("volume_id", String(21), primary_key=True),
    Column("state", String(16), CheckConstraint(f"state IN ({_STATES})", name="volumes_state"), nullable=False),
    Column("size", BigInteger, CheckConstraint("size > 0", name="volumes_size"), nullable=False),
    # The size a resize is on its way to: set first and cleared last, so that an interrupted one can be finished.
    Column("target_size", BigInteger),
    Column("backing", Text, nullable=False),
    Column("claim", Text, unique=True),
    Column("backing_kind", String(8), nullable=False),
    Column("backing_owned", Boolean, nullable=False),
    Column("encrypted", Boolean, nullable=False),
    Column("sector_size", Integer, nullable=False),
    Column("kms_key_arn", Text, CheckConstraint("encrypted OR kms_key_arn IS NULL", name="volumes_key")),
    Column("volume_type", String(16), nullable=False),
    Column("snapshot_id", String(22)),
    Column("create_time", UtcDateTime, nullable=False),
    Column("state_message", Text),
    Column("on_key_unusable", String(16), nullable=False, server_default="ignore"),
    Column("was_attached", Boolean, nullable=False, server_default="0"),
    Column("attach_failure", Text),
    # The KMS key that a rewrap is on its way to: set first and cleared last, like target_size.
    Column("target_kms_key_arn", Text),
)

Index("volumes_by_state", VOLUMES.c.state)
# Every command looks for what a crash interrupted. These have a row for that only, so the look costs nothing.
_RESIZING = VOLUMES.c.target_size.is_not(None)
_REWRAPPING = VOLUMES.c.target_kms_key_arn.is_not(None)
Index("volumes_resizing", VOLUMES.c.volume_id, sqlite_where=_RESIZING)
Index("volumes_rewrapping", VOLUMES.c.volume_id, sqlite_where=_REWRAPPING)

VOLUME_TAGS: Final = Table(
    "volume_tags",
    METADATA,
    Column("volume_id", ForeignKey(VOLUMES.c.volume_id, ondelete="CASCADE"), primary_key=True),
    Column("key", String(127), primary_key=True),
    Column("value", String(256), nullable=False),
)

EVENTS: Final = Table(
    "events",
    METADATA,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("event_id", String(36), nullable=False, unique=True),
    Column("body", Text, nullable=False),
    # Without it SQLite gives a removed row's number to the next one, and a reader's bookmark would skip an event.
    sqlite_autoincrement=True,
)

RULES: Final = Table(
    "rules",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("event_pattern", Text, nullable=False),
    Column("enabled", Boolean, nullable=False),
    Column("description", Text, nullable=False),
    Column("cursor", Integer, nullable=False),
)

RULE_TARGETS: Final = Table(
    "rule_targets",
    METADATA,
    Column("rule_name", ForeignKey(RULES.c.name, ondelete="CASCADE"), primary_key=True),
    Column("target_id", String(64), primary_key=True),
    Column("body", Text, nullable=False),
)

DELIVERIES: Final = Table(
    "deliveries",
    METADATA,
    Column("delivery_id", Integer, primary_key=True, autoincrement=True),
    Column("rule_name", String(64), nullable=False),
    Column("target_id", String(64), nullable=False),
    Column("sequence", Integer, nullable=False),
    # The event's own row may be the oldest, and removed, while a target is still out of reach.
    Column("body", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    # Seconds since 1970: when the rule matched, and when to try (again).
    Column("created", Float, nullable=False),
    Column("due", Float, nullable=False),
    UniqueConstraint("rule_name", "target_id", "sequence"),
    ForeignKeyConstraint(
        ["rule_name", "target_id"], [RULE_TARGETS.c.rule_name, RULE_TARGETS.c.target_id], ondelete="CASCADE"
    ),
    sqlite_autoincrement=True,
)

Index("deliveries_by_due", DELIVERIES.c.due)

ENCRYPTION_DEFAULTS: Final = Table(
    "encryption_defaults",
    METADATA,
    Column("account", String(12), primary_key=True),
    Column("region", String(32), primary_key=True),
    Column("enabled", Boolean, nullable=False),
    # None: the AWS managed key, alias/aws/ebs.
    Column("kms_key_arn", Text),
)

GRANTS: Final = Table(
    "grants",
    METADATA,
    # The grant's Name: KMS gives the same grant for the same name, so a crash after the request loses nothing.
    Column("name", String(256), primary_key=True),
    # No foreign key: a grant outlives the row of its volume where it could not be retired yet.
    Column("volume_id", String(21), nullable=False, index=True),
    Column("kms_key_arn", Text, nullable=False),
    Column("grant_id", String(128)),
    Column("create_time", UtcDateTime, nullable=False),
)

_SNAPSHOT_STATES = ", ".join(f"'{state.value}'" for state in SnapshotState)

SNAPSHOTS: Final = Table(
    "snapshots",
    METADATA,
    Column("snapshot_id", String(22), primary_key=True),
    # No foreign key: a snapshot outlives its volume.
    Column("volume_id", String(21), nullable=False, index=True),
    Column(
        "state", String(16), CheckConstraint(f"state IN ({_SNAPSHOT_STATES})", name="snapshots_state"), nullable=False
    ),
    Column("volume_size", BigInteger, CheckConstraint("volume_size > 0", name="snapshots_size"), nullable=False),
    Column("sector_size", Integer, nullable=False),
    Column("encrypted", Boolean, nullable=False),
    Column("kms_key_arn", Text, CheckConstraint("encrypted OR kms_key_arn IS NULL", name="snapshots_key")),
    Column("data_encryption_key_id", String(128)),
    Column("description", String(255), nullable=False),
    Column("start_time", UtcDateTime, nullable=False),
    Column("completion_time", UtcDateTime),
    Column("bytes_done", BigInteger, nullable=False),
    Column("bytes_total", BigInteger, nullable=False),
    Column("store", Text, nullable=False),
    Column(
        "digest", String(64), CheckConstraint("state <> 'completed' OR digest IS NOT NULL", name="snapshots_digest")
    ),
    Column("parent", String(22)),
    Column("copied_from", String(22)),
    Column("state_message", Text),
    Column("deleting", Boolean, nullable=False),
    # What a pending snapshot's copier must know besides, or a rewrap under way; control's own JSON.
    Column("job", Text, CheckConstraint("job IS NULL OR state != 'error'", name="snapshots_job")),
)

# Nearly all snapshots are completed: by state there is nothing to find but these. A database takes a partial index for
# a query that repeats its words, and those cannot have a bound value in them.
UNSETTLED: Final = or_(
    SNAPSHOTS.c.state == literal_column(f"'{SnapshotState.PENDING.value}'"),
    SNAPSHOTS.c.job.is_not(None),
    SNAPSHOTS.c.deleting,
)
"""Whether a crash may have left something to do for a snapshot."""
Index("snapshots_unsettled", SNAPSHOTS.c.snapshot_id, sqlite_where=UNSETTLED)

SNAPSHOT_TAGS: Final = Table(
    "snapshot_tags",
    METADATA,
    Column("snapshot_id", ForeignKey(SNAPSHOTS.c.snapshot_id, ondelete="CASCADE"), primary_key=True),
    Column("key", String(127), primary_key=True),
    Column("value", String(256), nullable=False),
)

STACKS: Final = Table(
    "stacks",
    METADATA,
    Column("stack_id", String(255), primary_key=True),
    Column("name", String(128), nullable=False),
    # The name, until the stack is deleted: of those that are there, each has a name of its own.
    Column("claim", String(128), unique=True),
    Column("create_time", UtcDateTime, nullable=False),
    Column("delete_time", UtcDateTime),
    Column("body", Text, nullable=False),
)

STACK_EVENTS: Final = Table(
    "stack_events",
    METADATA,
    Column("sequence", Integer, primary_key=True, autoincrement=True),
    Column("stack_id", ForeignKey(STACKS.c.stack_id, ondelete="CASCADE"), nullable=False, index=True),
    Column("body", Text, nullable=False),
    sqlite_autoincrement=True,
)

CHANGE_SETS: Final = Table(
    "change_sets",
    METADATA,
    Column("change_set_id", String(255), primary_key=True),
    Column("stack_id", ForeignKey(STACKS.c.stack_id, ondelete="CASCADE"), nullable=False),
    Column("name", String(128), nullable=False),
    Column("body", Text, nullable=False),
    UniqueConstraint("stack_id", "name"),
)

STACK_EXPORTS: Final = Table(
    "stack_exports",
    METADATA,
    Column("name", String(255), primary_key=True),
    Column("stack_id", ForeignKey(STACKS.c.stack_id, ondelete="CASCADE"), nullable=False),
    Column("value", Text, nullable=False),
)

STACK_IMPORTS: Final = Table(
    "stack_imports",
    METADATA,
    Column("stack_id", ForeignKey(STACKS.c.stack_id, ondelete="CASCADE"), primary_key=True),
    Column("name", String(255), primary_key=True),
)
