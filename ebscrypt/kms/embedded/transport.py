"""The embedded KMS reached in process: botocore's ``before-send`` event may answer a request instead of the network.

The request has gone through all of boto3 by then (parameters checked, serialised, signed with credentials that mean
nothing), and the answer goes through all of it afterwards. So the client code is the same as against AWS.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders

from ebscrypt.kms.embedded.service import EmbeddedKms

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest
    from botocore.model import ServiceModel

    from ebscrypt.config import Settings

CONTENT_TYPE = "application/x-amz-json-1.1"


class InProcess:
    """A handler for ``before-send.kms``. The store is opened, and made if need be, by the first request.

    ``principal`` is the ARN of whoever asks; None is the account itself, which may do everything. What the store itself
    raises (`EbscryptError`: missing root key, full disk…) goes through botocore unchanged.
    """

    def __init__(self, settings: Settings, service_model: ServiceModel, principal: str | None = None) -> None:
        self._kms = EmbeddedKms(settings, service_model)
        self._principal = principal

    def __call__(self, request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        target = request.headers["X-Amz-Target"]
        status, body = self._kms.answer(_text(target), _bytes(request.body), principal=self._principal)
        headers = {"x-amzn-RequestId": str(uuid.uuid4()), "Content-Type": CONTENT_TYPE}
        return AWSResponse(request.url, status, HTTPHeaders.from_dict(headers), _Body(body))


class _Body:
    """The part of urllib3's response that botocore reads."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._content


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _bytes(value: Any) -> bytes:
    return value.encode() if isinstance(value, str) else bytes(value or b"")
