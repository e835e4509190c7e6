"""The six actions of encryption by default."""

from __future__ import annotations

import pytest

from tests.unit.api.ec2_snapshots.caller import Caller


def test_it_is_turned_on_and_off(call: Caller) -> None:
    """A dry run changes nothing; what was changed is what is told."""
    assert call("GetEbsEncryptionByDefault") == {"EbsEncryptionByDefault": False, "SseType": "none"}
    assert call.code("EnableEbsEncryptionByDefault", DryRun=True) == "DryRunOperation"
    assert call("GetEbsEncryptionByDefault")["EbsEncryptionByDefault"] is False
    assert call("EnableEbsEncryptionByDefault") == {"EbsEncryptionByDefault": True}
    assert call("GetEbsEncryptionByDefault") == {"EbsEncryptionByDefault": True, "SseType": "sse-kms"}
    assert call.code("DisableEbsEncryptionByDefault", DryRun=True) == "DryRunOperation"
    assert call("GetEbsEncryptionByDefault")["EbsEncryptionByDefault"] is True
    assert call("DisableEbsEncryptionByDefault") == {"EbsEncryptionByDefault": False}


def test_the_default_key_is_told_as_its_arn(call: Caller) -> None:
    """Given as an alias or id it is answered as an ARN; the managed one is told by its alias, as EC2 does."""
    key = call.site.kms.call("CreateKey")["KeyMetadata"]
    call.site.kms.call("CreateAlias", AliasName="alias/mine", TargetKeyId=key["KeyId"])

    assert call("GetEbsDefaultKmsKeyId") == {"KmsKeyId": "alias/aws/ebs"}
    assert call.code("ModifyEbsDefaultKmsKeyId", KmsKeyId="alias/mine", DryRun=True) == "DryRunOperation"
    assert call("GetEbsDefaultKmsKeyId") == {"KmsKeyId": "alias/aws/ebs"}
    for name in ("alias/mine", key["KeyId"], key["Arn"]):
        assert call("ModifyEbsDefaultKmsKeyId", KmsKeyId=name) == {"KmsKeyId": key["Arn"]}
        assert call("GetEbsDefaultKmsKeyId") == {"KmsKeyId": key["Arn"]}
        assert call.code("ResetEbsDefaultKmsKeyId", DryRun=True) == "DryRunOperation"
        assert call("GetEbsDefaultKmsKeyId") == {"KmsKeyId": key["Arn"]}
        assert call("ResetEbsDefaultKmsKeyId") == {"KmsKeyId": "alias/aws/ebs"}


@pytest.mark.parametrize(
    "named", ["alias/nobody", "00000000-0000-0000-0000-000000000000", "not a key", "rsa"], ids=range(4)
)
def test_a_key_that_can_never_work_is_refused(call: Caller, named: str) -> None:
    """With EC2's code and text; the default stays."""
    if named == "rsa":
        named = call.site.kms.call("CreateKey", KeyUsage="GENERATE_VERIFY_MAC", KeySpec="HMAC_256")["KeyMetadata"][
            "Arn"
        ]

    refused = call.refused("ModifyEbsDefaultKmsKeyId", KmsKeyId=named)

    assert refused == ("InvalidParameterValue", f"The specified keyId {named} is invalid")
    assert call("GetEbsDefaultKmsKeyId") == {"KmsKeyId": "alias/aws/ebs"}
