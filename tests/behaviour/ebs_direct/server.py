"""`ebscrypt api serve` as a user runs it, and boto3 as its client."""

from __future__ import annotations

import base64
import hashlib
import json
import signal
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import boto3
from botocore.config import Config

from tests.behaviour.volume.place import TIMEOUT, Place

BLOCK: Final = 524288


class Server:
    """The server of one place, and a client with an access key of its own."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.key = json.loads(place.do("api", "key", "create", "--output", "json"))
        self.start()

    def start(self) -> None:
        self._process = self._place.start("api", "serve", "--port", "0")
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        # It logs each request: a pipe that nobody reads would stop it in the end.
        self._said: list[str] = []
        self._reader = threading.Thread(target=self._listen)
        self._reader.start()
        assert self.url.startswith("http://127.0.0.1:"), self.url

    def kill(self) -> None:
        """By kill -9: nothing is written to the end that was not before."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)
        assert self._process.returncode == 0

    def _end(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        self._process.wait(TIMEOUT)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()
        assert "Traceback" not in "".join(self._said), self._said

    def _listen(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            self._said.extend(lines)

    def client(self, service: str = "ebs") -> Any:
        return boto3.client(  # type: ignore[call-overload]  # a service of any name
            service,
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id=self.key["AccessKeyId"],
            aws_secret_access_key=self.key["SecretAccessKey"],
            config=Config(retries={"max_attempts": 1}, max_pool_connections=16),
        )


def checksum(content: bytes) -> str:
    return base64.b64encode(hashlib.sha256(content).digest()).decode("ascii")


def put(client: Any, snapshot_id: str, index: int, content: bytes) -> dict[str, Any]:
    answer: dict[str, Any] = client.put_snapshot_block(
        SnapshotId=snapshot_id,
        BlockIndex=index,
        BlockData=content,
        DataLength=BLOCK,
        Checksum=checksum(content),
        ChecksumAlgorithm="SHA256",
    )
    assert answer["Checksum"] == checksum(content)
    return answer


def upload(client: Any, blocks: Mapping[int, bytes], **request: Any) -> str:
    """A completed snapshot of these blocks, put by four threads."""
    started = client.start_snapshot(**({"VolumeSize": 1} | request))
    snapshot_id: str = started["SnapshotId"]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda item: put(client, snapshot_id, *item), blocks.items()))
    complete(client, snapshot_id, blocks)
    return snapshot_id


def complete(client: Any, snapshot_id: str, blocks: Mapping[int, bytes]) -> None:
    digests = b"".join(hashlib.sha256(blocks[index]).digest() for index in sorted(blocks))
    answer = client.complete_snapshot(
        SnapshotId=snapshot_id,
        ChangedBlocksCount=len(blocks),
        Checksum=checksum(digests),
        ChecksumAlgorithm="SHA256",
        ChecksumAggregationMethod="LINEAR",
    )
    assert answer["Status"] == "completed"


def get(client: Any, snapshot_id: str, index: int, token: str) -> bytes:
    answer = client.get_snapshot_block(SnapshotId=snapshot_id, BlockIndex=index, BlockToken=token)
    content: bytes = answer["BlockData"].read()
    assert answer["DataLength"] == BLOCK
    assert answer["Checksum"] == checksum(content)
    return content


def listed(client: Any, snapshot_id: str) -> dict[int, str]:
    """Tokens by block, of all pages."""
    found: dict[int, str] = {}
    request: dict[str, Any] = {"SnapshotId": snapshot_id, "MaxResults": 100}
    while True:
        page = client.list_snapshot_blocks(**request)
        assert (page["BlockSize"], page["VolumeSize"]) == (BLOCK, 1)
        found |= {block["BlockIndex"]: block["BlockToken"] for block in page["Blocks"]}
        if "NextToken" not in page:
            return found
        request["NextToken"] = page["NextToken"]


def download(client: Any, snapshot_id: str) -> dict[int, bytes]:
    """All blocks, got by four threads."""
    tokens = listed(client, snapshot_id)
    with ThreadPoolExecutor(4) as pool:
        contents = pool.map(lambda item: get(client, snapshot_id, *item), tokens.items())
        return dict(zip(tokens, contents, strict=True))
