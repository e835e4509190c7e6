"""The six actions of encryption by default (facts §2).

Get and Reset name the AWS managed key by its alias, as EC2 does: KMS makes that key only when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ebscrypt.api.errors import ApiError, invalid_value
from ebscrypt.control import defaults
from ebscrypt.errors import InvalidParameter, KmsAccessDenied, KmsInvalidKeyUsage, KmsKeyNotFound
from ebscrypt.kms.names import MANAGED_ALIAS

if TYPE_CHECKING:
    from ebscrypt.api.call import Call
    from ebscrypt.catalog.keys import EncryptionDefaults


def get_ebs_encryption_by_default(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Whether it is on."""
    call.finish_dry_run(request)
    enabled = defaults.get_ebs_encryption_by_default(call.site).enabled
    return {"EbsEncryptionByDefault": enabled, "SseType": "sse-kms" if enabled else "none"}


def enable_ebs_encryption_by_default(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """From now on no new volume and no copy is plain."""
    call.finish_dry_run(request)
    return {"EbsEncryptionByDefault": defaults.enable_ebs_encryption_by_default(call.site).enabled}


def disable_ebs_encryption_by_default(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """From now on a volume is encrypted if that is asked for."""
    call.finish_dry_run(request)
    return {"EbsEncryptionByDefault": defaults.disable_ebs_encryption_by_default(call.site).enabled}


def get_ebs_default_kms_key_id(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The default key."""
    call.finish_dry_run(request)
    return _key(defaults.get_ebs_encryption_by_default(call.site))


def modify_ebs_default_kms_key_id(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """Another default key, answered as its ARN. Raises `ApiError` for one that can never work."""
    asked = request["KmsKeyId"]
    try:
        changed = defaults.modify_ebs_default_kms_key_id(call.site, asked, dry_run=request.get("DryRun", False))
    except (InvalidParameter, KmsKeyNotFound, KmsInvalidKeyUsage) as error:
        raise invalid_value(f"The specified keyId {asked[:80]} is invalid") from error
    except KmsAccessDenied as error:
        raise ApiError("AuthFailure", f"Not authorized to use key {asked[:80]}", status=403) from error
    call.finish_dry_run(request)
    return _key(changed)


def reset_ebs_default_kms_key_id(call: Call, request: dict[str, Any]) -> dict[str, Any]:
    """The AWS managed key is the default again."""
    call.finish_dry_run(request)
    return _key(defaults.reset_ebs_default_kms_key_id(call.site))


def _key(found: EncryptionDefaults) -> dict[str, Any]:
    return {"KmsKeyId": found.kms_key_arn or MANAGED_ALIAS}
