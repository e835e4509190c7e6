"""Every exception of botocore becomes one error of ebscrypt."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from botocore import exceptions as boto

from ebscrypt import errors
from ebscrypt.kms.failures import RETRIED_CODES, Call, translate

ASKED = Call(operation="Decrypt", key="alias/x", endpoint="aws", region="eu-central-1")


def made(kind: type[Exception]) -> Exception:
    """An exception of that kind, with whatever its message template wants."""
    if issubclass(kind, boto.ClientError):
        response: Any = {"Error": {"Code": "Whatever", "Message": "m"}, "ResponseMetadata": {}}
        return kind(response, "Decrypt")
    if kind is boto.WaiterError:
        return boto.WaiterError(name="n", reason="r", last_response={})
    names = {part.split("}")[0].split(":")[0] for part in getattr(kind, "fmt", "").split("{")[1:]}
    arguments: dict[str, Any] = {name: f"<{name}>" for name in names} | {"error": OSError("x")}
    return kind(**arguments)


def all_kinds() -> list[type[Exception]]:
    """Every exception that a call of botocore may raise."""
    return [
        kind
        for _, kind in inspect.getmembers(boto, inspect.isclass)
        if issubclass(kind, (boto.BotoCoreError, boto.ClientError))
    ]


@pytest.mark.parametrize("kind", all_kinds(), ids=lambda kind: kind.__name__)
def test_every_kind_has_its_error(kind: type[Exception]) -> None:
    """Whatever botocore raises is an error of ours, with a lower-case message and a hint."""
    failure = translate(made(kind), ASKED)

    assert isinstance(failure.error, errors.EbscryptError)
    assert failure.error.hint
    assert failure.error.message.startswith(("KMS", "the ", "there ", "Decrypt "))


@pytest.mark.parametrize(
    ("raised", "kind", "retry"),
    [
        (boto.EndpointConnectionError(endpoint_url="https://x"), errors.KmsUnreachable, True),
        (boto.ConnectTimeoutError(endpoint_url="https://x"), errors.KmsUnreachable, True),
        (boto.ReadTimeoutError(endpoint_url="https://x"), errors.KmsUnreachable, True),
        (boto.ConnectionClosedError(endpoint_url="https://x"), errors.KmsUnreachable, True),
        (boto.ProxyConnectionError(proxy_url="https://x"), errors.KmsUnreachable, True),
        (boto.SSLError(endpoint_url="https://x", error=OSError()), errors.KmsUnreachable, False),
        (TimeoutError(), errors.KmsUnreachable, True),
        (ConnectionResetError(), errors.KmsUnreachable, True),
        (boto.NoCredentialsError(), errors.KmsAccessDenied, False),
        (boto.PartialCredentialsError(provider="p", cred_var="v"), errors.KmsAccessDenied, False),
        (boto.ProfileNotFound(profile="p"), errors.ConfigError, False),
        (boto.NoRegionError(), errors.ConfigError, False),
        (ValueError("holds an answer"), errors.KmsBadAnswer, False),
        (errors.OutOfSpace("full"), errors.OutOfSpace, False),
    ],
)
def test_kinds_and_retries(raised: Exception, kind: type[errors.EbscryptError], *, retry: bool) -> None:
    """Connections may be tried again; certificates, credentials, settings and bad answers may not."""
    failure = translate(raised, ASKED)

    assert type(failure.error) is kind
    assert failure.retry is retry
    assert "holds an answer" not in failure.error.message


def refused(code: str, message: str, operation: str = "Decrypt", endpoint: str = "aws") -> errors.EbscryptError:
    """The error for a refusal."""
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": 400, "RequestId": "r"},
    }
    key = "arn:aws:kms:eu-central-1:111122223333:key/k"
    asked = Call(operation=operation, key=key, endpoint=endpoint, region="eu-central-1")
    return translate(boto.ClientError(response, operation), asked).error


@pytest.mark.parametrize(
    ("code", "message", "cures"),
    [
        ("DisabledException", "K is disabled.", ["enable-key"]),
        ("KMSInvalidStateException", "K is pending deletion.", ["cancel-key-deletion", "enable-key", "lost"]),
        ("DisabledException", "K is pending deletion.", ["cancel-key-deletion", "enable-key"]),
        ("KMSInvalidStateException", "K is pending import.", ["import", "very same"]),
        ("KMSInvalidStateException", "K is unavailable.", ["custom key store"]),
        ("KMSInvalidStateException", "K is creating.", ["wait", "describe-key"]),
        ("NotFoundException", "Key 'K' does not exist", ["eu-central-1", "list-keys"]),
        ("AccessDeniedException", "User: U is not authorized to perform: kms:Decrypt", ["kms:Decrypt", "policy"]),
        ("ExpiredTokenException", "The security token is expired", ["credentials"]),
        ("ThrottlingException", "Rate exceeded", ["wait"]),
    ],
)
def test_every_cause_has_its_cure(code: str, message: str, cures: list[str]) -> None:
    """The hint says what to do about exactly this cause."""
    error = refused(code, message)

    assert all(cure in str(error.hint) for cure in cures)


def test_commands_fit_the_kms() -> None:
    """Hints name `aws kms` for AWS and `ebscrypt kms` for the embedded KMS."""
    assert "`aws kms enable-key" in str(refused("DisabledException", "K is disabled.").hint)
    embedded = refused("DisabledException", "K is disabled.", endpoint="embedded")
    assert "`ebscrypt kms enable-key" in str(embedded.hint)


def test_re_encrypt_names_both_permissions() -> None:
    """There is no permission kms:ReEncrypt: the hint names the two that there are."""
    hint = str(refused("AccessDeniedException", "denied", operation="ReEncrypt").hint)

    assert "kms:ReEncryptFrom" in hint
    assert "kms:ReEncryptTo" in hint


def test_long_and_unprintable_texts_are_tamed() -> None:
    """A text of KMS's is quoted shortened, in one line, without control characters."""
    error = refused("AccessDeniedException", "no\n\x1b[31m" + "x" * 5000)

    assert error.message.isprintable()
    assert len(error.message) < 700


def test_quotas_are_not_throttling() -> None:
    """LimitExceededException is a quota: never retried."""
    assert "LimitExceededException" not in RETRIED_CODES
    assert type(refused("LimitExceededException", "too many")) is errors.KmsInvalidRequest
