"""What people see of KMS's answers; programs say ``--output json``."""

from __future__ import annotations

import base64
import sys
from typing import Any

from ebscrypt.cli import output
from ebscrypt.cli.kms_words import Answer


def key_arn(answer: Answer) -> None:
    """Of CreateKey: the key's ARN."""
    print(answer["KeyMetadata"]["Arn"])


def key(answer: Answer) -> None:
    """Of DescribeKey: what it is and whether it can be used."""
    shown = answer["KeyMetadata"]
    names = {
        "key": "Arn",
        "state": "KeyState",
        "description": "Description",
        "usage": "KeyUsage",
        "spec": "KeySpec",
        "origin": "Origin",
        "manager": "KeyManager",
    }
    fields: dict[str, str | None] = {ours: shown.get(theirs) or None for ours, theirs in names.items()}
    for ours, theirs in (("created", "CreationDate"), ("deletion", "DeletionDate"), ("material valid to", "ValidTo")):
        fields[ours] = _time(shown, theirs)
    output.print_fields(fields)


def aliases(answer: Answer) -> None:
    output.print_table(("ALIAS", "KEY"), [(one["AliasName"], one.get("TargetKeyId", "-")) for one in answer["Aliases"]])


def deletion(answer: Answer) -> None:
    """Of ScheduleKeyDeletion: when, and what that means. That is talk."""
    when = output.timestamp(answer["DeletionDate"])
    print(f"deleted on {when}, and with it all data under it", file=sys.stderr)


def grant_id(answer: Answer) -> None:
    """Of CreateGrant: its id. The token is in the JSON."""
    print(answer["GrantId"])


def grants(answer: Answer) -> None:
    heads = ("GRANT", "NAME", "GRANTEE", "OPERATIONS", "CONSTRAINTS")
    output.print_table(heads, [_grant(one) for one in answer["Grants"]])


def _grant(one: dict[str, Any]) -> tuple[str, ...]:
    constraints = [
        f"{name}={value}"
        for context in (one.get("Constraints") or {}).values()
        if isinstance(context, dict)
        for name, value in sorted(context.items())
    ]
    grantee = one.get("GranteePrincipal") or one.get("GranteeServicePrincipal") or "-"
    operations = ", ".join(one.get("Operations", []))
    return one["GrantId"], one.get("Name") or "-", grantee, operations, ", ".join(constraints) or "-"


def import_parameters(answer: Answer) -> None:
    """Of GetParametersForImport: public key and token in base64, as ImportKeyMaterial's options want them in files."""
    output.print_fields(
        {
            "public key": base64.b64encode(answer["PublicKey"]).decode(),
            "import token": base64.b64encode(answer["ImportToken"]).decode(),
            "valid to": _time(answer, "ParametersValidTo"),
        }
    )


def material_id(answer: Answer) -> None:
    if answer.get("KeyMaterialId"):
        print(answer["KeyMaterialId"])


def policy(answer: Answer) -> None:
    print(answer["Policy"])


def policies(answer: Answer) -> None:
    print("\n".join(answer["PolicyNames"]))


def tags(answer: Answer) -> None:
    output.print_table(("TAG", "VALUE"), [(one["TagKey"], one["TagValue"]) for one in answer["Tags"]])


def rotation(answer: Answer) -> None:
    """Of GetKeyRotationStatus."""
    period = answer.get("RotationPeriodInDays")
    output.print_fields(
        {
            "rotation": "enabled" if answer["KeyRotationEnabled"] else "disabled",
            "period": f"{period} days" if period else None,
            "next": _time(answer, "NextRotationDate"),
            "on demand since": _time(answer, "OnDemandRotationStartDate"),
        }
    )


def rotations(answer: Answer) -> None:
    heads = ("DATE", "TYPE", "MATERIAL", "STATE")
    rows = [
        (
            _time(one, "RotationDate") or "-",
            one.get("RotationType") or "-",
            one.get("KeyMaterialId") or "-",
            one.get("KeyMaterialState") or "-",
        )
        for one in answer["Rotations"]
    ]
    output.print_table(heads, rows)


def _time(answer: Answer, member: str) -> str | None:
    return output.timestamp(answer[member]) if answer.get(member) else None
