"""What EBS asks of KMS in a volume's life, by the audit trail: these requests, in this order, with these parameters."""

from __future__ import annotations

import json
import re
from typing import Any

from tests.behaviour.volume.place import Place
from tests.behaviour.volume.refusal import own_key

ACCOUNT = "000000000000"


def audit(place: Place, *words: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.do("audit", *words, "--output", "json").splitlines()]


def test_the_requests_of_a_volumes_life(place: Place) -> None:
    """Facts §1.3 a and b, and §4: create, attach, detach; the context is the volume's id in each that has one."""
    key = own_key(place)
    volume_id = place.do("create", "--size", "1M", "--kms-key-id", key)
    place.do("attach", volume_id, "--export", "socket")
    place.do("detach", volume_id)

    records = audit(place, volume_id)

    context = {"aws:ebs:id": volume_id}
    generate, grant, decrypt, retire = records
    assert [record["eventName"] for record in records] == [
        "GenerateDataKeyWithoutPlaintext",
        "CreateGrant",
        "Decrypt",
        "RetireGrant",
    ]
    assert generate["requestParameters"] == {"keyId": key, "numberOfBytes": 64, "encryptionContext": context}
    asked = grant["requestParameters"]
    instance = asked["granteePrincipal"].rpartition("/")[2]
    assert re.fullmatch(r"i-[0-9a-f]{17}", instance)
    assert {name: value for name, value in asked.items() if name != "name"} == {
        "keyId": key,
        "granteePrincipal": f"arn:aws:sts::{ACCOUNT}:assumed-role/aws:ec2-infrastructure/{instance}",
        "retiringPrincipal": "ec2.us-east-1.amazonaws.com",
        "operations": ["Decrypt"],
        "constraints": {"encryptionContextSubset": context},
    }
    assert decrypt["requestParameters"] == {"encryptionContext": context, "encryptionAlgorithm": "SYMMETRIC_DEFAULT"}
    assert decrypt["userIdentity"]["arn"] == asked["granteePrincipal"]
    assert retire["additionalEventData"]["grantId"] == grant["responseElements"]["grantId"]
    for record in records:
        assert [resource["ARN"] for resource in record["resources"]] == [key]
        assert "errorCode" not in record


def test_a_refusal_is_in_the_trail(place: Place) -> None:
    """With KMS's code and text; enabled again, the next attachment is there without an error."""
    key = own_key(place)
    volume_id = place.do("create", "--size", "1M", "--kms-key-id", key)
    place.do("kms", "disable-key", key)
    place.refused("attach", volume_id, "--export", "socket")

    [refused] = audit(place, volume_id, "--error")

    assert (refused["eventName"], refused["errorCode"]) == ("CreateGrant", "DisabledException")
    assert refused["errorMessage"] == f"{key} is disabled."
    assert refused["requestParameters"]["constraints"] == {"encryptionContextSubset": {"aws:ebs:id": volume_id}}
    assert refused["responseElements"] is None
