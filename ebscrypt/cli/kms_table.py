"""The operations of KMS as commands, by the names and options that `aws kms` has for them. Adding one is a row here."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from ebscrypt.cli import kms_show as show
from ebscrypt.cli.kms_words import Argument, KeyArgument, Operation, document, equal, subset, tags

_DESCRIPTION: Final = Argument("--description", "Description", "what it is for", metavar="TEXT")
_POLICY_TEXT: Final = "who may do what: a file with JSON, the JSON itself, or - for stdin"
_TAGS: Final = Argument("--tags", "Tags", "tags as key=value", metavar="K=V", many=True, read=tags)
_ALIAS: Final = Argument("--alias-name", "AliasName", "alias/…", metavar="ALIAS", required=True)
_TARGET: Final = Argument("--target-key-id", "TargetKeyId", "the key it shall name", metavar="KEY", required=True)
_GRANT_ID: Final = Argument(
    "--grant-id", "GrantId", "as list-grants shows it", metavar="GRANT", required=True, longest=128
)
_MATERIAL_ID: Final = Argument(
    "--key-material-id", "KeyMaterialId", "of several materials, this one", metavar="MATERIAL", longest=64
)
_DRY_RUN: Final = Argument("--dry-run", "DryRun", "only say whether it would succeed", switch=True)
_USAGES: Final = ("ENCRYPT_DECRYPT", "SIGN_VERIFY", "GENERATE_VERIFY_MAC", "KEY_AGREEMENT")
_WRAPPINGS: Final = (
    "RSAES_OAEP_SHA_256",
    "RSAES_OAEP_SHA_1",
    "RSA_AES_KEY_WRAP_SHA_256",
    "RSA_AES_KEY_WRAP_SHA_1",
)

_KEYS: Final = (
    Operation(
        "create-key",
        "make a key; prints its ARN",
        KeyArgument.NONE,
        (
            _DESCRIPTION,
            Argument(
                "--key-spec", "KeySpec", "SYMMETRIC_DEFAULT is what volumes need, and the default", metavar="SPEC"
            ),
            Argument("--key-usage", "KeyUsage", "ENCRYPT_DECRYPT for symmetric keys", choices=_USAGES),
            Argument(
                "--origin", "Origin", "EXTERNAL: its key material is imported later", choices=("AWS_KMS", "EXTERNAL")
            ),
            Argument("--policy", "Policy", _POLICY_TEXT, metavar="FILE", read=document),
            _TAGS,
        ),
        show.key_arn,
    ),
    Operation("describe-key", "show a key", KeyArgument.ANY, show=show.key),
    Operation(
        "update-key-description", "say anew what a key is for", arguments=(replace(_DESCRIPTION, required=True),)
    ),
    Operation("enable-key", "let a disabled key be used again", aliases=("enable",)),
    Operation("disable-key", "let a key not be used", aliases=("disable",)),
    Operation(
        "schedule-key-deletion",
        "delete a key after a waiting period",
        arguments=(
            Argument(
                "--pending-window-in-days", "PendingWindowInDays", "7 to 30 (30)", metavar="DAYS", kind=int, default=30
            ),
        ),
        show=show.deletion,
        aliases=("schedule-deletion",),
    ),
    Operation("cancel-key-deletion", "keep it after all; it is disabled then", aliases=("cancel-deletion",)),
)
_ALIASES: Final = (
    Operation("create-alias", "give a key another name", KeyArgument.NONE, (_ALIAS, _TARGET)),
    Operation("update-alias", "let an alias name another key", KeyArgument.NONE, (_ALIAS, _TARGET)),
    Operation("delete-alias", "remove an alias; its key stays", KeyArgument.NONE, (_ALIAS,)),
    Operation(
        "list-aliases",
        "list the aliases, of one key or all",
        KeyArgument.OPTIONAL,
        show=show.aliases,
        listing="Aliases",
    ),
)
_GRANTS: Final = (
    Operation(
        "create-grant",
        "let another principal use a key; prints the grant's id",
        arguments=(
            Argument("--grantee-principal", "GranteePrincipal", "who may", metavar="ARN", required=True, longest=256),
            Argument("--retiring-principal", "RetiringPrincipal", "who may end it", metavar="ARN", longest=256),
            Argument(
                "--operations",
                "Operations",
                "what he may: Decrypt…",
                metavar="NAME",
                many=True,
                required=True,
                longest=64,
            ),
            Argument(
                "--encryption-context-subset",
                "Constraints",
                "only with an encryption context that has these pairs",
                metavar="K=V",
                many=True,
                read=subset,
            ),
            Argument(
                "--encryption-context-equals",
                "Constraints",
                "only with exactly this encryption context",
                metavar="K=V",
                many=True,
                read=equal,
            ),
            Argument(
                "--name",
                "Name",
                "the same request with the same name makes no second grant",
                metavar="NAME",
                longest=256,
            ),
            _DRY_RUN,
        ),
        show=show.grant_id,
    ),
    Operation("list-grants", "list a key's grants", show=show.grants, listing="Grants"),
    Operation(
        "list-retirable-grants",
        "list the grants that a principal may retire",
        KeyArgument.NONE,
        (Argument("--retiring-principal", "RetiringPrincipal", "who", metavar="ARN", required=True, longest=256),),
        show.grants,
        listing="Grants",
    ),
    Operation(
        "retire-grant",
        "end a grant that is not needed any more",
        KeyArgument.OPTIONAL,
        (
            Argument("--grant-id", "GrantId", "as list-grants shows it, with KEY", metavar="GRANT", longest=128),
            Argument("--grant-token", "GrantToken", "as create-grant gave it, without KEY", metavar="TOKEN"),
            _DRY_RUN,
        ),
    ),
    Operation("revoke-grant", "take a grant away", arguments=(_GRANT_ID, _DRY_RUN)),
)
_IMPORTS: Final = (
    Operation(
        "get-parameters-for-import",
        "get a public key to wrap key material with, and its token (import-key-material does so by itself)",
        arguments=(
            Argument(
                "--wrapping-algorithm",
                "WrappingAlgorithm",
                "(RSAES_OAEP_SHA_256)",
                choices=_WRAPPINGS,
                default=_WRAPPINGS[0],
            ),
            Argument(
                "--wrapping-key-spec",
                "WrappingKeySpec",
                "(RSA_4096)",
                choices=("RSA_2048", "RSA_3072", "RSA_4096"),
                default="RSA_4096",
            ),
        ),
        show=show.import_parameters,
    ),
    Operation(
        "delete-imported-key-material",
        "destroy imported key material; the key waits for the same again",
        arguments=(_MATERIAL_ID,),
        show=show.material_id,
    ),
)
_POLICIES: Final = (
    Operation("get-key-policy", "print a key's policy", show=show.policy, fixed={"PolicyName": "default"}),
    Operation(
        "put-key-policy",
        "give a key another policy",
        arguments=(Argument("--policy", "Policy", _POLICY_TEXT, metavar="FILE", required=True, read=document),),
        fixed={"PolicyName": "default"},
    ),
    Operation("list-key-policies", "list the names of a key's policies", show=show.policies, listing="PolicyNames"),
    Operation(
        "tag-resource",
        "set tags of a key",
        arguments=(Argument("--tags", "Tags", "key=value", metavar="K=V", many=True, required=True, read=tags),),
    ),
    Operation(
        "untag-resource",
        "remove tags of a key",
        arguments=(
            Argument("--tag-keys", "TagKeys", "their keys", metavar="K", many=True, required=True, longest=128),
        ),
    ),
    Operation("list-resource-tags", "list a key's tags", show=show.tags, listing="Tags"),
)
_ROTATION: Final = (
    Operation(
        "enable-key-rotation",
        "let a key get new material again and again; what it wrapped stays readable",
        arguments=(
            Argument("--rotation-period-in-days", "RotationPeriodInDays", "90 to 2560 (365)", metavar="DAYS", kind=int),
        ),
    ),
    Operation("disable-key-rotation", "let it keep the material that it has"),
    Operation("get-key-rotation-status", "say whether and when a key rotates", show=show.rotation),
    Operation("rotate-key-on-demand", "give a key new material now; what it wrapped stays readable"),
    Operation(
        "list-key-rotations",
        "list the rotations of a key",
        arguments=(
            Argument(
                "--include-key-material",
                "IncludeKeyMaterial",
                "also the material that has not been rotated",
                choices=("ALL_KEY_MATERIAL", "ROTATIONS_ONLY"),
            ),
        ),
        show=show.rotations,
        listing="Rotations",
    ),
)

OPERATIONS: Final = (*_KEYS, *_ALIASES, *_GRANTS, *_IMPORTS, *_POLICIES, *_ROTATION)
"""Every command that is one operation. list-keys, import-key-material and those of the store itself are not."""
