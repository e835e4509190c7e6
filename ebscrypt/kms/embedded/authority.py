"""Who may do what: the account's root everything, any other principal what a grant allows (facts §5.2, CreateGrant).

A principal is an IAM or STS ARN; None is the account's root. Key policies are kept but not evaluated, so a grant is the
only way in for all others. It counts from the moment it was made: its token may be shown, and must be right if it is,
but is not needed. A token that somebody else shows gives him nothing, since a grant is for its grantee alone.

A role's session (``assumed-role/NAME/SESSION``) may use the grants of its role (``role/NAME``, without a path) too.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from ebscrypt.kms.embedded import faults, grant_rows
from ebscrypt.kms.embedded.grant_rows import GrantRow
from ebscrypt.kms.embedded.rows import KeyRow, Scope

GRANTABLE: Final = frozenset(
    {
        "CreateGrant",
        "Decrypt",
        "DescribeKey",
        "Encrypt",
        "GenerateDataKey",
        "GenerateDataKeyWithoutPlaintext",
        "ReEncrypt",
        "RetireGrant",
    }
)
"""The operations of this KMS that a grant can allow. All others are the root's alone."""
WITH_CONTEXT: Final = frozenset(
    {"Decrypt", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext", "ReEncryptFrom", "ReEncryptTo"}
)
"""The grant operations that have an encryption context, on which a grant's constraints are about it."""
_SESSION: Final = re.compile(r"arn:(aws[a-z-]*):sts::(\d{12}):assumed-role/([\w+=,.@:-]+)/[\w+=,.@:-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """Who asks for an account and Region, and the grant tokens that he shows. ``principal`` None is the root."""

    scope: Scope
    principal: str | None
    tokens: tuple[str, ...] = field(default=(), repr=False)


def names(principal: str) -> tuple[str, str]:
    """The principals whose grants this one may use: itself, and its role if it is a role's session."""
    if match := _SESSION.fullmatch(principal):
        partition, account, role = match.groups()
        return principal, f"arn:{partition}:iam::{account}:role/{role}"
    return principal, principal


def check_tokens(db: sqlite3.Connection, asker: Asker) -> None:
    """Raise InvalidGrantTokenException unless each token shown is of a grant that is there."""
    if not all(grant_rows.of_token(db, asker.scope, token) for token in asker.tokens):
        raise invalid_token()


def check(db: sqlite3.Connection, asker: Asker, key: KeyRow, *, action: str, context: dict[str, str]) -> None:
    """Raise AccessDeniedException unless ``asker`` may do ``action`` on ``key`` with this encryption context."""
    if asker.principal is None:
        return
    if not any(_allows(grant, action, context) for grant in _grants(db, asker, asker.principal, key)):
        raise denied(asker.principal, action, on=key.arn)


def _grants(db: sqlite3.Connection, asker: Asker, principal: str, key: KeyRow) -> Iterator[GrantRow]:
    """The grants on ``key`` for ``principal``. Those of the tokens shown come first: there may be 50,000 others."""
    shown = [grant_rows.of_token(db, asker.scope, token) for token in asker.tokens]
    yield from (grant for grant in shown if grant and grant.key_id == key.key_id and grant.grantee in names(principal))
    yield from grant_rows.of_grantee(db, asker.scope, key.key_id, names(principal))


def check_new_grant(db: sqlite3.Connection, asker: Asker, key: KeyRow, new: GrantRow) -> None:
    """Raise AccessDeniedException unless ``asker`` may make this grant: out of one that allows no less."""
    if asker.principal is None:
        return
    if not any(_covers(grant, new) for grant in _grants(db, asker, asker.principal, key)):
        raise denied(asker.principal, "CreateGrant", on=key.arn)


def check_retirement(principal: str | None, grant: GrantRow) -> None:
    """Raise AccessDeniedException unless ``principal`` may retire the grant.

    That is the root, its retiring principal, and its grantee where it allows RetireGrant.
    """
    if principal is None or grant.retiring in names(principal):
        return
    if grant.grantee not in names(principal) or not _allows(grant, "RetireGrant", {}):
        raise denied(principal, "RetireGrant", on=grant.arn)


def denied(principal: str, action: str, *, on: str) -> faults.KmsFault:
    """AWS's words for what no policy allows; for Decrypt it names no key, since the caller named none."""
    where = "the resource associated with this ciphertext" if action in ("Decrypt", "ReEncryptFrom") else None
    return faults.KmsFault(
        "AccessDeniedException",
        f"User: {principal} is not authorized to perform: kms:{action} on {where or f'resource: {on}'} "
        f"because no identity-based policy allows the kms:{action} action",
    )


def invalid_token() -> faults.KmsFault:
    """One fault for malformed, wrong and outdated tokens."""
    return faults.KmsFault("InvalidGrantTokenException", "The grant token is not valid, or its grant is no more.")


def _allows(grant: GrantRow, action: str, context: dict[str, str]) -> bool:
    """Whether the grant is for such a request.

    One with SourceArn is for requests on behalf of a resource, which none that reaches this KMS is; retiring it is
    what that constraint leaves alone.
    """
    constraints = grant.constraints
    if action not in grant.operations or ("SourceArn" in constraints and action != "RetireGrant"):
        return False
    if action not in WITH_CONTEXT:
        return True
    subset, equals = constraints.get("EncryptionContextSubset", {}), constraints.get("EncryptionContextEquals", context)
    return subset.items() <= context.items() and bool(equals == context)


def _covers(grant: GrantRow, new: GrantRow) -> bool:
    """Whether all that ``new`` would allow is allowed by ``grant``, which allows to make grants."""
    if not _allows(grant, "CreateGrant", {}) or not set(new.operations) <= set(grant.operations):
        return False
    return _is_stricter(new.constraints, grant.constraints)


def _is_stricter(new: dict[str, Any], old: dict[str, Any]) -> bool:
    """Whether every context that ``new`` lets pass is one that ``old`` lets pass."""
    equals = new.get("EncryptionContextEquals")
    certain = new.get("EncryptionContextSubset", {}) if equals is None else equals
    if "EncryptionContextEquals" in old and equals != old["EncryptionContextEquals"]:
        return False
    return bool(old.get("EncryptionContextSubset", {}).items() <= certain.items())
