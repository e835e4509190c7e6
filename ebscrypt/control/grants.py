"""The grant of an attachment: leave to Decrypt for this volume alone, from attach to detach (facts §1.3 b).

    row in the catalog → KMS CreateGrant → its id in the row → token to the daemon  …  KMS RetireGrant → row removed

The row comes first and goes last, so no crash leaves a grant that nobody knows of. Where the id is missing, KMS is
asked once more by the same name, and that is the same grant. When a row is made its volume is in use; so a row whose
volume is not is *overdue*: KMS could not be reached when the attachment ended. It may be away for days, and no command
should wait for it on that account: only one that has just talked to KMS with success tries again, a few rows at a time.
"""

from __future__ import annotations

import contextlib
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ebscrypt.catalog.keys import GrantRow
from ebscrypt.control import faultpoints, runtime
from ebscrypt.errors import (
    EbscryptError,
    KmsAccessDenied,
    KmsBadAnswer,
    KmsError,
    KmsKeyNotFound,
    KmsKeyUnusable,
    KmsThrottled,
    KmsUnreachable,
    VolumeNotFound,
)
from ebscrypt.kms.names import parse_key_name
from ebscrypt.kms.principals import grantee, wants_grants
from ebscrypt.model import Volume, VolumeState, encryption_context, utc_now

if TYPE_CHECKING:
    from ebscrypt.control.site import Site
    from ebscrypt.kms.client import KmsClient
    from ebscrypt.kms.results import Grant

_NAME: Final = re.compile(r"ebscrypt-(vol-[0-9a-f]{17})-[0-9a-f]{16}")
MOST_OVERDUE: Final = 8
"""Overdue grants that one command retires: KMS lets an account retire 30 a second (facts §5.1)."""
PATIENCE: Final = 5.0
"""Seconds that a detach waits for KMS, which answers in some 10 ms where it is there."""
_NO_ANSWER: Final = (KmsUnreachable, KmsThrottled, KmsBadAnswer)
"""After these nobody knows whether KMS did what it was asked."""
_NOT_NOW: Final = (KmsUnreachable, KmsThrottled, KmsKeyUnusable)
"""These may be over soon."""


def refuse_foreign_key(site: Site, key_arn: str) -> None:
    """Raise `KmsKeyNotFound` for a key that the KMS of these settings cannot have.

    Asked to decrypt, it would only call the wrapped key invalid; asked to retire a grant, it would call that done.
    """
    kms, name = site.settings.kms, parse_key_name(key_arn)
    if name.region != kms.region:
        why, hint = f"in Region {name.region}, and the settings are for {kms.region}", f"EBSCRYPT_REGION={name.region}"
    elif kms.endpoint == "embedded" and name.account != kms.account:
        why = f"of account {name.account}, and the embedded KMS has keys of {kms.account} only"
        hint = f"EBSCRYPT_ACCOUNT={name.account}, or EBSCRYPT_KMS"
    else:
        return
    raise KmsKeyNotFound(f"the KMS key {key_arn} is {why}", hint=f"set {hint}, to where that key is", key_arn=key_arn)


def present_token(site: Site, volume: Volume) -> str | None:
    """The grant token of a lost attachment, from what its daemon was told; None where it is for another KMS key."""
    try:
        spec = runtime.directory(site.settings, volume.volume_id).read_spec()
    except EbscryptError:
        return None
    return spec.grant_token if spec.kms_key_arn == volume.kms_key_arn else None


def begin_grant(site: Site, volume: Volume, *, present: str | None = None, key_may_be_kept: bool = False) -> str | None:
    """The token of the grant for an attachment that begins; None where there is to be none.

    ``present`` is the token of a lost attachment that goes on: while the catalog has its grant, that stays the one, and
    KMS is not asked. ``key_may_be_kept`` says that systemd may have the data key of a daemon that died: whether KMS is
    needed at all is for the next daemon to find out, and it starts without a grant if need be.

    Raises `KmsError` when KMS refuses. A caller who may not make grants does without one, unless ``kms.grants`` is
    ``always``: then he may Decrypt himself, or will be told that he may not.
    """
    if volume.kms_key_arn is None or not wants_grants(site.settings):
        return None
    keys, key_arn = site.catalog.keys, volume.kms_key_arn
    if present is not None and any(row.kms_key_arn == key_arn for row in keys.grants(volume.volume_id)):
        return present
    name = f"ebscrypt-{volume.volume_id}-{secrets.token_hex(8)}"
    row = GrantRow(name=name, volume_id=volume.volume_id, kms_key_arn=key_arn, create_time=utc_now())
    keys.add_grant(row)
    faultpoints.reach("grant.noted")
    try:
        grant = _create(site.kms, row)
    except KmsError as error:
        if not isinstance(error, _NO_ANSWER):
            keys.remove_grant(row.name)
        may_not = isinstance(error, KmsAccessDenied) and site.settings.kms.grants == "auto"
        if not may_not and not (key_may_be_kept and volume.was_attached and isinstance(error, _NOT_NOW)):
            raise
        site.notes.append(f"no grant was made for volume {volume.volume_id}: {error.message}")
        return None
    faultpoints.reach("grant.made")
    keys.set_grant_id(row.name, grant.grant_id)
    faultpoints.reach("grant.kept")
    return grant.token


def end_grants(site: Site, volume_id: str, *, but_on: str | None = None) -> None:
    """Retire the grants of an attachment that is over and, where KMS answers, overdue ones too.

    ``but_on`` is the KMS key of an attachment that goes on under it, after a rewrap: grants on that key stay.

    A refusal or the silence of KMS raises nothing. It becomes a note, and the grant will be overdue.
    """
    rows = [row for row in site.catalog.keys.grants(volume_id) if row.kms_key_arn != but_on]
    if not rows:
        return
    left = _retire_all(site, rows)
    for row, error in left:
        site.notes.append(
            f"the grant {row.name} on {row.kms_key_arn} could not be retired yet, and will be later: {error.message}"
        )
    if not left:
        retire_overdue(site)


def retire_overdue(site: Site) -> None:
    """Retire some of the grants whose attachment is over. For a command that has just talked to KMS; as `end_grants`.

    The user was told of them when they were left, and they do no harm: nothing is said about those that stay.
    """
    overdue = [row for row in site.catalog.keys.grants() if not _is_in_use(site, row.volume_id)]
    if overdue:
        # By chance, so that some that can never be retired do not keep all others waiting.
        _retire_all(site, secrets.SystemRandom().sample(overdue, min(MOST_OVERDUE, len(overdue))))


def note_grants(site: Site, volumes: Iterable[Volume]) -> None:
    """Note the grants that KMS has for attachments of ``volumes`` on this machine, for a catalog that lost its rows.

    They are found by name and grantee. What KMS does not tell becomes a note.
    """
    wanted = {volume.volume_id: volume for volume in volumes if volume.kms_key_arn is not None}
    if not wanted or not wants_grants(site.settings):
        return
    known = {row.name for row in site.catalog.keys.grants()}
    for key_arn in sorted({str(volume.kms_key_arn) for volume in wanted.values()}):
        try:
            found = list(_granted(site, key_arn))
        except EbscryptError as error:
            site.notes.append(f"grants on {key_arn} may be left from attachments before: {error.message}")
            continue
        for grant in found:
            match = _NAME.fullmatch(grant.get("Name", ""))
            if match and match[1] in wanted and match[0] not in known:
                row = GrantRow(
                    name=match[0],
                    volume_id=match[1],
                    kms_key_arn=key_arn,
                    grant_id=grant["GrantId"],
                    create_time=utc_now(),
                )
                site.catalog.keys.add_grant(row)


def _granted(site: Site, key_arn: str) -> Iterator[dict[str, Any]]:
    """The grants on a key whose grantee is this machine's, however many pages that takes."""
    asked = {"KeyId": key_arn, "GranteePrincipal": grantee(site.settings), "Limit": 100}
    while True:
        page = site.kms.call("ListGrants", **asked)
        yield from page["Grants"]
        if not page.get("Truncated"):
            return
        asked["Marker"] = page["NextMarker"]


def _is_in_use(site: Site, volume_id: str) -> bool:
    try:
        return site.catalog.volume(volume_id).state is VolumeState.IN_USE
    except VolumeNotFound:
        return False


def _retire_all(site: Site, rows: list[GrantRow]) -> list[tuple[GrantRow, EbscryptError]]:
    """Retire each; those that could not be. Silence of KMS ends it, for the next call would meet the same."""
    kms, left = _impatient(site), []
    for row in rows:
        try:
            _retire(site, kms, row)
        except EbscryptError as error:
            left.append((row, error))
            if isinstance(error, _NO_ANSWER):
                break
    return left


def _impatient(site: Site) -> KmsClient:
    """The site's KMS with less time: nothing that the user waits for depends on these calls."""
    from ebscrypt.kms.client import KmsClient  # noqa: PLC0415 - imported when needed

    kms = site.settings.kms
    if kms.endpoint == "embedded" or kms.deadline <= PATIENCE:
        return site.kms
    short = msgspec.structs.replace(kms, deadline=PATIENCE)
    return KmsClient(msgspec.structs.replace(site.settings, kms=short))


def _retire(site: Site, kms: KmsClient, row: GrantRow) -> None:
    refuse_foreign_key(site, row.kms_key_arn)
    with contextlib.suppress(KmsKeyNotFound):  # the key was deleted, and its grants with it
        kms.retire_grant(row.kms_key_arn, row.grant_id or _create(kms, row).grant_id)
    faultpoints.reach("grant.retired")
    site.catalog.keys.remove_grant(row.name)
    faultpoints.reach("grant.forgotten")


def _create(kms: KmsClient, row: GrantRow) -> Grant:
    return kms.create_grant(row.kms_key_arn, encryption_context(row.volume_id), name=row.name)
