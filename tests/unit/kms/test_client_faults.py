"""KmsClient against an endpoint that throttles, fails, hangs, resets and lies: the right error, in time, secretless."""

from __future__ import annotations

import base64
import logging
import time
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from ebscrypt import errors
from ebscrypt.kms.client import KmsClient
from ebscrypt.kms.retry import Retry
from ebscrypt.model import encryption_context
from tests.unit.kms.scripted import KEY_ARN, Behaviour, Scenario, ScriptedEndpoint, answers, refuses, resets

CONTEXT = encryption_context("vol-0123456789abcdef0")
BLOB = b"wrapped" * 20
PLAINTEXT = bytes(range(64))

CALLS: dict[str, Callable[[KmsClient], Any]] = {
    "DescribeKey": lambda kms: kms.describe_key(KEY_ARN),
    "GenerateDataKeyWithoutPlaintext": lambda kms: kms.generate_data_key_without_plaintext(KEY_ARN, CONTEXT),
    "Decrypt": lambda kms: kms.decrypt(BLOB, CONTEXT, expected_key_arn=KEY_ARN),
    "Encrypt": lambda kms: kms.encrypt(KEY_ARN, PLAINTEXT, CONTEXT),
    "ReEncrypt": lambda kms: kms.re_encrypt(BLOB, CONTEXT, KEY_ARN, CONTEXT),
}
_GOOD: dict[str, dict[str, Any]] = {
    "DescribeKey": {
        "KeyMetadata": {
            "KeyId": KEY_ARN.rpartition("/")[2],
            "Arn": KEY_ARN,
            "KeyState": "Enabled",
            "KeyUsage": "ENCRYPT_DECRYPT",
            "KeySpec": "SYMMETRIC_DEFAULT",
        }
    },
    "Decrypt": {"KeyId": KEY_ARN, "Plaintext": base64.b64encode(PLAINTEXT).decode()},
}
GOOD: dict[str, dict[str, Any]] = _GOOD | {
    operation: {"KeyId": KEY_ARN, "CiphertextBlob": base64.b64encode(BLOB).decode()}
    for operation in ("GenerateDataKeyWithoutPlaintext", "Encrypt", "ReEncrypt")
}
each_call = pytest.mark.parametrize("operation", list(CALLS))

RETRIED = [
    ("ThrottlingException", 400, errors.KmsThrottled),
    ("DependencyTimeoutException", 503, errors.KmsUnreachable),
    ("KMSInternalException", 500, errors.KmsUnreachable),
    ("KeyUnavailableException", 500, errors.KmsKeyUnusable),
]
FINAL = [
    ("DisabledException", errors.KmsKeyDisabled),
    ("KMSInvalidStateException", errors.KmsKeyInvalidState),
    ("NotFoundException", errors.KmsKeyNotFound),
    ("AccessDeniedException", errors.KmsAccessDenied),
    ("ExpiredTokenException", errors.KmsAccessDenied),
    ("InvalidCiphertextException", errors.KmsInvalidCiphertext),
    ("IncorrectKeyException", errors.KmsIncorrectKey),
    ("InvalidKeyUsageException", errors.KmsInvalidKeyUsage),
    ("ValidationException", errors.KmsInvalidRequest),
    ("LimitExceededException", errors.KmsInvalidRequest),
    ("SomethingNewException", errors.KmsError),
]


@each_call
@pytest.mark.parametrize(("code", "status", "kind"), RETRIED)
def test_what_kms_says_to_retry_is_retried(
    operation: str, code: str, status: int, kind: type[errors.KmsError], scenario: Scenario
) -> None:
    """What KMS calls retryable is tried again after growing pauses; the error says how many attempts there were."""
    kms = scenario.client(refuses(code, "try again", status), attempts=3)

    with pytest.raises(errors.KmsError) as caught:
        CALLS[operation](kms)

    assert type(caught.value) is kind
    assert caught.value.kms_code == code
    assert "after 3 attempts" in caught.value.message
    assert scenario.endpoint.targets == [f"TrentService.{operation}"] * 3
    assert scenario.clock.slept == [0.1, 0.2]


@each_call
def test_success_after_throttling(operation: str, scenario: Scenario) -> None:
    """A call that KMS throttles twice and then answers succeeds."""
    throttled = refuses("ThrottlingException")

    CALLS[operation](scenario.client(throttled, throttled, answers(200, GOOD[operation]), attempts=3))

    assert len(scenario.endpoint.targets) == 3


@each_call
@pytest.mark.parametrize(("code", "kind"), FINAL)
def test_what_cannot_succeed_is_not_retried(
    operation: str, code: str, kind: type[errors.KmsError], scenario: Scenario
) -> None:
    """Refusals are final after one attempt, and become one type each: by error code, whatever the HTTP status."""
    kms = scenario.client(refuses(code, f"{KEY_ARN} is so.", status=409))

    with pytest.raises(errors.KmsError) as caught:
        CALLS[operation](kms)

    assert type(caught.value) is kind
    assert caught.value.request_id == "11111111-2222-3333-4444-555555555555"
    assert KEY_ARN in caught.value.message
    assert caught.value.hint
    assert (len(scenario.endpoint.targets), scenario.clock.slept) == (1, [])


@each_call
@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_5xx_without_any_code(operation: str, status: int, scenario: Scenario) -> None:
    """A proxy's error page counts as an endpoint that failed: retried, then unreachable; its text is not quoted."""
    kms = scenario.client(answers(status, b"<html>secret of the proxy</html>"))

    with pytest.raises(errors.KmsUnreachable) as caught:
        CALLS[operation](kms)

    assert "secret" not in str(caught.value)
    assert len(scenario.endpoint.targets) == 3


@each_call
@pytest.mark.parametrize(
    "broken", [resets, answers(200, b'{"KeyId": "arn', length=1000)], ids=["reset", "cut off by a closed connection"]
)
def test_broken_connections(operation: str, broken: Behaviour, scenario: Scenario) -> None:
    """A reset connection and an answer that breaks off are tried again, and then are `KmsUnreachable`."""
    kms = scenario.client(broken)

    with pytest.raises(errors.KmsUnreachable, match="after 3 attempts"):
        CALLS[operation](kms)

    assert len(scenario.endpoint.targets) == 3


def test_nobody_listens(scenario: Scenario) -> None:
    """A refused connection is `KmsUnreachable`, and the message names the endpoint."""
    kms = scenario.client(url="http://127.0.0.1:9", attempts=2)

    with pytest.raises(errors.KmsUnreachable, match=r"127\.0\.0\.1:9") as caught:
        kms.describe_key(KEY_ARN)

    assert "after 2 attempts" in caught.value.message


def hangs(endpoint: ScriptedEndpoint) -> Behaviour:
    """Accept the request and say nothing."""
    return endpoint.hang


def trickles(endpoint: ScriptedEndpoint) -> Behaviour:
    """Send a byte now and then for ever, so that no read ever times out."""

    def behave(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        while not endpoint.released.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    return behave


@each_call
@pytest.mark.parametrize("slow", [hangs, trickles])
def test_deadline_is_kept(operation: str, slow: Callable[[ScriptedEndpoint], Behaviour], scenario: Scenario) -> None:
    """However the endpoint stalls, the call ends at the deadline, and each attempt at its timeout."""
    scenario.endpoint.script = [answers(200, GOOD[operation]), slow(scenario.endpoint)]
    kms = KmsClient(scenario.at(scenario.endpoint.url), retry=Retry(attempts=1, timeout=30, deadline=30))
    CALLS[operation](kms)  # the client is made by the first call, which takes its time on a busy machine
    kms._retry = Retry(attempts=20, timeout=0.3, deadline=0.9)
    started = time.monotonic()

    with pytest.raises(errors.KmsUnreachable):
        CALLS[operation](kms)

    assert 0.5 < time.monotonic() - started < 0.9 + 1.0
    assert 1 + 2 <= len(scenario.endpoint.targets) <= 1 + 4


def test_no_pause_passes_the_deadline(scenario: Scenario) -> None:
    """A pause that would end after the deadline is not taken: the last error comes back at once."""
    kms = scenario.client(refuses("ThrottlingException"), deadline=1.0, attempts=20)

    with pytest.raises(errors.KmsThrottled, match="after 4 attempts"):
        kms.describe_key(KEY_ARN)

    assert scenario.clock.slept == [0.1, 0.2, 0.4]


BAD_ANSWERS = [
    ("Decrypt", {"KeyId": KEY_ARN, "Plaintext": base64.b64encode(bytes(63)).decode()}, "Plaintext is not 64 bytes"),
    ("Decrypt", {"KeyId": KEY_ARN, "Plaintext": base64.b64encode(bytes(65)).decode()}, "Plaintext is not 64 bytes"),
    ("Decrypt", {"KeyId": KEY_ARN}, "Plaintext is not 64 bytes"),
    ("Decrypt", GOOD["Decrypt"] | {"KeyId": "1234abcd-12ab-34cd-56ef-1234567890ab"}, "KeyId is not a key ARN"),
    ("Decrypt", GOOD["Decrypt"] | {"Plaintext": "not base64!"}, "cannot be read"),
    ("Decrypt", b'{"KeyId": "arn:aws', "not a JSON object"),
    ("Decrypt", b"[1, 2, 3]", "not a JSON object"),
    ("Decrypt", b"\xff\xfe\x00", "not a JSON object"),
    ("DescribeKey", {"KeyMetadata": {"KeyId": "x"}}, "KeyMetadata.Arn is not a key ARN"),
    ("DescribeKey", {"KeyMetadata": {"Arn": KEY_ARN, "KeyState": "Enabled"}}, "has no KeyUsage and no KeySpec"),
    ("DescribeKey", {}, "KeyMetadata.Arn is not a key ARN"),
] + [
    case
    for operation in ("GenerateDataKeyWithoutPlaintext", "Encrypt", "ReEncrypt")
    for case in (
        (operation, GOOD[operation] | {"CiphertextBlob": ""}, "CiphertextBlob is not 1 to 6144 bytes"),
        (operation, GOOD[operation] | {"CiphertextBlob": base64.b64encode(bytes(6145)).decode()}, "CiphertextBlob"),
        (operation, GOOD[operation] | {"KeyId": "alias/x"}, "KeyId is not a key ARN"),
        (operation, b'{"CiphertextBlob": "AAAA", "KeyId"', "not a JSON object"),
    )
]


@pytest.mark.parametrize(("operation", "body", "text"), BAD_ANSWERS)
def test_answers_that_cannot_be_right(operation: str, body: Any, text: str, scenario: Scenario) -> None:
    """Truncated JSON, wrong lengths and names that are not ARNs are `KmsBadAnswer`, once, naming field and rule."""
    kms = scenario.client(answers(200, body))

    with pytest.raises(errors.KmsBadAnswer, match=text):
        CALLS[operation](kms)

    assert len(scenario.endpoint.targets) == 1


def test_key_of_another_kms_key(scenario: Scenario) -> None:
    """An answer that names another KMS key than the header does is `KmsIncorrectKey`."""
    other = KEY_ARN.replace("1234abcd", "ffffffff")
    kms = scenario.client(answers(200, GOOD["Decrypt"] | {"KeyId": other}))

    with pytest.raises(errors.KmsIncorrectKey, match=other):
        CALLS["Decrypt"](kms)


def test_decrypt_sends_what_ebs_sends(scenario: Scenario) -> None:
    """Decrypt carries blob, context and SYMMETRIC_DEFAULT, and no KeyId, as EBS's does."""
    CALLS["Decrypt"](scenario.client(answers(200, GOOD["Decrypt"])))

    assert scenario.endpoint.bodies == [
        {
            "CiphertextBlob": base64.b64encode(BLOB).decode(),
            "EncryptionContext": CONTEXT,
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }
    ]


def test_creation_sends_what_ebs_sends(scenario: Scenario) -> None:
    """A new data key is asked for with NumberOfBytes 64 and the volume's context."""
    CALLS["GenerateDataKeyWithoutPlaintext"](scenario.client(answers(200, GOOD["GenerateDataKeyWithoutPlaintext"])))

    assert scenario.endpoint.bodies == [{"KeyId": KEY_ARN, "NumberOfBytes": 64, "EncryptionContext": CONTEXT}]


@pytest.mark.parametrize(
    "body",
    [
        GOOD["Decrypt"],
        GOOD["Decrypt"] | {"KeyId": "nonsense"},
        base64.b64encode(PLAINTEXT) + b"\xff",
        {"KeyId": KEY_ARN, "Plaintext": base64.b64encode(PLAINTEXT * 2).decode()},
    ],
    ids=["good", "wrong key id", "not JSON", "too long"],
)
def test_no_secret_is_logged_or_raised(
    body: Any, scenario: Scenario, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """With every logger at DEBUG, neither log, output, error nor traceback holds plaintext, blob or context value."""
    caplog.set_level(logging.DEBUG)
    kms = scenario.client(answers(200, body))
    raised: errors.EbscryptError | None = None
    said = ""

    try:
        said = repr(kms.decrypt(BLOB, CONTEXT, expected_key_arn=KEY_ARN))
    except errors.EbscryptError as error:
        raised = error
        said = "".join(traceback.format_exception(error)) + repr(error.record())

    assert raised is None or raised.__context__ is None
    written = said + caplog.text + "".join(capfd.readouterr())
    for secret in (PLAINTEXT, BLOB, CONTEXT["aws:ebs:id"].encode()):
        for form in (base64.b64encode(secret).decode()[:-4], secret.hex(), repr(secret)[2:-1], str(list(secret))[1:-1]):
            assert form not in written
