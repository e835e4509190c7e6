"""The EBS direct APIs as boto3 uses them, against a real server: upload, list, compare, download, resume, restore."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.behaviour.ebs_direct.server import (
    BLOCK,
    Server,
    checksum,
    complete,
    download,
    get,
    listed,
    put,
    upload,
)
from tests.behaviour.volume.place import Place

NO_SNAPSHOT = "snap-00000000000000000"


def noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(BLOCK)  # noqa: S311 - the same in each run


def refused(call: Any, **request: Any) -> tuple[str, str, int]:
    """Code, reason and HTTP status of an error."""
    with pytest.raises(ClientError) as caught:
        call(**request)
    answer = caught.value.response
    status = answer["ResponseMetadata"]["HTTPStatusCode"]
    return answer["Error"]["Code"], str(answer.get("Reason")), int(status)


def test_an_encrypted_snapshot_is_uploaded_compared_and_restored(place: Place, server: Server, tmp_path: Path) -> None:
    """What boto3 puts it gets again, byte for byte; and a volume made of it shows the same through a real device."""
    client = server.client()
    key = server.client("kms").create_key()["KeyMetadata"]["Arn"]
    first_blocks = {index: noise(index) for index in range(8)}
    first = upload(client, first_blocks, KmsKeyArn=key, Description="from afar", Tags=[{"Key": "a", "Value": "b"}])

    changes = {2: noise(100), 3: bytes(BLOCK), 2047: noise(101)}
    started = client.start_snapshot(VolumeSize=1, ParentSnapshotId=first)
    second = started["SnapshotId"]
    assert (started["Status"], started["BlockSize"], started["VolumeSize"]) == ("pending", BLOCK, 1)
    assert (started["ParentSnapshotId"], started["KmsKeyArn"], started["SseType"]) == (first, key, "sse-kms")
    for index, content in changes.items():
        put(client, second, index, content)
    complete(client, second, changes)
    second_blocks = {index: content for index, content in (first_blocks | changes).items() if any(content)}

    assert download(client, first) == first_blocks
    assert download(client, second) == second_blocks

    page = client.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second)
    differing = {
        block["BlockIndex"]: (
            get(client, first, block["BlockIndex"], block["FirstBlockToken"]) if "FirstBlockToken" in block else None,
            get(client, second, block["BlockIndex"], block["SecondBlockToken"])
            if "SecondBlockToken" in block
            else None,
        )
        for block in page["ChangedBlocks"]
    }
    assert differing == {2: (noise(2), noise(100)), 3: (noise(3), None), 2047: (None, noise(101))}

    volume_id = place.do("create", "--snapshot-id", second)
    assert place.show(volume_id)["KmsKeyId"] == key
    uri = place.do("attach", volume_id, "--export", "socket")
    copy = tmp_path / "copy"
    subprocess.run(["nbdcopy", uri, copy], check=True, timeout=60)
    place.do("detach", volume_id)
    with copy.open("rb") as file:
        for index in range(2048):
            assert file.read(BLOCK) == second_blocks.get(index, bytes(BLOCK)), index


def test_an_upload_outlives_client_and_server(place: Place, server: Server) -> None:
    """Both are killed midway; another client puts what was not answered, and completes."""
    client = server.client()
    seeds = list(range(40))
    snapshot_id = client.start_snapshot(VolumeSize=1, Encrypted=True)["SnapshotId"]
    words = [server.url, server.key["AccessKeyId"], server.key["SecretAccessKey"], snapshot_id, *map(str, seeds)]
    command = [sys.executable, "-m", "tests.behaviour.ebs_direct.uploading", *words]
    answered: list[int] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=place.environ) as killed:
        assert killed.stdout is not None
        while len(answered) < 10:
            answered.append(int(killed.stdout.readline()))
        killed.kill()
    server.kill()

    server.start()
    client = server.client()
    for index in seeds:
        if index not in answered:
            put(client, snapshot_id, index, noise(seeds[index]))
    blocks = {index: noise(seed) for index, seed in enumerate(seeds)}
    complete(client, snapshot_id, blocks)
    assert download(client, snapshot_id) == blocks


def test_errors_have_ebs_codes_and_reasons(server: Server) -> None:
    """Each refusal as the service model and EBS's documentation have it."""
    client = server.client()
    done = upload(client, {0: noise(0)})
    other = upload(client, {0: noise(1)})
    token = listed(client, done)[0]
    block = {
        "SnapshotId": done,
        "BlockIndex": 0,
        "BlockData": noise(0),
        "DataLength": BLOCK,
        "Checksum": checksum(noise(0)),
        "ChecksumAlgorithm": "SHA256",
    }
    pending = client.start_snapshot(VolumeSize=1, ClientToken="once")["SnapshotId"]
    invalid, missing = "ValidationException", "ResourceNotFoundException"

    found = refused

    assert found(client.put_snapshot_block, **block) == (invalid, "INVALID_SNAPSHOT_ID", 400)
    block["SnapshotId"] = pending
    assert found(client.put_snapshot_block, **block | {"BlockIndex": 2048}) == (invalid, "INVALID_BLOCK", 400)
    assert found(client.put_snapshot_block, **block | {"Checksum": checksum(b"")}) == (invalid, "INVALID_BLOCK", 400)
    assert found(client.put_snapshot_block, **block | {"DataLength": 512})[:2] == (invalid, "INVALID_PARAMETER_VALUE")
    assert found(client.complete_snapshot, SnapshotId=pending, ChangedBlocksCount=1)[0] == invalid
    assert found(client.list_snapshot_blocks, SnapshotId=pending) == (invalid, "INVALID_SNAPSHOT_ID", 400)
    assert found(client.list_snapshot_blocks, SnapshotId=NO_SNAPSHOT) == (missing, "SNAPSHOT_NOT_FOUND", 404)
    assert found(client.list_snapshot_blocks, SnapshotId=done, NextToken="AAAA") == (
        invalid, "INVALID_PAGE_TOKEN", 400,
    )  # fmt: skip
    assert found(client.list_changed_blocks, FirstSnapshotId=done, SecondSnapshotId=other) == (
        invalid, "UNRELATED_SNAPSHOTS", 400,
    )  # fmt: skip
    assert found(client.list_changed_blocks, SecondSnapshotId=other)[:2] == (invalid, "INVALID_PARAMETER_VALUE")
    assert found(client.get_snapshot_block, SnapshotId=other, BlockIndex=0, BlockToken=token) == (
        invalid, "INVALID_BLOCK_TOKEN", 400,
    )  # fmt: skip
    assert found(client.start_snapshot, VolumeSize=65537) == (invalid, "INVALID_VOLUME_SIZE", 400)
    assert found(client.start_snapshot, VolumeSize=1, Encrypted=True, ParentSnapshotId=done)[0] == invalid
    assert found(client.start_snapshot, VolumeSize=2, ClientToken="once")[::2] == ("ConflictException", 409)
    assert client.start_snapshot(VolumeSize=1, ClientToken="once")["SnapshotId"] == pending


def test_a_disabled_key_is_a_refusal_of_the_dependency(server: Server) -> None:
    """Reading begins with KMS; what it refuses is told as EBS tells it."""
    client, kms = server.client(), server.client("kms")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    snapshot_id = upload(client, {0: noise(0)}, KmsKeyArn=key)
    token = listed(client, snapshot_id)[0]
    kms.disable_key(KeyId=key)
    request = {"SnapshotId": snapshot_id, "BlockIndex": 0, "BlockToken": token}
    assert refused(client.get_snapshot_block, **request) == ("AccessDeniedException", "DEPENDENCY_ACCESS_DENIED", 403)
