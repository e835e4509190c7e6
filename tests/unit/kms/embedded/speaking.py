"""The embedded KMS spoken to in its own JSON, without boto3, and with a clock that a test may turn."""

from __future__ import annotations

import base64
import contextlib
import copy
import functools
import sqlite3
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
from botocore.model import ServiceModel

from ebscrypt.config import Settings
from ebscrypt.kms.embedded.service import EmbeddedKms
from ebscrypt.kms.embedded.store import DATABASE

START = 1_767_225_600.0
"""2026-01-01 00:00 UTC."""
DAY = 86_400
CONTEXT = {"aws:ebs:id": "vol-0123456789abcdef0"}


@functools.cache
def service_model() -> ServiceModel:
    """Botocore's model of KMS, read once."""
    return botocore.session.Session().get_service_model("kms")


class Refused(Exception):
    """The KMS answered with an error."""

    def __init__(self, status: int, body: dict[str, str]) -> None:
        super().__init__(f"{body['__type']}: {body.get('message', '')}")
        self.status = status
        self.kind = body["__type"]
        self.message = body.get("message", "")


class Speaker:
    """An embedded KMS over the store of ``settings``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now = START
        self.principal: str | None = None
        self.kms = EmbeddedKms(settings, service_model(), now=lambda: self.now)

    def close(self) -> None:
        self.kms.close()

    def acting_as(self, principal: str) -> Speaker:
        """The same KMS, spoken to by somebody who is not the account's root."""
        other = copy.copy(self)
        other.principal = principal
        return other

    def say(self, operation: str, **request: Any) -> dict[str, Any]:
        """The answer, or `Refused`. Bytes are put into base64 on the way."""
        wire = {
            name: base64.b64encode(value).decode() if isinstance(value, bytes) else value
            for name, value in request.items()
        }
        status, answer = self.kms.dispatch(f"TrentService.{operation}", wire, principal=self.principal)
        if status != 200:
            raise Refused(status, answer)
        return answer

    def refusal(self, operation: str, **request: Any) -> Refused:
        """The refusal of a request that must be refused."""
        with pytest.raises(Refused) as caught:
            self.say(operation, **request)
        return caught.value

    def key(self, **request: Any) -> str:
        """The ARN of a new key."""
        return str(self.say("CreateKey", **request)["KeyMetadata"]["Arn"])

    def state(self, key: str) -> str:
        """A key's state."""
        return str(self.say("DescribeKey", KeyId=key)["KeyMetadata"]["KeyState"])

    def wrapped(self, key: str, context: dict[str, str] | None = None) -> bytes:
        """A new data key under ``key``."""
        answer = self.say(
            "GenerateDataKeyWithoutPlaintext",
            KeyId=key,
            NumberOfBytes=64,
            EncryptionContext=CONTEXT if context is None else context,
        )
        return base64.b64decode(answer["CiphertextBlob"])

    def opened(self, blob: bytes, context: dict[str, str] | None = None, **more: Any) -> bytes:
        """The plaintext of a blob."""
        answer = self.say(
            "Decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT if context is None else context, **more
        )
        return base64.b64decode(answer["Plaintext"])

    @contextlib.contextmanager
    def database(self) -> Iterator[sqlite3.Connection]:
        """The store's own tables, for tests that put it into a state that no request can."""
        connection = sqlite3.connect(self.settings.kms_dir / DATABASE)
        try:
            with connection:
                yield connection
        finally:
            connection.close()
