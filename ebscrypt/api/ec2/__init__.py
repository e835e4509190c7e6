"""EC2's EBS actions over control. One file per kind of thing; each action is the function of its name.

OPERATIONS    what there is, by API action
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ebscrypt.api.ec2 import places

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ebscrypt.api.call import Operation

OPERATIONS: Final[Mapping[str, Operation]] = {
    "DescribeAvailabilityZones": places.describe_availability_zones,
    "DescribeRegions": places.describe_regions,
}
"""What there is, by API action."""
