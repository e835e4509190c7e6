"""Operations on grants: CreateGrant, RetireGrant, RevokeGrant, ListGrants, ListRetirableGrants."""

from __future__ import annotations

import re
import secrets
import sqlite3
from typing import Any, Final

from ebscrypt.kms.embedded import authority, faults, grant_rows
from ebscrypt.kms.embedded.calls import Call, paged
from ebscrypt.kms.embedded.grant_rows import GrantRow
from ebscrypt.kms.embedded.rows import KeyRow
from ebscrypt.kms.embedded.specs import SYMMETRIC, grant_operations

PER_KEY: Final = 50_000
"""Grants on one key (facts §5.1)."""
_MOST_PAIRS: Final = 8
_LONGEST_VALUE: Final = 384
"""Pairs of a constraint and characters of a value (API reference of CreateGrant)."""
_PRINCIPAL: Final = re.compile(r"arn:aws[a-z-]*:(iam|sts)::\d{12}:.+|\d{12}")
_SERVICE: Final = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")
_GRANT_ID: Final = re.compile(r"[0-9a-f]{64}")


def create_grant(call: Call) -> dict[str, Any]:
    """Leave for a principal to use a key. Asked again with the same name and terms, it is the same grant."""
    with call.store.write() as db:
        key = call.find_key(db, call.parameters["KeyId"], alias_too=False)
        row = _wanted(call, key)
        authority.check_new_grant(db, call.asker, key, row)
        _check_terms(key, row)
        call.check_state(key)
        present = grant_rows.same(db, call.scope, row)
        if present is None and grant_rows.count(db, key.key_id) >= PER_KEY:
            raise faults.KmsFault("LimitExceededException", f"{key.arn} has {PER_KEY} grants, and may have no more")
        call.finish_dry_run()
        if present is None:
            grant_rows.add(db, row)
        grant = present or row
        return {"GrantId": grant.grant_id, "GrantToken": grant_rows.new_token(db, grant)}


def retire_grant(call: Call) -> dict[str, Any]:
    """End a grant: by whom it says, named by its token, or by the key's ARN and its id."""
    asked = call.parameters
    token, key_id, grant_id = asked.get("GrantToken"), asked.get("KeyId"), asked.get("GrantId")
    if (token is None) == (key_id is None and grant_id is None) or (key_id is None) != (grant_id is None):
        raise faults.validation("Please specify either a grant token, or a key ARN and a grant ID.")
    with call.store.write() as db:
        grant = _of_token(call, db, token) if token is not None else _of_ids(call, db, str(key_id), str(grant_id))
        authority.check_retirement(call.principal, grant)
        call.check_state(call.key(db, grant.key_id))
        call.finish_dry_run()
        grant_rows.remove(db, grant)
    return {}


def revoke_grant(call: Call) -> dict[str, Any]:
    """End a grant by the authority of the key's owner."""
    with call.store.write() as db:
        key = call.find_key(db, call.parameters["KeyId"], alias_too=False)
        grant = _existing(call, db, key, call.parameters["GrantId"])
        call.check_state(key)
        call.finish_dry_run()
        grant_rows.remove(db, grant)
    return {}


def list_grants(call: Call) -> dict[str, Any]:
    """The grants on a key, or the one of an id, or those of a grantee, a page at a time."""
    asked = call.parameters
    after, limit = call.page(default=50, largest=100)
    grantee = _either(asked, "GranteePrincipal", "GranteeServicePrincipal")
    grant_id = asked.get("GrantId", "")
    if grant_id:
        _check_id(grant_id)
    with call.store.read() as db:
        key = call.find_key(db, asked["KeyId"], alias_too=False)
        call.check_state(key)
        found = grant_rows.of_key(
            db, call.scope, key.key_id, grantee=grantee, grant_id=grant_id, after=after, limit=limit + 1
        )
    return paged("Grants", [_shown(grant) for grant in found], limit, by="GrantId")


def list_retirable_grants(call: Call) -> dict[str, Any]:
    """The grants on any key that a principal may retire as their retiring principal, a page at a time."""
    after, limit = call.page(default=50, largest=100)
    retiring = _either(call.parameters, "RetiringPrincipal", "RetiringServicePrincipal")
    if not retiring:
        raise faults.validation("Please specify either RetiringPrincipal or RetiringServicePrincipal.")
    with call.store.read() as db:
        found = grant_rows.retirable(db, call.scope, retiring, after=after, limit=limit + 1)
    return paged("Grants", [_shown(grant) for grant in found], limit, by="GrantId")


def _wanted(call: Call, key: KeyRow) -> GrantRow:
    """The grant that the request describes, with an id of its own."""
    asked = call.parameters
    grantee = _either(asked, "GranteePrincipal", "GranteeServicePrincipal")
    retiring = _either(asked, "RetiringPrincipal", "RetiringServicePrincipal")
    constraints = asked.get("Constraints", {})
    if "GranteeServicePrincipal" in asked and not (retiring and "SourceArn" in constraints):
        raise faults.validation("A GranteeServicePrincipal needs a SourceArn constraint and a retiring principal.")
    return GrantRow(
        grant_id=secrets.token_hex(32),
        key_id=key.key_id,
        arn=key.arn,
        created=call.now,
        name=asked.get("Name", ""),
        grantee=grantee,
        retiring=retiring,
        issuer=call.root_arn,
        operations=tuple(dict.fromkeys(asked["Operations"])),
        constraints=constraints,
    )


def _either(asked: dict[str, Any], principal: str, service: str) -> str:
    """The one of two members that is given; "" for neither."""
    if principal in asked and service in asked:
        raise faults.validation(f"You cannot specify {principal} and {service} in the same request.")
    found: str = asked.get(principal, asked.get(service, ""))
    if principal in asked and not (_PRINCIPAL.fullmatch(found) or _SERVICE.fullmatch(found)):
        raise faults.KmsFault("InvalidArnException", f"{principal} is not the ARN of a principal.")
    return found


def _check_terms(key: KeyRow, row: GrantRow) -> None:
    """Raise ValidationException for a grant that could not be used, or that AWS would not make."""
    if not row.grantee:
        raise faults.validation("Please specify either GranteePrincipal or GranteeServicePrincipal.")
    if not row.operations:
        raise faults.validation("At least one operation must be specified.")
    for operation in row.operations:
        if operation not in grant_operations(key.spec, key.usage):
            raise faults.validation(f"A grant on a {key.spec} key for {key.usage} cannot allow {operation}.")
    contexts = [row.constraints.get(f"EncryptionContext{kind}") for kind in ("Subset", "Equals")]
    for context in contexts:
        if context is not None and key.spec != SYMMETRIC:
            raise faults.validation(f"A grant on a {key.spec} key cannot have encryption context constraints.")
        if context and (len(context) > _MOST_PAIRS or max(map(len, context.values())) > _LONGEST_VALUE):
            raise faults.validation(
                f"An encryption context constraint has at most {_MOST_PAIRS} pairs, "
                f"and no value of more than {_LONGEST_VALUE} characters."
            )


def _of_token(call: Call, db: sqlite3.Connection, token: str) -> GrantRow:
    if (grant := grant_rows.of_token(db, call.scope, token)) is None:
        raise authority.invalid_token()
    return grant


def _of_ids(call: Call, db: sqlite3.Connection, key_id: str, grant_id: str) -> GrantRow:
    if not call.key_name(key_id).is_arn:
        raise faults.KmsFault("InvalidArnException", f"Invalid arn {key_id}")
    return _existing(call, db, call.find_key(db, key_id, alias_too=False), grant_id)


def _existing(call: Call, db: sqlite3.Connection, key: KeyRow, grant_id: str) -> GrantRow:
    _check_id(grant_id)
    grant = grant_rows.one(db, call.scope, key.key_id, grant_id)
    if grant is None:
        raise faults.KmsFault("NotFoundException", f"Grant ID {grant_id} not found")
    return grant


def _check_id(grant_id: str) -> None:
    if not _GRANT_ID.fullmatch(grant_id):
        raise faults.KmsFault("InvalidGrantIdException", "A grant ID is 64 lower-case hexadecimal digits.")


def _shown(grant: GrantRow) -> dict[str, Any]:
    """GrantListEntry. A service stands in both members for the grantee, as in AWS's own listings."""
    shown: dict[str, Any] = {
        "KeyId": grant.arn,
        "GrantId": grant.grant_id,
        "Name": grant.name,
        "CreationDate": grant.created,
        "GranteePrincipal": grant.grantee,
        "IssuingAccount": grant.issuer,
        "Operations": list(grant.operations),
    }
    if _SERVICE.fullmatch(grant.grantee):
        shown["GranteeServicePrincipal"] = grant.grantee
    if grant.retiring:
        shown["RetiringPrincipal"] = grant.retiring
        if _SERVICE.fullmatch(grant.retiring):
            shown["RetiringServicePrincipal"] = grant.retiring
    if grant.constraints:
        shown["Constraints"] = grant.constraints
    return shown
