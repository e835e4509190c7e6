"""What AWS's text "How Amazon EBS uses AWS KMS" says of keys, line by line, at the command line."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.behaviour.volume.place import Place
from tests.behaviour.volume.refusal import attach_is_refused, events, own_key

ACCOUNT = "arn:aws:ec2:us-east-1:000000000000"


def qemu_io(device: str, *commands: str) -> str:
    words = [word for command in commands for word in ("-c", command)]
    ran = subprocess.run(["qemu-io", "-f", "raw", *words, device], capture_output=True, text=True, check=True)
    assert "failed" not in ran.stdout
    return ran.stdout


def attach(place: Place, volume_id: str) -> str:
    return place.do("attach", volume_id, "--export", "socket")


def key_state(place: Place, key: str) -> str:
    described = json.loads(place.do("kms", "describe-key", key, "--output", "json"))
    return str(described["KeyMetadata"]["KeyState"])


def expect_refusal(place: Place, volume_id: str, key: str, state: str, cure: str) -> None:
    """Attach fails at once: the error has key, state and cure; the event is EBS's; `show` tells it afterwards."""
    before = len(events(place))
    said = attach_is_refused(place, volume_id)

    assert f"{key} {state}" in said
    assert cure in said
    [event] = events(place)[before:]
    assert event["detail-type"] == "EBS Volume Notification"
    assert event["source"] == "aws.ec2"
    assert event["resources"] == [f"{ACCOUNT}:volume/{volume_id}", key]
    detail = {"event": "attachVolume", "result": "failed", "cause": f"{key} {state}.", "request-id": ""}
    assert event["detail"] == detail
    shown = place.show(volume_id)
    assert shown["State"] == "available"
    assert f"{key} {state}" in shown["AttachFailure"]
    assert f"{key} {state}" in place.do("show", volume_id)


def test_without_a_key_it_is_the_aws_managed_one(place: Place) -> None:
    """By default EBS uses aws/ebs in the account; it comes into being with the first volume, and stays the one."""
    assert json.loads(place.do("kms", "list-keys", "--output", "json"))["Keys"] == []

    first, second = (place.do("create", "--size", "1M") for _ in range(2))

    [key] = json.loads(place.do("kms", "list-keys", "--output", "json"))["Keys"]
    described = json.loads(place.do("kms", "describe-key", "alias/aws/ebs", "--output", "json"))["KeyMetadata"]
    assert described["KeyManager"] == "AWS"
    assert place.show(first)["KmsKeyId"] == place.show(second)["KmsKeyId"] == described["Arn"] == key["KeyArn"]


def test_a_customer_managed_key_in_every_form(place: Place) -> None:
    """Id, key ARN, alias, alias ARN: kept and shown as the full key ARN, and never changed by re-pointing the alias."""
    key = own_key(place)
    place.do("kms", "create-alias", "--alias-name", "alias/mine", "--target-key-id", key)
    alias_arn = "arn:aws:kms:us-east-1:000000000000:alias/mine"

    made = [
        place.do("create", "--size", "1M", "--kms-key-id", form)
        for form in (key.rpartition("/")[2], key, "alias/mine", alias_arn)
    ]
    place.do("kms", "update-alias", "--alias-name", "alias/mine", "--target-key-id", own_key(place))

    listed = place.run("ls", "--output", "json").json["Volumes"]
    assert [volume["VolumeId"] for volume in listed] == made
    assert {volume["KmsKeyId"] for volume in listed} == {key}
    attach(place, made[2])


@pytest.mark.parametrize(
    ("spec", "usage"),
    [("RSA_2048", "ENCRYPT_DECRYPT"), ("ECC_NIST_P256", "SIGN_VERIFY"), ("HMAC_256", "GENERATE_VERIFY_MAC")],
    ids=["asymmetric", "wrong-usage", "hmac"],
)
def test_only_symmetric_keys(place: Place, spec: str, usage: str) -> None:
    """You cannot use an asymmetric key: refused by name, with a record, an event and no file."""
    key = place.do("kms", "create-key", "--key-spec", spec, "--key-usage", usage)

    said = place.refused("create", "--size", "1M", "--kms-key-id", key)

    assert re.search(rf"{key} cannot encrypt volumes: its key spec is {spec}, its usage {usage}", said)
    assert "use a symmetric encryption key" in said
    [volume] = place.run("ls", "--output", "json").json["Volumes"]
    assert volume["State"] == "error"
    assert spec in volume["StateMessage"]
    [event] = events(place)
    assert (event["detail"]["event"], event["detail"]["result"]) == ("createVolume", "failed")
    assert event["resources"] == [f"{ACCOUNT}:volume/{volume['VolumeId']}"]
    assert not place.volumes_dir.exists()


def test_the_states_of_a_key(place: Place) -> None:
    """Disable, enable, schedule deletion, cancel it, enable: what works in each state, and that no data is lost."""
    key = own_key(place)
    volume_id = place.do("create", "--size", "8M", "--kms-key-id", key)
    device = attach(place, volume_id)
    qemu_io(device, "write -P 1 0 1M", "flush")

    # Attached, it goes on working: the data key is in memory.
    place.do("kms", "disable-key", key)
    qemu_io(device, "read -P 1 0 1M", "write -P 2 1M 1M", "flush", "read -P 2 1M 1M")
    assert place.attachment(volume_id)["State"] == "attached"
    place.do("detach", volume_id)
    expect_refusal(place, volume_id, key, "is disabled", f"`ebscrypt kms enable-key --key-id {key}`")
    assert f"{key} is disabled" in place.refused("create", "--size", "1M", "--kms-key-id", key)

    place.do("kms", "enable-key", key)
    qemu_io(attach(place, volume_id), "read -P 1 0 1M", "read -P 2 1M 1M")
    assert place.show(volume_id)["AttachFailure"] is None
    place.do("detach", volume_id)

    place.do("kms", "schedule-key-deletion", key)
    expect_refusal(place, volume_id, key, "is pending deletion", f"`ebscrypt kms cancel-key-deletion --key-id {key}`")
    place.do("kms", "cancel-key-deletion", key)
    assert key_state(place, key) == "Disabled"
    expect_refusal(place, volume_id, key, "is disabled", f"`ebscrypt kms enable-key --key-id {key}`")
    place.do("kms", "enable-key", key)
    qemu_io(attach(place, volume_id), "read -P 1 0 1M", "read -P 2 1M 1M")


def test_imported_key_material(place: Place, tmp_path: Path) -> None:
    """Pending import, no volume; imported, all works; without the material no attachment; the same again, its data."""
    key = place.do("kms", "create-key", "--origin", "EXTERNAL")
    material = tmp_path / "material"
    material.write_bytes(bytes(range(32)))

    said = place.refused("create", "--size", "1M", "--kms-key-id", key)
    assert f"{key} is pending import" in said
    assert "import" in said.partition("hint: ")[2]
    [failed] = place.run("ls", "--output", "json").json["Volumes"]
    assert (failed["State"], f"{key} is pending import" in failed["StateMessage"]) == ("error", True)
    [event] = events(place)
    assert event["detail"] | {"request-id": "…"} == {
        "event": "createVolume",
        "result": "failed",
        "cause": f"{key} is pending import.",
        "request-id": "…",
    }
    assert event["resources"] == [f"{ACCOUNT}:volume/{failed['VolumeId']}"]

    place.do("kms", "import-key-material", key, "--key-material", str(material))
    volume_id = place.do("create", "--size", "8M", "--kms-key-id", key)
    qemu_io(attach(place, volume_id), "write -P 3 0 1M", "flush")
    place.do("detach", volume_id)

    place.do("kms", "delete-imported-key-material", key)
    expect_refusal(place, volume_id, key, "is pending import", "import")
    place.do("kms", "import-key-material", key, "--key-material", str(material))
    qemu_io(attach(place, volume_id), "read -P 3 0 1M")


def record_of(ran_out: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(ran_out)
    return record


def test_an_error_has_ec2s_code_for_programs(place: Place) -> None:
    """With JSON the refusal is a record: EC2's code, KMS's code, text and key, and the request's id."""
    key = own_key(place)
    volume_id = place.do("create", "--size", "1M", "--kms-key-id", key)
    place.do("kms", "disable-key", key)

    ran = place.run("attach", volume_id, "--output", "json")

    assert (ran.status, ran.out) == (1, "")
    record = record_of(ran.err)
    assert record["Code"] == "CustomerKeyHasBeenRevoked"
    assert (record["KmsCode"], record["KmsText"]) == ("DisabledException", f"{key} is disabled.")
    assert record["KmsKeyId"] == key
    assert re.fullmatch(r"[0-9a-f-]{36}", record["RequestId"])
