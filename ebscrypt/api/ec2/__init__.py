"""EC2's EBS actions over control. One file per kind of thing; each action is the function of its name.

OPERATIONS    what there is, by API action
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ebscrypt.api.ec2 import copies, defaults, places, snapshots, snapshots_listed, snapshots_shared

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ebscrypt.api.call import Operation

OPERATIONS: Final[Mapping[str, Operation]] = {
    "CopySnapshot": copies.copy_snapshot,
    "CreateSnapshot": snapshots.create_snapshot,
    "CreateSnapshots": snapshots.create_snapshots,
    "DeleteSnapshot": snapshots.delete_snapshot,
    "DescribeAvailabilityZones": places.describe_availability_zones,
    "DescribeRegions": places.describe_regions,
    "DescribeSnapshotAttribute": snapshots_shared.describe_snapshot_attribute,
    "DescribeSnapshots": snapshots_listed.describe_snapshots,
    "DisableEbsEncryptionByDefault": defaults.disable_ebs_encryption_by_default,
    "EnableEbsEncryptionByDefault": defaults.enable_ebs_encryption_by_default,
    "GetEbsDefaultKmsKeyId": defaults.get_ebs_default_kms_key_id,
    "GetEbsEncryptionByDefault": defaults.get_ebs_encryption_by_default,
    "ModifyEbsDefaultKmsKeyId": defaults.modify_ebs_default_kms_key_id,
    "ModifySnapshotAttribute": snapshots_shared.modify_snapshot_attribute,
    "ResetEbsDefaultKmsKeyId": defaults.reset_ebs_default_kms_key_id,
    "ResetSnapshotAttribute": snapshots_shared.reset_snapshot_attribute,
}
"""What there is, by API action."""
