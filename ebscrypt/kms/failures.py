"""What botocore raises, turned into the errors of ebscrypt: one table, one place.

The error code (KMS's ``__type``) decides, never the HTTP status: over the wire nearly everything is 400, whatever the
models say (facts §5.3). The status counts only where a proxy or a broken endpoint sent no code at all.

KMS's own text is quoted, shortened and made printable, since it names key, state, principal and missing action.
Botocore's text about wrong parameters quotes their values, so only the parameters' names are taken from it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from botocore import exceptions as boto

from ebscrypt import errors
from ebscrypt.kms import hints

_LONGEST_TEXT: Final = 400
_PARAMETERS: Final = re.compile(r'(?:parameter in input: "|for parameter )([^",\s]{1,80})')

RETRIED_CODES: Final = frozenset(
    {
        "ThrottlingException",
        "Throttling",
        "RequestLimitExceeded",
        "TooManyRequestsException",
        "DependencyTimeoutException",
        "KMSInternalException",
        "KeyUnavailableException",
        "InternalFailure",
        "InternalServerError",
        "InternalServerException",
        "InternalServiceErrorException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "RequestTimeout",
        "RequestTimeoutException",
    }
)
"""The codes of facts §5.3 that say "try again", and AWS's names common to all services for the same things.
LimitExceededException is not among them: it is a quota."""

_KINDS: Final[dict[type[errors.KmsError], tuple[str, ...]]] = {
    errors.KmsKeyDisabled: ("DisabledException",),
    errors.KmsKeyInvalidState: ("KMSInvalidStateException",),
    errors.KmsKeyUnusable: ("KeyUnavailableException",),
    errors.KmsKeyNotFound: ("NotFoundException",),
    errors.KmsInvalidKeyUsage: ("InvalidKeyUsageException",),
    errors.KmsInvalidCiphertext: ("InvalidCiphertextException",),
    errors.KmsIncorrectKey: ("IncorrectKeyException",),
    errors.KmsThrottled: ("ThrottlingException", "Throttling", "RequestLimitExceeded", "TooManyRequestsException"),
    errors.KmsUnreachable: (
        "DependencyTimeoutException",
        "KMSInternalException",
        "InternalFailure",
        "InternalServerError",
        "InternalServerException",
        "InternalServiceErrorException",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "RequestTimeout",
        "RequestTimeoutException",
    ),
    errors.KmsAccessDenied: (
        "AccessDeniedException",
        "AccessDenied",
        "NotAuthorizedException",
        "NotAuthorized",
        "UnauthorizedOperation",
        "OptInRequired",
        "UnrecognizedClientException",
        "InvalidClientTokenId",
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidSignatureException",
        "SignatureDoesNotMatch",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
    ),
    errors.KmsInvalidRequest: (
        "ValidationException",
        "ValidationError",
        "SerializationException",
        "InvalidArnException",
        "InvalidAliasNameException",
        "InvalidMarkerException",
        "InvalidGrantTokenException",
        "InvalidGrantIdException",
        "AlreadyExistsException",
        "LimitExceededException",
        "MalformedPolicyDocumentException",
        "TagException",
        "UnsupportedOperationException",
        "UnknownOperationException",
        "DryRunOperationException",
    ),
}
_KIND_OF: Final = {code: kind for kind, codes in _KINDS.items() for code in codes}

_NO_CREDENTIALS: Final = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.NoAuthTokenError,
    boto.TokenRetrievalError,
    boto.SSOError,
    boto.LoginError,
    boto.MetadataRetrievalError,
    boto.RefreshWithMFAUnsupportedError,
    boto.UnknownCredentialError,
    boto.MissingDependencyException,
)
_MISCONFIGURED: Final = (
    boto.ProfileNotFound,
    boto.ConfigParseError,
    boto.ConfigNotFound,
    boto.BaseEndpointResolverError,
    boto.EndpointProviderError,
    boto.InvalidRegionError,
    boto.InvalidConfigError,
    boto.InvalidRetryConfigurationError,
    boto.InvalidDefaultsMode,
    boto.InvalidProxiesConfigError,
    boto.InvalidEndpointConfigurationError,
    boto.InvalidIMDSEndpointError,
    boto.InvalidIMDSEndpointModeError,
)
_CONNECTION_TEXTS: Final[dict[type[Exception], str]] = {
    boto.SSLError: "the TLS certificate is not trusted",
    boto.ReadTimeoutError: "it did not answer in time",
    boto.ConnectTimeoutError: "it did not answer in time",
    TimeoutError: "it did not answer in time",
    boto.ConnectionClosedError: "the connection was closed before a valid answer",
    boto.ResponseStreamingError: "the answer broke off",
    boto.IncompleteReadError: "the answer broke off",
    boto.ProxyConnectionError: "the proxy cannot be reached",
}


class NotJson(Exception):
    """An answer of 200 that is no JSON object, which botocore takes for an empty one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What was asked, for the texts: operation, the key concerned if known, and which KMS (`kms.endpoint`).

    ``granted`` says that a grant token went along; ``service`` is not KMS where STS is asked who the caller is.
    """

    operation: str
    key: str | None
    endpoint: str
    region: str
    granted: bool = False
    service: str = "KMS"

    @property
    def subject(self) -> str:
        """The operation, and the key that it concerns."""
        return f"{self.operation} with key {self.key}" if self.key else self.operation


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt: the error to raise, whether another may succeed, and whether a request left this process."""

    error: errors.EbscryptError
    retry: bool = False
    sent: bool = True


def translate(raised: Exception, call: Call) -> Failure:
    """The one error of ebscrypt for what an attempt raised. Never quotes a parameter's value."""
    if isinstance(raised, boto.ClientError):
        return _refused(raised.response, call)
    if isinstance(raised, (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, OSError)):
        return Failure(_unreachable(raised, call), retry=not isinstance(raised, boto.SSLError))
    if (error := _not_sent(raised, call)) is not None:
        return Failure(error, sent=False)
    return Failure(_unread(raised, call))


def _not_sent(raised: Exception, call: Call) -> errors.EbscryptError | None:
    """The failures on this side of the network, which no second attempt can mend; None where it is none of them."""
    if isinstance(raised, errors.EbscryptError):
        return raised
    if isinstance(raised, boto.ParamValidationError):
        return _bad_parameters(raised, call)
    if isinstance(raised, _NO_CREDENTIALS):
        text = f"there are no usable AWS credentials for {call.subject}: {_printable(str(raised))}"
        return errors.KmsAccessDenied(text, hint=hints.CREDENTIALS, key_arn=_arn(call.key))
    if isinstance(raised, _MISCONFIGURED):
        text = f"the AWS settings are not usable: {_printable(str(raised))}"
        return errors.ConfigError(text, hint=hints.AWS_SETTINGS)
    return None


def _unread(raised: Exception, call: Call) -> errors.EbscryptError:
    """Whatever is left came out of the parsing of an answer, and its text or arguments may hold that answer."""
    why = "it is not a JSON object" if isinstance(raised, NotJson) else type(raised).__name__
    text = f"the answer to {call.subject} cannot be read: {why}"
    return errors.KmsBadAnswer(text, hint=hints.BAD_ANSWER, key_arn=_arn(call.key))


def _refused(response: Any, call: Call) -> Failure:
    """KMS, or something in front of it, answered with an error."""
    fields, metadata = response.get("Error", {}), response.get("ResponseMetadata", {})
    code = str(fields.get("Code") or "")
    # Without a code of AWS's kind, botocore gives the status as code and the raw body as text: that is not KMS talking.
    answered = code.isalpha()
    text = _printable(str(fields.get("Message") or "")) if answered else ""
    known = _KIND_OF.get(code)
    retry = code in RETRIED_CODES
    if known is None and int(metadata.get("HTTPStatusCode") or 0) >= 500:
        # No code of AWS's at all: a proxy's page, or a server that failed before it could say why.
        known, retry, text = errors.KmsUnreachable, True, "the endpoint failed"
    elif not answered:
        return Failure(_not_kms(metadata, call))
    kind = known or errors.KmsError
    where = f" with key {call.key}" if call.key and call.key not in text else ""
    error = kind(
        f"{call.service} refused {call.operation}{where}: {(text or _explained(code)).rstrip('.')}",
        hint=hints.for_code(code, kind, text, call),
        kms_code=code if answered else None,
        kms_text=text or None,
        key_arn=_arn(call.key),
        request_id=metadata.get("RequestId"),
    )
    return Failure(error, retry)


def _not_kms(metadata: Any, call: Call) -> errors.EbscryptError:
    """A redirect, a login page, a server that is something else."""
    text = f"the answer to {call.subject} cannot be read: status {metadata.get('HTTPStatusCode')} without KMS's error"
    return errors.KmsBadAnswer(text, hint=hints.BAD_ANSWER, key_arn=_arn(call.key))


def _explained(code: str) -> str:
    """Words for the errors that KMS sends without any (recorded from AWS: InvalidCiphertextException has none)."""
    if code == "InvalidCiphertextException":
        return "the wrapped key does not open: wrong encryption context, corrupted or tampered with, or foreign"
    return f"it gave no reason but {code}" if code else "it gave no reason"


def _bad_parameters(raised: boto.ParamValidationError, call: Call) -> errors.KmsInvalidRequest:
    names = sorted(set(_PARAMETERS.findall(str(raised))))
    shown = ", ".join(names) or "a parameter"
    return errors.KmsInvalidRequest(
        f"{call.operation} cannot be sent: {shown} is missing, unknown, too short or of the wrong type",
        hint=f"`aws kms {hints.dashed(call.operation)} help` lists the parameters",
        kms_code="ParamValidation",
        key_arn=_arn(call.key),
    )


def _unreachable(raised: Exception, call: Call) -> errors.KmsUnreachable:
    if isinstance(raised, boto.EndpointConnectionError):
        why = _printable(str(raised)).rstrip(".").replace('"', "")
    else:
        known = (text for kind, text in _CONNECTION_TEXTS.items() if isinstance(raised, kind))
        why = next(known, f"the connection failed ({type(raised).__name__})")
    return errors.KmsUnreachable(
        f"{call.service} cannot be reached for {call.subject}: {why}",
        hint=hints.unreachable(call.endpoint),
        key_arn=_arn(call.key),
    )


def _printable(text: str) -> str:
    line = "".join(sign if sign.isprintable() else " " for sign in text)
    return line if len(line) <= _LONGEST_TEXT else f"{line[:_LONGEST_TEXT]}…"


def _arn(key: str | None) -> str | None:
    return key if key and key.startswith("arn:") else None
