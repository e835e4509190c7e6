"""List the requests made to KMS from this machine, oldest first; wait for new ones with --follow.

Each has one record, in the form of CloudTrail's: with --output json each line is one. They hold no key, no wrapped key
and no grant token, but the encryption context. Text shows time, event, key, volume, and the error where there was one.
"""

from __future__ import annotations

import argparse
import json
import re
import select
import sys
from collections import deque
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.cli import arguments
from ebscrypt.errors import InvalidParameter, NotPermitted, UsageError
from ebscrypt.kms.names import parse_key_name
from ebscrypt.model import check_volume_id

if TYPE_CHECKING:
    from ebscrypt.control.audit import AuditQuery
    from ebscrypt.kms.audit_file import Reader

_LIMIT: Final = 1000
_PAUSE_MS: Final = 500
"""Between two looks at the files."""
_AGO: Final = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_EVENT_NAME: Final = re.compile(r"[A-Za-z]{1,64}")
_RESOURCE: Final = re.compile(r"snap-[0-9a-f]{17}")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("volume_id", nargs="?", metavar="VOL", help="only what is about this volume")
    parser.add_argument("--resource-id", metavar="ID", help="the same; vol-… or snap-…")
    parser.add_argument("--key-id", metavar="KEY", help="only this key: its ARN, its id, or an alias as it was named")
    parser.add_argument("--event-name", metavar="NAME", help="only this operation of KMS, for example Decrypt")
    parser.add_argument("--error", action="store_true", help="only what KMS refused or did not answer")
    when = "2026-01-31, 2026-01-31T12:00:00Z (UTC unless it says otherwise) or so long ago: 90m, 12h, 7d"
    parser.add_argument("--since", metavar="TIME", help=f"only from then on: {when}")
    parser.add_argument("--until", metavar="TIME", help="only until then")
    parser.add_argument(
        "--limit", metavar="N", type=_count, default=_LIMIT, help=f"at most so many, the newest ({_LIMIT})"
    )
    parser.add_argument("--follow", action="store_true", help="go on with new ones as they come")
    arguments.add_output(parser)


def _count(text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise InvalidParameter(f"--limit {text[:40]!r} is not a number of records")
    return int(text)


def _time(text: str | None, flag: str) -> datetime | None:
    """A moment, or one so long ago."""
    if text is None:
        return None
    try:
        if match := _AGO.fullmatch(text):
            return datetime.now(UTC) - timedelta(**{_UNITS[match[2]]: int(match[1])})
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise InvalidParameter(
            f"{flag} {text[:40]!r} is not a time", hint="write 2026-01-31T12:00:00Z, or how long ago: 90m, 12h, 7d"
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt import config  # noqa: PLC0415 - not for --help
    from ebscrypt.control.audit import AuditQuery, audit_records  # noqa: PLC0415 - the same
    from ebscrypt.kms.audit_file import Reader  # noqa: PLC0415 - the same

    query = AuditQuery(
        resource_id=_resource(parsed),
        key=_key(parsed.key_id),
        event_name=_event_name(parsed.event_name),
        failed=parsed.error,
        since=_time(parsed.since, "--since"),
        until=_time(parsed.until, "--until"),
    )
    directory = config.load().audit_dir
    try:
        with Reader(directory) as reader:
            _print(deque(audit_records(reader, query), maxlen=parsed.limit), query, parsed)
            _tell_broken(reader, parsed)
            if parsed.follow:
                _follow(reader, query, parsed)
    except PermissionError as error:
        raise NotPermitted(f"this user may not read {directory}", hint="run the command with sudo") from error
    return 0


def _resource(parsed: argparse.Namespace) -> str | None:
    if parsed.volume_id is not None and parsed.resource_id is not None:
        raise UsageError("VOL and --resource-id say the same: give one of them")
    named: str | None = parsed.volume_id or parsed.resource_id
    if named is None or _RESOURCE.fullmatch(named):
        return named
    return check_volume_id(named)


def _key(text: str | None) -> str | None:
    """What names no key can have no record: most likely a slip of the pen."""
    if text is not None:
        parse_key_name(text, "--key-id")
    return text


def _event_name(text: str | None) -> str | None:
    if text is not None and not _EVENT_NAME.fullmatch(text):
        raise InvalidParameter(
            f"--event-name {text[:40]!r} is not the name of an operation", hint="for example Decrypt or CreateGrant"
        )
    return text


def _tell_broken(reader: Reader, parsed: argparse.Namespace) -> None:
    broken = reader.broken + reader.unfinished()
    if broken:
        lines = "one line of the audit files is" if broken == 1 else f"{broken} lines of the audit files are"
        arguments.say(f"{lines} no record, and left out: a full disk may have cut it off", parsed, prefix="note: ")


def _follow(reader: Reader, query: AuditQuery, parsed: argparse.Namespace) -> None:
    """Print records as they come, until interrupted or until nobody reads them any more."""
    from ebscrypt.control.audit import audit_records  # noqa: PLC0415 - see run

    nobody_reads = select.poll()
    nobody_reads.register(sys.stdout.fileno(), 0)
    while not nobody_reads.poll(_PAUSE_MS):
        _print(audit_records(reader, query), query, parsed)


def _print(records: Iterable[dict[str, Any]], query: AuditQuery, parsed: argparse.Namespace) -> None:
    for record in records:
        print(json.dumps(record, ensure_ascii=False) if parsed.output == "json" else _line(record, query))
    sys.stdout.flush()


def _line(record: dict[str, Any], query: AuditQuery) -> str:
    from ebscrypt.control.audit import DRY_RUN, keys_of  # noqa: PLC0415 - see run

    keys = [arn.rpartition("/")[2] for arn in keys_of(record)] or ["-"]
    name = str(record.get("eventName", "-"))
    words = [
        str(record.get("eventTime", "-")),
        name.ljust(31),
        ",".join(keys).ljust(36),
        query.resource_of(record) or "-",
    ]
    if record.get("errorCode") == DRY_RUN:
        words.append("(dry run: would have succeeded)")
    elif record.get("errorCode"):
        words.append(f"{record['errorCode']}: {record.get('errorMessage') or 'no text'}")
    # KMS's own words, and a client's names: they must not be able to steer a terminal.
    return "".join(sign if sign.isprintable() else "�" for sign in "  ".join(words)).rstrip()
