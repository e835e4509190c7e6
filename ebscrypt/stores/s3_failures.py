"""What boto3 raises for S3, turned into the errors of stores: one table, one place.

S3 has real HTTP statuses, but its copies differ in them; the code in the body decides where there is one, and the
status where there is none (an answer to HEAD has no body).
"""

from __future__ import annotations

from typing import Any, Final

from botocore import exceptions as boto

from ebscrypt import errors

_LONGEST_TEXT: Final = 300
_KINDS: Final[dict[type[errors.StoreError], tuple[str, ...]]] = {
    errors.StoreSlowDown: (
        "SlowDown",
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "TooManyRequests",
        "ConditionalRequestConflict",
        "OperationAborted",
    ),
    errors.StoreUnreachable: (
        "InternalError",
        "ServiceUnavailable",
        "RequestTimeout",
        "RequestTimeTooSkewed",
        "IncompleteBody",
    ),
    errors.StoreAccessDenied: (
        "AccessDenied",
        "AllAccessDisabled",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "XAdminUserNotFound",
        "Forbidden",
    ),
    errors.StoreNotFound: ("NoSuchBucket",),
    errors.StoreFull: ("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage"),
}
_KIND_OF: Final = {code: kind for kind, codes in _KINDS.items() for code in codes}
_OF_STATUS: Final[dict[int, type[errors.StoreError]]] = {
    403: errors.StoreAccessDenied,
    401: errors.StoreAccessDenied,
    408: errors.StoreUnreachable,
    429: errors.StoreSlowDown,
    500: errors.StoreUnreachable,
    502: errors.StoreUnreachable,
    503: errors.StoreSlowDown,
    504: errors.StoreUnreachable,
    507: errors.StoreFull,
}
_HINTS: Final[dict[type[errors.StoreError], str]] = {
    errors.StoreSlowDown: "wait, then try again, with fewer stores.workers",
    errors.StoreUnreachable: "check network, proxy, clock and endpoint; stores.timeout and stores.attempts bound it",
    errors.StoreAccessDenied: (
        "allow s3:GetObject, s3:PutObject, s3:DeleteObject and s3:ListBucket to the credentials in use: "
        "`aws sts get-caller-identity`"
    ),
    errors.StoreNotFound: "make the bucket, or correct stores.urls; look also at the Region",
    errors.StoreFull: "make room or raise the quota, then try again: what was stored is kept",
}
_NO_CREDENTIALS: Final = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.LoginError,
    boto.MetadataRetrievalError,
)
_NETWORK: Final = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, OSError)


def code_of(raised: Exception) -> str:
    """S3's code of a refusal, or the HTTP status as text where there is no code; empty for anything else."""
    if not isinstance(raised, boto.ClientError):
        return ""
    return str(raised.response.get("Error", {}).get("Code") or _status(raised.response))


def translate(raised: Exception, operation: str, url: str) -> errors.EbscryptError:
    """The one error of ebscrypt for what a request raised."""
    if isinstance(raised, errors.EbscryptError):
        return raised
    if isinstance(raised, boto.ClientError):
        return _refused(raised, operation, url)
    if isinstance(raised, boto.SSLError):
        text = f"the store {url} cannot be reached: its TLS certificate is not trusted"
        return errors.StoreAccessDenied(text, hint="AWS_CA_BUNDLE names the file with your authority's certificate")
    if isinstance(raised, _NETWORK):
        text = f"the store {url} cannot be reached for {operation}: {_printable(str(raised))}"
        return errors.StoreUnreachable(text, hint=_HINTS[errors.StoreUnreachable])
    return _not_sent(raised, operation, url)


def _not_sent(raised: Exception, operation: str, url: str) -> errors.EbscryptError:
    """The failures on this side of the network, and answers that are none."""
    if isinstance(raised, _NO_CREDENTIALS):
        text = f"there are no usable credentials for the store {url}: {_printable(str(raised))}"
        return errors.StoreAccessDenied(text, hint="give them by environment, profile=… in the URL, or instance role")
    if isinstance(raised, boto.BotoCoreError):
        text = f"the store {url} cannot be used: {_printable(str(raised))}"
        return errors.ConfigError(text, hint="see `aws configure`")
    return errors.StoreError(f"the answer of the store {url} to {operation} cannot be read: {type(raised).__name__}")


def _refused(raised: boto.ClientError, operation: str, url: str) -> errors.StoreError:
    code, status = code_of(raised), _status(raised.response)
    kind = _KIND_OF.get(code) or _OF_STATUS.get(status) or errors.StoreError
    why = _printable(str(raised.response.get("Error", {}).get("Message") or code)).rstrip(".")
    return kind(f"the store {url} refused {operation}: {why}", hint=_HINTS.get(kind))


def _status(response: Any) -> int:
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def _printable(text: str) -> str:
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]}…"
