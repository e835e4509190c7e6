"""Objects in a bucket of S3, or of anything that speaks it: MinIO, Ceph, Garage, R2, versitygw.

Asked of the server: PutObject, GetObject, HeadObject, ListObjectsV2, DeleteObjects, consistent answers. Used where
it has them: ``If-None-Match: *`` (one request puts a block unless it is there) and SHA-256 checksums (it refuses what
the network damaged). Nothing is multipart: a block has 512 KiB.
"""

from __future__ import annotations

import base64
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, TypeVar

import boto3
import botocore.session
from botocore.config import Config

from ebscrypt.config import StoreSettings
from ebscrypt.errors import StoreError
from ebscrypt.stores.addresses import S3Address
from ebscrypt.stores.names import Content
from ebscrypt.stores.objects import Entry
from ebscrypt.stores.s3_failures import code_of, translate

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import DeleteObjectsOutputTypeDef, ObjectIdentifierTypeDef

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
"""Seconds: bounds of the pauses between attempts, drawn evenly from zero to a bound that doubles (full jitter)."""
_FEW: Final = 8
"""So many names in one folder are asked for one by one; of more, the folder is listed."""
_ABSENT: Final = frozenset({"404", "NoSuchKey", "NotFound"})
T = TypeVar("T")


class S3:
    """`Objects` under ``address``. botocore's own retries are off: this is the one layer that tries again."""

    def __init__(self, address: S3Address, settings: StoreSettings, *, region: str) -> None:
        self._address, self._settings = address, settings
        self._closed = threading.Event()
        self._conditional = True
        try:
            self._client = _connect(address, settings, region)
        except Exception as error:
            raise translate(error, "anything", self.url) from error
        self._askers = ThreadPoolExecutor(settings.workers, thread_name_prefix="s3")

    @property
    def url(self) -> str:
        return self._address.url

    def put(self, path: str, content: Content, *, sha256: bytes, replace: bool = False, durable: bool = True) -> bool:  # noqa: ARG002 - S3 answers when an object is durable
        # An attempt whose answer was lost may have put the object; the next one then says that it is there.
        if not replace and not self._conditional and self.present([path]):
            return False
        request: dict[str, Any] = {
            "Key": self._key(path),
            "Body": bytes(content) if isinstance(content, memoryview) else content,
            "ChecksumSHA256": base64.b64encode(sha256).decode("ascii"),
        }
        if not replace and self._conditional:
            request["IfNoneMatch"] = "*"
        try:
            self._call("PutObject", lambda: self._client.put_object(Bucket=self._address.bucket, **request))
        except _Refused as refusal:
            if refusal.code in ("PreconditionFailed", "412"):
                return False
            if refusal.code in ("NotImplemented", "501") and "IfNoneMatch" in request:
                self._conditional = False
                return self.put(path, content, sha256=sha256)
            raise refusal.error from refusal.error.__cause__
        return True

    def get(self, path: str, largest: int) -> bytes | None:
        def attempt() -> bytes:
            answer = self._client.get_object(Bucket=self._address.bucket, Key=self._key(path))
            with answer["Body"] as body:
                return body.read(largest + 1)

        try:
            return self._call("GetObject", attempt)
        except _Refused as refusal:
            if refusal.code in _ABSENT:
                return None
            raise refusal.error from refusal.error.__cause__

    def present(self, paths: Sequence[str]) -> set[str]:
        folders: dict[str, list[str]] = {}
        for path in paths:
            folders.setdefault(path[: path.rfind("/") + 1], []).append(path)
        found: set[str] = set()
        single: list[str] = []
        for folder, wanted in folders.items():
            if len(wanted) > _FEW:
                wanted = self._search(folder, sorted(wanted), found)  # noqa: PLW2901 - what is left of them
            single += wanted
        found.update(path for path, here in zip(single, self._askers.map(self._exists, single), strict=True) if here)
        return found

    def entries(self, prefix: str) -> Iterator[Entry]:
        for page in self._pages(prefix):
            yield from page

    def delete(self, paths: Sequence[str]) -> None:
        rest = iter(paths)
        while batch := list(islice(rest, 1000)):
            answer = self._call("DeleteObjects", partial(self._delete, batch), attempts=1)
            for refused in answer.get("Errors", []):
                if refused.get("Code") not in _ABSENT:
                    raise StoreError(
                        f"the store {self.url} refused DeleteObjects: {refused.get('Code')} for {refused.get('Key')}",
                        hint="allow s3:DeleteObject, and look for object lock",
                    )

    def _delete(self, paths: list[str]) -> DeleteObjectsOutputTypeDef:
        keys: list[ObjectIdentifierTypeDef] = [{"Key": self._key(path)} for path in paths]
        return self._client.delete_objects(Bucket=self._address.bucket, Delete={"Objects": keys, "Quiet": True})

    def is_empty(self) -> bool:
        return next(self.entries(""), None) is None

    def sync(self) -> None:
        """Nothing to do: what S3 has acknowledged is durable."""

    def clean_up(self) -> int:
        return 0

    def close(self) -> None:
        self._closed.set()
        self._askers.shutdown(cancel_futures=True)
        self._client.close()

    def _key(self, path: str) -> str:
        return self._address.prefix + path

    def _exists(self, path: str) -> bool:
        try:
            self._call("HeadObject", lambda: self._client.head_object(Bucket=self._address.bucket, Key=self._key(path)))
        except _Refused as refusal:
            if refusal.code in _ABSENT:
                return False
            raise refusal.error from refusal.error.__cause__
        return True

    def _search(self, folder: str, wanted: list[str], found: set[str]) -> list[str]:
        """Look for names by listing their folder. Returns those that are cheaper asked for one by one.

        A page of a listing has up to 1000 names. When half as many pages were read as there are names to find, the
        folder is too full for this; so it never costs more than half again what asking would.
        """
        rest = set(wanted)
        start = wanted[0][:-1]  # sorts before the first of them, and hardly anything lies between
        pages = self._pages(folder, start=start)
        for _ in range(len(wanted) // 2):
            page = next(pages, None)
            if not page:
                return []  # the folder ends here, and what was not found is not there
            here = {entry.path for entry in page} & rest
            found |= here
            last = page[-1].path
            rest = {path for path in rest - here if path > last}
            if not rest:
                return []
        return sorted(rest)

    def _pages(self, prefix: str, start: str | None = None) -> Iterator[list[Entry]]:
        request: dict[str, Any] = {"Bucket": self._address.bucket, "Prefix": self._key(prefix)}
        if start is not None:
            request["StartAfter"] = self._key(start)
        while True:
            answer = self._call("ListObjectsV2", lambda: self._client.list_objects_v2(**request))
            yield [
                Entry(item["Key"].removeprefix(self._address.prefix), item["Size"], item["LastModified"].timestamp())
                for item in answer.get("Contents", [])
            ]
            if not answer.get("IsTruncated"):
                return
            request["ContinuationToken"] = answer["NextContinuationToken"]
            request.pop("StartAfter", None)

    def _call(self, operation: str, attempt: Callable[[], T], attempts: int | None = None) -> T:
        """The result of a request, tried again where that may help. Raises `StoreError`, or `_Refused` with a code."""
        tried, limit = 0, attempts or self._settings.attempts
        while True:
            try:
                return attempt()
            except Exception as raised:  # noqa: BLE001 - every kind is translated
                error, code, cause = translate(raised, operation, self.url), code_of(raised), raised
            tried += 1
            retryable = isinstance(error, StoreError) and error.retryable
            pause = random.uniform(0, min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (tried - 1)))  # noqa: S311 - no secret
            if not retryable or tried >= limit or self._closed.wait(pause):
                break
        if tried > 1:
            error = type(error)(f"{error.message} (after {tried} attempts)", hint=error.hint)
        error.__cause__ = cause
        if type(error) is StoreError and code:
            raise _Refused(error, code)
        raise error


class _Refused(Exception):
    """A refusal that is no error of its own kind: its caller knows what the code means, or raises ``error``."""

    def __init__(self, error: StoreError, code: str) -> None:
        super().__init__(code)
        self.error, self.code = error, code


def _connect(address: S3Address, settings: StoreSettings, region: str) -> S3Client:
    core = botocore.session.Session(profile=address.profile)
    config = Config(
        region_name=region,
        connect_timeout=settings.timeout,
        read_timeout=settings.timeout,
        max_pool_connections=2 * settings.workers,
        retries={"mode": "standard", "total_max_attempts": 1},
        # SHA-256 goes with each object; botocore's own CRC would be computed besides, and older servers refuse it.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # A server at an address, or with one certificate, has no host name for each bucket.
        s3={"addressing_style": "path" if address.endpoint else "auto"},
        user_agent_extra="ebscrypt",
    )
    return boto3.session.Session(botocore_session=core).client("s3", endpoint_url=address.endpoint, config=config)
