"""The grant of an attachment, seen from KMS: there while the volume is attached, and what lets its key be unwrapped."""

from __future__ import annotations

import json
from typing import Any

from tests.behaviour.volume.place import Place
from tests.behaviour.volume.refusal import own_key

ACCOUNT = "000000000000"


def grants(place: Place, key: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(place.do("kms", "list-grants", key, "--output", "json"))["Grants"]
    return listed


def test_a_grant_lives_as_long_as_its_attachment(place: Place) -> None:
    """One for each attachment, with EBS's parameters; a daemon that is replaced goes on with it; detach retires it."""
    key = own_key(place)
    first, second = (place.do("create", "--size", "1M", "--kms-key-id", key) for _ in range(2))
    for volume_id in (first, second):
        place.do("attach", volume_id, "--export", "socket")

    made = {grant["Constraints"]["EncryptionContextSubset"]["aws:ebs:id"]: grant for grant in grants(place, key)}
    assert set(made) == {first, second}
    grant = made[first]
    assert grant["Operations"] == ["Decrypt"]
    assert grant["Constraints"] == {"EncryptionContextSubset": {"aws:ebs:id": first}}
    assert grant["RetiringPrincipal"] == "ec2.us-east-1.amazonaws.com"
    grantee = grant["GranteePrincipal"]
    assert grantee.startswith(f"arn:aws:sts::{ACCOUNT}:assumed-role/aws:ec2-infrastructure/i-")

    place.kill_daemon(first)
    place.do("attach", first, "--export", "socket")
    assert grant in grants(place, key)
    place.do("detach", first)
    assert grants(place, key) == [made[second]]
    place.do("detach", second)
    assert grants(place, key) == []


def test_without_its_grant_a_key_is_not_unwrapped(place: Place) -> None:
    """Revoked while attached: nothing happens, until a new daemon needs the key. Attached anew there is a new grant."""
    key = own_key(place)
    volume_id = place.do("create", "--size", "1M", "--kms-key-id", key)
    place.do("attach", volume_id, "--export", "socket")
    [grant] = grants(place, key)
    place.do("kms", "revoke-grant", key, "--grant-id", grant["GrantId"])
    assert place.attachment(volume_id)["State"] == "attached"
    place.kill_daemon(volume_id)

    said = place.refused("attach", volume_id, "--export", "socket")

    assert "grant" in said
    assert place.show(volume_id)["State"] == "available"
    place.do("attach", volume_id, "--export", "socket")
    [new] = grants(place, key)
    assert new["GrantId"] != grant["GrantId"]


def test_a_token_is_for_the_daemon_alone(place: Place) -> None:
    """It is in no output, no log, no record and no other file; the one that has it is for its owner only."""
    volume_id = place.do("create", "--size", "1M")
    ran = place.run("attach", volume_id, "--export", "socket", "--output", "json")
    spec = place.runtime / volume_id / "spec.json"
    token = json.loads(spec.read_bytes())["grant_token"]

    assert token
    assert spec.stat().st_mode & 0o777 == 0o600
    told = ran.out + ran.err + place.do("show", volume_id, "--output", "json")
    files = [path for path in place.directory.rglob("*") if path.is_file() and path != spec]
    assert token not in told
    assert [str(path) for path in files if token.encode() in path.read_bytes()] == []
