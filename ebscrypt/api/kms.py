"""The embedded KMS behind the API's door: same requests and answers as `ebscrypt kms serve`, with signatures checked.

Where ``kms.endpoint`` names another KMS there is nothing to serve: clients have that one's own endpoint.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from ebscrypt.api.errors import ApiError
from ebscrypt.api.protocol.http import HttpAnswer, HttpRequest
from ebscrypt.api.protocol.service import Asked
from ebscrypt.kms.audit import Trail
from ebscrypt.kms.embedded.http import CONTENT_TYPE, LARGEST_BODY
from ebscrypt.kms.embedded.service import EmbeddedKms

if TYPE_CHECKING:
    from botocore.model import ServiceModel

    from ebscrypt.api.call import Call
    from ebscrypt.config import Settings

_TARGET: Final = "x-amz-target"


class KmsService:
    """KMS, as the gateway asks a service. Each request leaves a record in the audit trail."""

    name = "kms"
    largest_body = LARGEST_BODY

    def __init__(self, settings: Settings, model: ServiceModel) -> None:
        self._kms = EmbeddedKms(settings, model) if settings.kms.endpoint == "embedded" else None
        self._trail = Trail(settings)
        self._actions = frozenset(model.operation_names)

    def may_be_unsigned(self, request: HttpRequest) -> bool:  # noqa: ARG002 - no request of KMS may
        return False

    def read(self, request: HttpRequest) -> Asked:
        """What is asked; its parameters are the embedded KMS's to check."""
        if self._kms is None:
            message = "This endpoint has no KMS of its own: kms.endpoint names another."
            raise ApiError("UnsupportedOperationException", message)
        if request.headers.get("content-type", "").partition(";")[0].strip() != CONTENT_TYPE:
            raise ApiError("SerializationException", f"The content type is not {CONTENT_TYPE}.")
        action = request.headers.get(_TARGET, "").partition(".")[2]
        # The name goes into log and metrics: only one that there is, or clients could make up any number of them.
        return Asked(action if action in self._actions else "-", partial(self._perform, self._kms, request))

    def error(self, fault: ApiError, request_id: str) -> HttpAnswer:
        code = "KMSInternalException" if fault.code == "InternalError" else fault.code
        body = msgspec.json.encode({"__type": code, "message": fault.message})
        return _answer(fault.status, body, request_id, code)

    def _perform(self, kms: EmbeddedKms, request: HttpRequest, call: Call) -> HttpAnswer:
        target = request.headers.get(_TARGET, "")
        status, body = kms.answer(target, request.body)
        self._trail.record_served(
            target,
            request.body,
            status,
            body,
            request_id=call.request_id,
            source=request.source,
            agent=request.headers.get("user-agent", ""),
            principal=call.principal,
        )
        return _answer(status, body, call.request_id, _code(body) if status != 200 else "")


def _code(body: bytes) -> str:
    """The code of the embedded KMS's own error."""
    return str(msgspec.json.decode(body)["__type"])


def _answer(status: int, body: bytes, request_id: str, code: str) -> HttpAnswer:
    headers = {"x-amzn-RequestId": request_id, "Content-Type": CONTENT_TYPE}
    return HttpAnswer(status=status, headers=headers, body=body, code=code)
