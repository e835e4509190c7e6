"""EC2's EBS actions over control. One file per kind of thing; each action is the function of its name.

OPERATIONS    what there is, by API action
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ebscrypt.api.ec2 import (
    attachments,
    copies,
    defaults,
    modifications,
    places,
    snapshots,
    snapshots_listed,
    snapshots_shared,
    tags,
    volumes,
    volumes_shown,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ebscrypt.api.call import Operation

OPERATIONS: Final[Mapping[str, Operation]] = {
    "AttachVolume": attachments.attach_volume,
    "CopySnapshot": copies.copy_snapshot,
    "CreateSnapshot": snapshots.create_snapshot,
    "CreateSnapshots": snapshots.create_snapshots,
    "CreateTags": tags.create_tags,
    "CreateVolume": volumes.create_volume,
    "DeleteSnapshot": snapshots.delete_snapshot,
    "DeleteTags": tags.delete_tags,
    "DeleteVolume": volumes.delete_volume,
    "DescribeAvailabilityZones": places.describe_availability_zones,
    "DescribeInstances": attachments.describe_instances,
    "DescribeRegions": places.describe_regions,
    "DescribeSnapshotAttribute": snapshots_shared.describe_snapshot_attribute,
    "DescribeSnapshots": snapshots_listed.describe_snapshots,
    "DescribeTags": tags.describe_tags,
    "DescribeVolumeAttribute": modifications.describe_volume_attribute,
    "DescribeVolumeStatus": volumes_shown.describe_volume_status,
    "DescribeVolumes": volumes_shown.describe_volumes,
    "DescribeVolumesModifications": modifications.describe_volumes_modifications,
    "DetachVolume": attachments.detach_volume,
    "DisableEbsEncryptionByDefault": defaults.disable_ebs_encryption_by_default,
    "EnableEbsEncryptionByDefault": defaults.enable_ebs_encryption_by_default,
    "EnableVolumeIO": modifications.enable_volume_io,
    "GetEbsDefaultKmsKeyId": defaults.get_ebs_default_kms_key_id,
    "GetEbsEncryptionByDefault": defaults.get_ebs_encryption_by_default,
    "ModifyEbsDefaultKmsKeyId": defaults.modify_ebs_default_kms_key_id,
    "ModifySnapshotAttribute": snapshots_shared.modify_snapshot_attribute,
    "ModifyVolume": modifications.modify_volume,
    "ModifyVolumeAttribute": modifications.modify_volume_attribute,
    "ResetEbsDefaultKmsKeyId": defaults.reset_ebs_default_kms_key_id,
    "ResetSnapshotAttribute": snapshots_shared.reset_snapshot_attribute,
}
"""What there is, by API action."""
