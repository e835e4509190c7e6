"""`ebscrypt create --snapshot-id` and `snapshot copy` at the command line, with real attachments and KMS processes."""

from __future__ import annotations

import json
import subprocess

from tests.behaviour.volume.place import Place


def io(device: str, *commands: str) -> str:
    """What qemu-io says about reads and writes of an attached volume."""
    words = [word for command in commands for word in ("-c", command)]
    return subprocess.run(
        ["qemu-io", "-f", "raw", *words, device], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def holds_what_was_written(place: Place, volume_id: str) -> bool:
    """Attached like any volume, it has the pattern where it was written, and zeros beside it and behind it."""
    device = place.do("attach", volume_id, "--export", "socket")
    try:
        said = io(device, "read -P 7 1M 4M", "read -P 0 0 1M", "read -P 0 5M 27M")
    finally:
        place.do("detach", volume_id)
    return "failed" not in said


def written(place: Place, *options: str) -> str:
    """A detached volume of 32 MiB with a pattern in it, and a completed snapshot of it: the snapshot's id."""
    volume_id = place.do("create", "--size", "32M", *options)
    io(place.do("attach", volume_id, "--export", "socket"), "write -P 7 1M 4M", "flush")
    place.do("detach", volume_id)
    return place.do("snapshot", "create", volume_id, "--wait")


def test_volumes_under_either_key_attach_and_hold_the_data(place: Place) -> None:
    """Under the snapshot's key, under another one, and of a copy under another one; the source may be gone."""
    other = place.do("kms", "create-key")
    snapshot_id = written(place)

    same = place.do("create", "--snapshot-id", snapshot_id)
    turned = place.do("create", "--snapshot-id", snapshot_id, "--kms-key-id", other, "--size", "64M")
    copy_id = place.do("snapshot", "copy", snapshot_id, "--kms-key-id", other, "--description", "kept")
    place.do("snapshot", "delete", snapshot_id)
    of_copy = place.do("create", "--snapshot-id", copy_id)

    assert all(holds_what_was_written(place, volume_id) for volume_id in (same, turned, of_copy))
    shown = json.loads(place.do("snapshot", "show", copy_id, "--output", "json"))
    assert (shown["KmsKeyId"], shown["SourceSnapshotId"], shown["Description"]) == (other, snapshot_id, "kept")
    assert [place.show(volume_id)["KmsKeyId"] for volume_id in (turned, of_copy)] == [other, other]


def test_a_plain_volume_becomes_an_encrypted_one(place: Place) -> None:
    """By its snapshot; without --no-encrypted what is made of it is encrypted, and the way back is refused."""
    snapshot_id = written(place, "--no-encrypted")

    volume_id = place.do("create", "--snapshot-id", snapshot_id)

    assert place.show(volume_id)["Encrypted"]
    assert holds_what_was_written(place, volume_id)
    encrypted = place.do("snapshot", "create", volume_id, "--wait")
    ran = place.run("create", "--snapshot-id", encrypted, "--no-encrypted")
    assert ran.status == 2
    assert "encrypted snapshots must be used to create encrypted volumes" in ran.err


def test_a_disabled_key_stops_a_restore_and_no_snapshot(place: Place) -> None:
    """The snapshot is made; the restore ends with KMS's reason, and EBS's event says it in KMS's own words."""
    key = place.do("kms", "create-key")
    volume_id = place.do("create", "--size", "8M", "--kms-key-id", key)
    place.do("kms", "disable-key", key)

    snapshot_id = place.do("snapshot", "create", volume_id, "--wait")
    said = place.refused("create", "--snapshot-id", snapshot_id)

    assert "is disabled" in said
    event = json.loads(place.do("events", "--output", "json").splitlines()[-1])
    assert event["detail"] | {"request-id": ""} == {
        "event": "createVolume",
        "result": "failed",
        "cause": f"{key} is disabled.",
        "request-id": "",
    }


def test_a_copy_in_another_region(place: Place) -> None:
    """Its catalog, KMS and store are that Region's; a volume of it holds the data with the source's KMS keys gone."""
    state, file = place.directory / "west", place.directory / "west.toml"
    file.write_text(f'[paths]\nstate = "{state}"\n[kms]\nregion = "eu-west-1"\n')
    snapshot_id = written(place)

    copy_id = place.do(
        "snapshot",
        "copy",
        snapshot_id,
        "--region",
        "eu-west-1",
        EBSCRYPT_REGIONS_FILES=json.dumps({"eu-west-1": str(file)}),
    )

    (place.directory / "s" / "kms").rename(place.directory / "lost")
    place.environ |= {"EBSCRYPT_STATE_DIR": str(state), "EBSCRYPT_CONFIG": str(file)}
    shown = json.loads(place.do("snapshot", "show", copy_id, "--output", "json"))
    assert shown["KmsKeyId"].startswith("arn:aws:kms:eu-west-1:")
    assert holds_what_was_written(place, place.do("create", "--snapshot-id", copy_id))
