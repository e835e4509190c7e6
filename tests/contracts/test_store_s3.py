"""What only S3 has: a network that breaks, credentials, buckets, a server that asks for patience or knows less."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from ebscrypt import errors
from ebscrypt.stores import s3 as s3_module
from ebscrypt.stores.addresses import S3Address, open_store
from ebscrypt.stores.names import BLOCK_SIZE, block_name
from ebscrypt.stores.s3 import S3
from ebscrypt.stores.store import Store
from ebscrypt.stores.transfer import transfer
from tests.contracts.store_implementations import BUCKET, Server, _free_port, cutting, place_for, settings_at
from tests.snapshot_samples import block, manifest_of, put_blocks, snapshot_id

pytestmark = pytest.mark.usefixtures("s3_credentials")


@pytest.fixture
def objects(s3_server: Server, tmp_path: Path) -> Iterator[S3]:
    """The bucket as `Objects`, with pauses that take no time."""
    address = S3Address(bucket=BUCKET, prefix=f"{tmp_path.name}/", endpoint=s3_server.endpoint)
    opened = S3(address, settings_at(tmp_path).stores, region="us-east-1")
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_module, "FIRST_PAUSE", 0.001)


class Answering:
    """Answers the next requests of an operation with a status and a code, then lets the server answer."""

    def __init__(self, objects: S3, operation: str, answers: list[tuple[int, str]]) -> None:
        self.asked = 0
        self._answers = answers
        answer: Any = self  # botocore's stubs let no handler answer
        objects._client.meta.events.register(f"before-send.s3.{operation}", answer)

    def __call__(self, request: Any, **_: Any) -> AWSResponse | None:
        self.asked += 1
        if not self._answers:
            return None
        status, code = self._answers.pop(0)
        body = f"<Error><Code>{code}</Code><Message>for the test</Message></Error>".encode()
        headers: Any = {"Content-Type": "application/xml"}
        return AWSResponse(request.url, status, headers, _Raw(body))


class _Raw:
    def __init__(self, body: bytes) -> None:
        self._body = body

    def stream(self) -> Iterator[bytes]:
        yield self._body


@pytest.mark.parametrize("answer", [(503, "SlowDown"), (500, "InternalError"), (429, "TooManyRequests"), (502, "")])
def test_what_may_pass_is_tried_again(objects: S3, answer: tuple[int, str]) -> None:
    """Two such answers, then the server's own: the block is there, after three requests."""
    answering = Answering(objects, "PutObject", [answer, answer])
    store = Store(objects)

    put_blocks(store, [1])
    assert store.get_block(block_name(block(1))) == block(1)
    assert answering.asked == 4  # store.json, and the block


@pytest.mark.parametrize(
    ("answer", "kind", "asked"),
    [
        ((503, "SlowDown"), errors.StoreSlowDown, 4),
        ((500, "InternalError"), errors.StoreUnreachable, 4),
        ((403, "AccessDenied"), errors.StoreAccessDenied, 1),
        ((404, "NoSuchBucket"), errors.StoreNotFound, 1),
        ((507, "InsufficientStorage"), errors.StoreFull, 1),
        ((400, "MalformedXML"), errors.StoreError, 1),
    ],
)
def test_what_does_not_pass_is_one_error(
    objects: S3, answer: tuple[int, str], kind: type[errors.StoreError], asked: int
) -> None:
    """Each cause has its kind; what can pass is tried four times as the settings say, the rest once."""
    store = Store(objects)
    answering = Answering(objects, "PutObject", [answer] * 10)

    with pytest.raises(errors.StoreError) as caught:
        store.put_block(block_name(block(1)), block(1))

    assert type(caught.value) is kind
    assert answering.asked == asked
    assert ("after 4 attempts" in caught.value.message) == (asked == 4)
    assert BUCKET in caught.value.message


def test_a_deletion_is_sent_once(objects: S3) -> None:
    """What might strike later is never sent again: a sweep's argument rests on it."""
    store = Store(objects)
    answering = Answering(objects, "DeleteObjects", [(503, "SlowDown")] * 3)
    with pytest.raises(errors.StoreSlowDown):
        store.delete_blocks([block_name(block(1))])
    assert answering.asked == 1


def test_a_server_without_conditional_puts(objects: S3) -> None:
    """One that calls If-None-Match not implemented is asked first instead; nothing else changes."""
    answering = Answering(objects, "PutObject", [(501, "NotImplemented")])
    store = Store(objects)

    assert store.put_block(block_name(block(1)), block(1))
    assert not store.put_block(block_name(block(1)), block(1))
    assert answering.asked == 3  # store.json twice, the block once
    store.put_manifest(snapshot_id(1), manifest_of(1, [1]))
    with pytest.raises(errors.ManifestExists):
        store.put_manifest(snapshot_id(1), manifest_of(1, [2]))


def test_a_put_whose_answer_was_lost(objects: S3) -> None:
    """If an attempt put it and its answer was lost, the next finds it there: for a manifest that is success."""
    store = Store(objects)
    raw = manifest_of(1, [1])
    store.put_manifest(snapshot_id(1), raw)
    Answering(objects, "PutObject", [(500, "InternalError")])
    store.put_manifest(snapshot_id(1), raw)


def test_names_in_a_crowded_folder(objects: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few names are asked for one by one, many by listing, and a folder too full to list falls back: all agree."""
    store = Store(objects)
    crowd = [bytes([9, number]) + bytes(30) for number in range(40)]
    for number in range(0, 40, 2):
        objects.put(f"blocks/09/{crowd[number].hex()}", b"x", sha256=block_name(b"x"))
    expected = set(crowd[1::2])
    heads = Answering(objects, "HeadObject", [])

    assert store.missing(crowd) == expected
    assert heads.asked == 0
    assert store.missing(crowd[:8]) == set(crowd[1:8:2])
    assert heads.asked == 8
    pages = objects._pages
    monkeypatch.setattr(objects, "_pages", lambda *a, **k: ([entry] for page in pages(*a, **k) for entry in page))
    assert store.missing(crowd[:10]) == set(crowd[1:10:2])
    assert heads.asked == 9  # with pages of one name, five of them tell of all but the last
    assert store.missing([*crowd[-10:], *(bytes([9, 255, n]) + bytes(29) for n in range(3))]) >= set(crowd[-9::2])


def test_a_connection_that_breaks_ends_a_transfer_with_one_error(s3_server: Server, tmp_path: Path) -> None:
    """Every connection is reset within a block: the transfer ends, in time, with the store unreachable."""
    place = place_for("s3", tmp_path, s3_server)
    place.open().close()
    contents = [os.urandom(BLOCK_SIZE) for _ in range(8)]
    with cutting(s3_server.endpoint, after=200_000) as (endpoint, passing):
        store = open_store(settings_at(tmp_path), place.url.replace(s3_server.endpoint, endpoint))
        began = time.monotonic()
        with pytest.raises(errors.StoreUnreachable, match="attempts"):
            transfer(contents, lambda content: store.put_block(block_name(content), content), workers=4)
        assert time.monotonic() - began < 60
        assert list(store.list_blocks()) == []  # listing is short enough to pass

        passing.set()
        transfer(contents, lambda content: store.put_block(block_name(content), content), workers=4)
        assert [store.get_block(block_name(content)) for content in contents] == contents
        store.close()


def test_a_connection_that_breaks_once_is_not_noticed(s3_server: Server, tmp_path: Path) -> None:
    """The network comes back during the retries: the transfer succeeds."""
    place = place_for("s3", tmp_path, s3_server)
    contents = [os.urandom(BLOCK_SIZE) for _ in range(8)]
    with cutting(s3_server.endpoint, after=600_000) as (endpoint, passing):
        store = open_store(settings_at(tmp_path, attempts=8), place.url.replace(s3_server.endpoint, endpoint))
        transfer(contents, lambda content: store.put_block(block_name(content), content), workers=4)
        passing.set()
        assert {found.name for found in store.list_blocks()} == {block_name(content) for content in contents}
        store.close()


@pytest.mark.parametrize("what", ["secret", "key id", "none"])
def test_wrong_credentials(s3_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Credentials that are wrong or absent are access denied, at once, and are not in the message."""
    if what == "secret":
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    elif what == "key id":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    else:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(errors.StoreAccessDenied) as caught:
        place_for("s3", tmp_path, s3_server).open()
    assert "hunter2" not in str(caught.value)
    assert caught.value.hint


def test_no_such_bucket(s3_server: Server, tmp_path: Path) -> None:
    """A bucket that is not there is told as that."""
    with pytest.raises(errors.StoreNotFound, match="bucket"):
        open_store(settings_at(tmp_path), f"s3://absent-bucket?endpoint={s3_server.endpoint}")


def test_nobody_listens(tmp_path: Path) -> None:
    """An endpoint where nothing is: unreachable, after the bounded retries."""
    with pytest.raises(errors.StoreUnreachable, match="after 4 attempts"):
        open_store(settings_at(tmp_path), f"s3://{BUCKET}?endpoint=http://127.0.0.1:{_free_port()}")


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    """Settings of AWS that do not work are a mistake in the settings."""
    with pytest.raises(errors.ConfigError, match="absent"):
        open_store(settings_at(tmp_path), f"s3://{BUCKET}?profile=absent")
