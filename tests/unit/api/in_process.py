"""boto3 clients whose requests go straight to a `Gateway`: signed and answered as over HTTP, without a socket."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse, HeadersDict
from botocore.config import Config
from botocore.exceptions import ClientError

from ebscrypt.api.access_keys import AccessKeys
from ebscrypt.api.gateway import Gateway
from ebscrypt.api.protocol.http import HttpRequest
from ebscrypt.config import Settings

URL = "http://127.0.0.1:1"


class _Raw(io.BytesIO):
    """What botocore reads a body from."""

    def stream(self) -> Iterator[bytes]:
        yield self.read()


class Clients:
    """Clients of one gateway with one access key."""

    def __init__(self, settings: Settings) -> None:
        self._key = AccessKeys(settings).create("admin")
        self.gateway = Gateway(settings)

    def client(self, service: str = "ec2") -> Any:
        made = boto3.client(  # type: ignore[call-overload]  # a service of any name
            service,
            endpoint_url=URL,
            region_name="us-east-1",
            aws_access_key_id=self._key.access_key_id,
            aws_secret_access_key=self._key.secret_access_key,
            config=Config(retries={"total_max_attempts": 1}),
        )
        made.meta.events.register("before-send", self._send)
        return made

    def _send(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        url = urlsplit(request.url)
        body = request.body or b""
        assert isinstance(body, (str, bytes))
        answer = self.gateway.answer(
            HttpRequest(
                method=request.method,
                path=url.path or "/",
                query=url.query,
                headers={"host": url.netloc} | {name.lower(): _text(value) for name, value in request.headers.items()},
                body=body.encode() if isinstance(body, str) else body,
            )
        )
        headers: Any = HeadersDict(answer.headers)
        return AWSResponse(request.url, answer.status, headers, _Raw(answer.body))


def _text(value: Any) -> str:
    """Botocore has header values of both kinds, whatever its stubs say."""
    return value.decode() if isinstance(value, bytes) else str(value)


def refused(operation: Any, **request: Any) -> tuple[str, str]:
    """Code and message of an error."""
    with pytest.raises(ClientError) as caught:
        operation(**request)
    error = caught.value.response["Error"]
    return str(error["Code"]), str(error["Message"])
