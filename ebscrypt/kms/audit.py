"""The audit trail: each request to KMS leaves one record, in the form of CloudTrail's (facts §4).

Each attempt counts, as it would there. What a record shows of a request and its answer is an allow-list, member by
member: no plaintext, no wrapped key, no grant token, no imported material and no policy is ever in it. It does show the
encryption context, which CloudTrail does too: a context is no place for secrets.

Where KMS is AWS's, CloudTrail has the authoritative record, and ``requestID`` joins the two. Who asked is known to AWS
alone then, so ``userIdentity`` is Unknown here.

A record that cannot be written is told once, and changes nothing for the request.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import msgspec

from ebscrypt.errors import KmsError
from ebscrypt.kms import audit_file
from ebscrypt.kms.audit_record import Exchange, record_of

if TYPE_CHECKING:
    from ebscrypt.config import Settings
    from ebscrypt.errors import EbscryptError

_log = logging.getLogger(__name__)


class Trail:
    """Where the requests of one client, or of one server, are recorded. Safe to use from several threads.

    ``notes`` gets the one note that says that records cannot be written; without it that is logged as a warning.
    """

    def __init__(self, settings: Settings, notes: list[str] | None = None) -> None:
        self._settings = settings
        self._notes = notes
        self._told = False

    def record(self, exchange: Exchange) -> None:
        """Record one exchange. Never raises: what cannot be recorded has happened all the same."""
        audit = self._settings.audit
        try:
            record = record_of(exchange, self._settings)
            audit_file.append(self._settings.audit_dir, record, largest=audit.largest_file, files=audit.files)
        except OSError as error:
            self._tell(error.strerror or type(error).__name__)
        except Exception as error:  # noqa: BLE001 - a bug here must not cost anyone a volume
            self._tell(type(error).__name__)

    def record_served(
        self,
        target: str,
        request: Any,
        status: int,
        answer: Any,
        *,
        request_id: str,
        source: str,
        agent: str = "",
        principal: str | None = None,
    ) -> None:
        """Record a request that the embedded KMS's server answered; all as the JSON protocol has it.

        ``target`` is X-Amz-Target, ``request`` and ``answer`` are the two bodies, as bytes or decoded.
        """
        told = _decoded(answer)
        exchange = Exchange(
            operation=target.rpartition(".")[2],
            parameters=_decoded(request),
            request_id=request_id,
            principal=principal,
            source=source,
            agent=agent,
        )
        if status == HTTPStatus.OK:
            exchange = replace(exchange, answer=told)
        else:
            code = str(told.get("__type") or f"Status{status}").rpartition("#")[2]
            exchange = replace(exchange, error_code=code, error_text=told.get("message") or told.get("Message"))
        self.record(exchange)

    def _tell(self, why: str) -> None:
        if self._told:
            return
        self._told = True
        text = f"requests to KMS leave no record in {self._settings.audit_dir}: {why}"
        if self._notes is None:
            _log.warning("%s", text)
        elif text not in self._notes:
            self._notes.append(text)


def failed(exchange: Exchange, error: EbscryptError) -> Exchange:
    """The exchange, ended by ``error``: KMS's code and text where it answered, else our error's name and message."""
    request_id = error.request_id if isinstance(error, KmsError) else None
    if isinstance(error, KmsError) and error.kms_code is not None:
        code, text = error.kms_code, error.kms_text
    else:
        code, text = type(error).__name__, error.message
    return replace(exchange, answer={}, request_id=request_id, error_code=code, error_text=text)


def _decoded(body: Any) -> dict[str, Any]:
    """A body of the JSON protocol as a mapping; an empty one for what is none."""
    if isinstance(body, bytes | bytearray):
        try:
            body = msgspec.json.decode(body or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {}
    return body if isinstance(body, dict) else {}
