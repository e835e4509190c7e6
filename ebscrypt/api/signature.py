"""Who signed a request: AWS's Signature Version 4, from the server's side. Source: AWS's "Signing API requests".

A request shows an access key id and an HMAC over its method, path, query string, headers and body, made with a key that
is derived of the secret, the day, the Region and the service. What is checked beyond the HMAC itself:

- the clock: 15 minutes either way. A request that was overheard can be sent again until then, as to AWS; that is what
  TLS is for. A signature in a query string may be good for up to an hour;
- the host, and every ``x-amz-`` header, is signed, in either form: ``x-amz-target`` says what is done;
- the path is as it is signed, without ``.``, ``..`` and doubled slashes: AWS signs what it makes of such a path, and
  what is served here is the path itself;
- a ``+`` in the query string is a space in the signature as it is for whoever reads it;
- the Region is this server's, the service one that it has;
- a session token is refused: keys here are long-lived, and a token would be ignored otherwise.
"""

from __future__ import annotations

import hashlib
import hmac
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import quote, unquote, unquote_to_bytes

from ebscrypt.api.errors import ApiError
from ebscrypt.api.protocol.http import HttpRequest

ALGORITHM: Final = "AWS4-HMAC-SHA256"
CLOCK_SKEW: Final = timedelta(minutes=15)
LONGEST_QUERY_VALIDITY: Final = 3600
"""Seconds; what botocore asks for a presigned URL unless told otherwise. AWS allows a week."""
UNSIGNED: Final = "UNSIGNED-PAYLOAD"

_CREDENTIAL: Final = re.compile(r"([\w-]{1,128})/(\d{8})/([a-z0-9-]{1,32})/([a-z0-9-]{1,32})/aws4_request", re.ASCII)
_SIGNATURE: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_TIME: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z", re.ASCII)
_HEADER_NAMES: Final = re.compile(r"[a-z0-9-]+(;[a-z0-9-]+)*", re.ASCII)
_NO_SECRET: Final = "an access key id that there is none of is tried all the same"  # noqa: S105 - to spend the time


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a request says of its signature, not yet checked. ``valid`` is how long it is good from ``when`` on."""

    access_key_id: str
    day: str
    region: str
    service: str
    signed_headers: tuple[str, ...]
    signature: str
    when: datetime
    valid: timedelta
    in_query: bool

    @property
    def scope(self) -> str:
        return f"{self.day}/{self.region}/{self.service}/aws4_request"


def read(request: HttpRequest) -> Signed:
    """What the request says of its signature, in a header or in the query string. Raises `ApiError`."""
    in_query = any(pair.startswith(("X-Amz-Algorithm=", "X-Amz-Signature=")) for pair in request.query.split("&"))
    if "authorization" in request.headers:
        if in_query:
            raise _incomplete("The request is signed twice, in a header and in its query string.")
        return _from_header(request)
    if in_query:
        return _from_query(request)
    raise ApiError("MissingAuthenticationToken", "Request is missing Authentication Token", status=403)


def check(request: HttpRequest, signed: Signed, secret: str | None, now: datetime, *, may_be_unsigned: bool) -> None:
    """Raise `ApiError` unless ``secret`` made this signature, of this request, not long before ``now``.

    ``secret`` is None for an access key id that nobody has; that takes as long as a wrong signature.
    ``may_be_unsigned`` allows a body that the signature says not to cover.
    """
    if "x-amz-security-token" in request.headers or "x-amz-security-token=" in request.query.lower():
        raise ApiError("InvalidClientTokenId", "Session tokens are not accepted by this endpoint.", status=403)
    if request.path != _normal_path(request.path):
        raise _does_not_match("The path of the request has empty parts, '.' or '..'.")
    payload = _payload(request, signed, may_be_unsigned=may_be_unsigned)
    expected = signature(request, signed, secret or _NO_SECRET, payload)
    same = hmac.compare_digest(expected, signed.signature)
    if secret is None:
        raise ApiError("InvalidClientTokenId", "The security token included in the request is invalid.", status=403)
    if not same:
        raise _does_not_match(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method."
        )
    # After the signature, so that the clock of whoever has no key is no business of ours.
    if signed.when > now + CLOCK_SKEW:
        raise _does_not_match(f"Signature not yet current: the request's time is {signed.when:%Y%m%dT%H%M%SZ}.")
    if now > signed.when + signed.valid:
        raise ApiError("RequestExpired", "Request has expired.")


def signature(request: HttpRequest, signed: Signed, secret: str, payload: str) -> str:
    """The signature that ``secret`` makes of the request, in hexadecimal."""
    canonical = "\n".join(
        [
            request.method,
            quote(_normal_path(request.path), safe="/~"),
            _canonical_query(request.query),
            *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in signed.signed_headers),
            "",
            ";".join(signed.signed_headers),
            payload,
        ]
    )
    digest = hashlib.sha256(canonical.encode("utf-8", "surrogateescape")).hexdigest()
    to_sign = "\n".join([ALGORITHM, f"{signed.when:%Y%m%dT%H%M%SZ}", signed.scope, digest])
    key = f"AWS4{secret}".encode()
    for step in (signed.day, signed.region, signed.service, "aws4_request"):
        key = hmac.digest(key, step.encode(), "sha256")
    return hmac.digest(key, to_sign.encode(), "sha256").hex()


def _from_header(request: HttpRequest) -> Signed:
    kind, _, rest = request.headers["authorization"].partition(" ")
    told = [part.strip().partition("=")[::2] for part in rest.split(",")]
    parts = dict(told)
    if kind != ALGORITHM or len(told) != len(parts) or parts.keys() != {"Credential", "SignedHeaders", "Signature"}:
        raise _incomplete(f"Authorization is {ALGORITHM} with Credential, SignedHeaders and Signature.")
    return _signed(
        request,
        lambda name: parts[name],
        sent_at=request.headers.get("x-amz-date", ""),
        valid=CLOCK_SKEW,
        in_query=False,
    )


def _from_query(request: HttpRequest) -> Signed:
    pairs = [pair.partition("=")[::2] for pair in request.query.split("&")]
    found = {name: unquote(text) for name, text in pairs if name.startswith("X-Amz-")}
    if found.get("X-Amz-Algorithm") != ALGORITHM or len(found) != sum(name.startswith("X-Amz-") for name, _ in pairs):
        raise _incomplete(f"The signature in the query string is not one of {ALGORITHM}.")
    seconds = found.get("X-Amz-Expires", "")
    if not re.fullmatch(r"[1-9][0-9]{0,5}", seconds, re.ASCII) or int(seconds) > LONGEST_QUERY_VALIDITY:
        raise _incomplete(f"X-Amz-Expires is a number of seconds from 1 to {LONGEST_QUERY_VALIDITY} here.")
    return _signed(
        request,
        lambda name: found.get(f"X-Amz-{name}", ""),
        sent_at=found.get("X-Amz-Date", ""),
        valid=timedelta(seconds=int(seconds)),
        in_query=True,
    )


def _signed(
    request: HttpRequest, part: Callable[[str], str], *, sent_at: str, valid: timedelta, in_query: bool
) -> Signed:
    credential = _CREDENTIAL.fullmatch(part("Credential"))
    if credential is None:
        raise _incomplete("Credential is ACCESS_KEY_ID/YYYYMMDD/REGION/SERVICE/aws4_request.")
    access_key_id, day, region, service = credential.groups()
    if not _SIGNATURE.fullmatch(part("Signature")):
        raise _incomplete("Signature is 64 hexadecimal digits.")
    try:
        if not _TIME.fullmatch(sent_at):
            raise ValueError(sent_at)  # noqa: TRY301 - strptime takes other forms of the same time, too
        when = datetime.strptime(sent_at, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise _incomplete("X-Amz-Date is not a time like 20240102T030405Z.") from None
    if f"{when:%Y%m%d}" != day:
        raise _does_not_match("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date.")
    return Signed(
        access_key_id=access_key_id,
        day=day,
        region=region,
        service=service,
        signed_headers=_signed_headers(request, part("SignedHeaders")),
        signature=part("Signature"),
        when=when,
        valid=valid,
        in_query=in_query,
    )


def _signed_headers(request: HttpRequest, text: str) -> tuple[str, ...]:
    names = tuple(text.split(";"))
    if len(text) > 4096 or not _HEADER_NAMES.fullmatch(text) or list(names) != sorted(set(names)):
        raise _incomplete("SignedHeaders is a sorted list of header names in lower case.")
    must = {"host"} | {name for name in request.headers if name.startswith("x-amz-")}
    if forgotten := must - set(names):
        raise _does_not_match(f"{min(forgotten)[:80]!r} must be a 'SignedHeader' in the AWS Authorization.")
    return names


def _payload(request: HttpRequest, signed: Signed, *, may_be_unsigned: bool) -> str:
    """What the signature has in the place of the body: its digest, or a word that says that it is not covered."""
    digest = hashlib.sha256(request.body).hexdigest()
    shown = request.headers.get("x-amz-content-sha256") if not signed.in_query else None
    if shown == UNSIGNED and may_be_unsigned:
        return UNSIGNED
    if shown is not None and not hmac.compare_digest(shown.encode("utf-8", "surrogateescape"), digest.encode()):
        raise _does_not_match("x-amz-content-sha256 is not the digest of the body.")
    return digest


def _normal_path(path: str) -> str:
    """``path`` without ``.``, ``..`` and doubled slashes; one at the end stays."""
    normal = posixpath.normpath(f"/{path.lstrip('/')}")
    return f"{normal}/" if path.endswith("/") and normal != "/" else normal


def _canonical_query(query: str) -> str:
    pairs = (pair.partition("=")[::2] for pair in query.split("&") if pair)
    encoded = (tuple(quote(unquote_to_bytes(part.replace("+", " ")), safe="-_.~") for part in pair) for pair in pairs)
    return "&".join(f"{name}={text}" for name, text in sorted(encoded) if name != "X-Amz-Signature")


def _incomplete(message: str) -> ApiError:
    return ApiError("IncompleteSignature", message)


def _does_not_match(message: str) -> ApiError:
    return ApiError("SignatureDoesNotMatch", message, status=403)


_NAMES: Final[Mapping[str, Mapping[str, str]]] = {
    "ec2": {
        "MissingAuthenticationToken": "MissingParameter",
        "InvalidClientTokenId": "AuthFailure",
        "SignatureDoesNotMatch": "AuthFailure",
        "IncompleteSignature": "AuthFailure",
    },
    "ebs": {
        "InvalidClientTokenId": "UnrecognizedClientException",
        "SignatureDoesNotMatch": "InvalidSignatureException",
        "MissingAuthenticationToken": "MissingAuthenticationTokenException",
        "IncompleteSignature": "IncompleteSignatureException",
        "RequestExpired": "InvalidSignatureException",
    },
}
_NAMES_OF_JSON: Final = "ebs"


def named_for(service: str, error: ApiError) -> ApiError:
    """The error by the name that ``service`` has for it; EC2's status for a key that is not accepted is 401."""
    code = _NAMES.get(_NAMES_OF_JSON if service == "kms" else service, {}).get(error.code, error.code)
    status = 401 if code == "AuthFailure" else error.status
    return ApiError(code, error.message, status=status, reason=error.reason, fields=error.fields)
