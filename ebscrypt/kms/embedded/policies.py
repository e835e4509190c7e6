"""Operations on key policies: GetKeyPolicy, PutKeyPolicy, ListKeyPolicies.

A policy is checked for its form, kept, and given back. It is not evaluated: the account's root may do everything, and
everybody else what a grant allows (authority.py). So nobody can lock himself out, and AWS's safety check against that
has nothing to check.
"""

from __future__ import annotations

import json
from typing import Any, Final

from ebscrypt.kms.embedded import faults, rows
from ebscrypt.kms.embedded.calls import Call, paged
from ebscrypt.kms.embedded.rows import KeyRow

NAME: Final = "default"
"""The name of every key's only policy."""
LARGEST: Final = 32 * 1024
"""Characters (facts §5.1: 32 KB)."""
_VERSIONS: Final = ("2012-10-17", "2008-10-17")
_EBS_ACTIONS: Final = (
    "kms:Encrypt",
    "kms:Decrypt",
    "kms:ReEncrypt*",
    "kms:GenerateDataKey*",
    "kms:CreateGrant",
    "kms:DescribeKey",
)


def get_key_policy(call: Call) -> dict[str, Any]:
    """The key's policy: its own, or the one that keys have when nobody says otherwise."""
    if call.parameters.get("PolicyName", NAME) != NAME:
        raise faults.KmsFault("NotFoundException", "No such policy exists")
    with call.store.read() as db:
        key = call.find_key(db, call.parameters["KeyId"], alias_too=False)
        call.check_state(key)
    return {"Policy": key.policy or _default(call, key), "PolicyName": NAME}


def put_key_policy(call: Call) -> dict[str, Any]:
    """Another policy for a key."""
    name = call.parameters.get("PolicyName", NAME)
    if name != NAME:
        raise faults.validation(
            "The AWS_RAM policy can only be managed by the RAM service"
            if name == "AWS_RAM"
            else f"A key has no policy but {NAME!r}."
        )
    policy = checked(call.parameters["Policy"])
    with call.store.write() as db:
        key = call.find_key(db, call.parameters["KeyId"], alias_too=False)
        call.check_customer_managed(key)
        call.check_state(key)
        rows.set_policy(db, key.key_id, policy)
    return {}


def list_key_policies(call: Call) -> dict[str, Any]:
    """The names of a key's policies, which is one."""
    after, limit = call.page(default=100, largest=1000)
    with call.store.read() as db:
        key = call.find_key(db, call.parameters["KeyId"], alias_too=False)
        call.check_state(key)
    names = [{"PolicyName": name} for name in (NAME,) if name > after]
    answer = paged("PolicyNames", names, limit, by="PolicyName")
    return answer | {"PolicyNames": [entry["PolicyName"] for entry in answer["PolicyNames"]]}


def checked(policy: str) -> str:
    """``policy`` if it has the form of a key policy. Raises LimitExceeded- or MalformedPolicyDocumentException."""
    if len(policy) > LARGEST:
        raise faults.KmsFault("LimitExceededException", f"A key policy has at most {LARGEST} characters.")
    try:
        document = json.loads(policy)
    except (ValueError, RecursionError):
        raise _malformed("This policy contains invalid Json") from None
    if not isinstance(document, dict):
        raise _malformed("A policy is a JSON object.")
    if document.get("Version", _VERSIONS[0]) not in _VERSIONS:
        raise _malformed("The policy has an unknown Version.")
    statements = document.get("Statement")
    for statement in statements if isinstance(statements, list) and statements else [statements]:
        _check_statement(statement)
    return policy


def _check_statement(statement: Any) -> None:
    if not isinstance(statement, dict):
        raise _malformed("The policy has no Statement that is an object or a list of objects.")
    if statement.get("Effect") not in ("Allow", "Deny"):
        raise _malformed("A policy statement has no Effect of Allow or Deny.")
    if not (statement.get("Principal") or statement.get("NotPrincipal")):
        raise _malformed("Policy contains a statement with one or more invalid principals.")


def _malformed(message: str) -> faults.KmsFault:
    return faults.KmsFault("MalformedPolicyDocumentException", message)


def _default(call: Call, key: KeyRow) -> str:
    """What AWS gives a key without a policy of its own; facts §1.4 for the AWS managed key of EBS."""
    if key.manager != "AWS":
        whole = {"Sid": "Enable IAM User Permissions"} | _allow(call.root_arn, ["kms:*"])
        return _document("key-default-1", whole | {"Action": "kms:*"})
    through = f"ec2.{call.scope.region}.amazonaws.com"
    condition = {"StringEquals": {"kms:CallerAccount": call.scope.account, "kms:ViaService": through}}
    sid = "Allow access through EBS for all principals in the account that are authorized to use EBS"
    use = {"Sid": sid} | _allow("*", list(_EBS_ACTIONS)) | {"Condition": condition}
    look = {"Sid": "Allow direct access to key metadata to the account"} | _allow(
        call.root_arn, ["kms:Describe*", "kms:Get*", "kms:List*", "kms:RevokeGrant"]
    )
    return _document("auto-ebs-2", use, look)


def _allow(principal: str, actions: list[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": actions, "Resource": "*"}


def _document(name: str, *statements: dict[str, Any]) -> str:
    return json.dumps({"Version": _VERSIONS[0], "Id": name, "Statement": list(statements)}, indent=2)
