"""`Gateway`: one request of a client from bytes to bytes. Sockets are the business of server.py.

In this order: whose signature it says to be, whether it is; which operation, and whether its parameters agree with the
model; then the operation. What goes wrong is answered in the form of the service that was asked. Nothing that an
operation can raise gets past: the last resort is an answer that says nothing, and a log that says all.
"""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from ebscrypt.api import services, signature
from ebscrypt.api.access_keys import AccessKey, AccessKeys
from ebscrypt.api.call import Call
from ebscrypt.api.errors import ApiError, from_ebscrypt, internal
from ebscrypt.api.protocol.http import HttpAnswer, HttpRequest
from ebscrypt.api.served_site import Shared
from ebscrypt.errors import EbscryptError, KmsError
from ebscrypt.kms.names import partition_of
from ebscrypt.model import utc_now

if TYPE_CHECKING:
    from ebscrypt.api.protocol.service import Service
    from ebscrypt.config import Settings
    from ebscrypt.control.site import Site

SMALL_BODY: Final = 64 * 1024
"""Bytes of a request of which nobody knows yet what it is: enough to be told in an answer what is wrong with it."""
_ANYWHERE: Final = frozenset({"sts"})
"""Services with one endpoint for all Regions, for which clients sign in any."""
_WITHOUT_SERVICE: Final = "ec2"
"""Whose form an error has where a request does not say which service it is for."""

_log = logging.getLogger(__name__)


class Served:
    """What became of a request, for log and metrics."""

    def __init__(self) -> None:
        self.request_id = str(uuid.uuid4())
        self.service = self.action = self.user = "-"
        self.code = ""
        self.status = 500
        self.kms_failed = False
        self.seconds = 0.0


class Gateway:
    """The API of one installation. Any number of threads may have it answer at once.

    ``now`` is the clock by which signatures are judged. ``observe`` hears of each request that was answered.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        now: Callable[[], datetime] = utc_now,
        observe: Callable[[Served], None] | None = None,
    ) -> None:
        self._settings = settings
        self._services: dict[str, Service] = services.load(settings)
        self._keys = AccessKeys(settings)
        self._known: tuple[object, dict[str, AccessKey]] = (None, {})
        self._lock = threading.Lock()
        self._now = now
        self._observe = observe
        self.shared = Shared(settings)

    def largest_body(self, request: HttpRequest) -> int:
        """Bytes that the body of this request, whose headers are here, may have.

        Whoever names no key that there is gets no memory for more than an error needs.
        """
        try:
            signed = signature.read(request)
            service = self._services.get(signed.service)
            known = self._key(signed.access_key_id) is not None
        except (ApiError, EbscryptError):
            return SMALL_BODY
        return service.largest_body if service and known else SMALL_BODY

    def answer(self, request: HttpRequest) -> HttpAnswer:
        """The answer to a request. Never raises."""
        served, began = Served(), time.monotonic()
        answer = self._answered(request, served)
        self._tell(request, served, answer, time.monotonic() - began)
        return answer

    def _tell(self, request: HttpRequest, served: Served, answer: HttpAnswer, seconds: float) -> None:
        served.status, served.seconds = answer.status, seconds
        served.code = served.code or answer.code
        _log.info(
            "answered",
            extra={
                "fields": {
                    "request_id": served.request_id,
                    "service": served.service,
                    "action": served.action,
                    "user": served.user,
                    "source": request.source,
                    "status": served.status,
                    "code": served.code,
                    "milliseconds": round(served.seconds * 1000, 1),
                }
            },
        )
        if self._observe is not None:
            self._observe(served)

    def refusal(self, request: HttpRequest, error: ApiError) -> HttpAnswer:
        """The answer to a request that is refused before it is all there."""
        try:
            name = signature.read(request).service
        except ApiError:
            name = _WITHOUT_SERVICE
        service, served = self._services.get(name) or self._services[_WITHOUT_SERVICE], Served()
        served.code = error.code
        answer = service.error(error, served.request_id)
        self._tell(request, served, answer, 0.0)
        return answer

    def close(self) -> None:
        """Let go of the catalog. Idempotent."""
        self.shared.close()

    def _answered(self, request: HttpRequest, served: Served) -> HttpAnswer:
        service = self._services[_WITHOUT_SERVICE]
        try:
            signed = signature.read(request)
            service = self._services.get(signed.service, service)
            user = self._signer(request, signed, service)
            served.service, served.user = service.name, user
            asked = service.read(request)
            served.action = asked.action
            with self.shared.site() as site:
                return asked.perform(self._call(site, served.request_id, user))
        except ApiError as error:
            fault = signature.named_for(service.name, error)
        except EbscryptError as error:
            served.kms_failed = isinstance(error, KmsError)
            # The hint may name files; the message may too, and both are for whoever runs this server.
            _log.warning("%s %s: %s", served.request_id, served.action, error.message)
            # Who has not signed hears nothing of this machine, as that its file of access keys cannot be read.
            fault = internal() if served.service == "-" else from_ebscrypt(error)
        except Exception:  # noqa: BLE001 - a client must hear something, and nothing of what is inside
            _log.exception("%s %s", served.request_id, served.action)
            fault = internal()
        served.code = fault.code
        return service.error(fault, served.request_id)

    def _signer(self, request: HttpRequest, signed: signature.Signed, service: Service) -> str:
        """The name of the user who signed. Raises `ApiError`."""
        key = self._key(signed.access_key_id)
        signature.check(
            request,
            signed,
            None if key is None else key.secret_access_key,
            self._now(),
            may_be_unsigned=service.may_be_unsigned(request),
        )
        region = self._settings.kms.region
        if signed.service not in self._services or (signed.region != region and signed.service not in _ANYWHERE):
            raise ApiError(
                "SignatureDoesNotMatch",
                f"Credential should be scoped to a valid Region and service: this endpoint is in {region}, "
                f"and has {', '.join(sorted(self._services))}.",
                status=403,
            )
        return "" if key is None else key.user

    def _call(self, site: Site, request_id: str, user: str) -> Call:
        kms = self._settings.kms
        return Call(
            site=site,
            account=kms.account,
            region=kms.region,
            request_id=request_id,
            principal=f"arn:{partition_of(kms.region)}:iam::{kms.account}:user/{user}",
            now=self._now(),
        )

    def _key(self, access_key_id: str) -> AccessKey | None:
        """The key of that id; the file is read again when it has changed."""
        stamp = self._keys.stamp()
        with self._lock:
            if stamp != self._known[0]:
                self._known = stamp, {key.access_key_id: key for key in self._keys.all()}
            return self._known[1].get(access_key_id)
