"""KmsClient against an endpoint that throttles, fails, hangs, resets and lies: the right error, in time."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from typing import Any

import pytest

from ebscrypt import errors
from ebscrypt.kms.client import KmsClient
from ebscrypt.kms.retry import Retry
from tests.unit.kms.calls import CALLS, GOOD, GRANT_ID
from tests.unit.kms.scripted import KEY_ARN, Behaviour, Scenario, ScriptedEndpoint, answers, refuses, resets

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


FINAL_CELLS = [
    pytest.param(operation, code, kind, id=f"{operation}-{code}")
    for operation in CALLS
    for code, kind in FINAL
    if (operation, code) != ("RetireGrant", "NotFoundException")  # what is gone already is a success
]


@pytest.mark.parametrize(("operation", "code", "kind"), FINAL_CELLS)
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
    assert caught.value.key_arn == KEY_ARN
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
    kms._retry = Retry(attempts=20, timeout=0.2, deadline=0.5)
    started = time.monotonic()

    with pytest.raises(errors.KmsUnreachable, match=KEY_ARN):
        CALLS[operation](kms)

    assert 0.3 < time.monotonic() - started < 0.5 + 1.0
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
    ("CreateGrant", {}, "GrantId is not 1 to 128 characters"),
    ("CreateGrant", GOOD["CreateGrant"] | {"GrantId": "a" * 129}, "GrantId is not 1 to 128 characters"),
    ("CreateGrant", {"GrantId": GRANT_ID}, "GrantToken is not 1 to 8192 characters"),
    ("CreateGrant", GOOD["CreateGrant"] | {"GrantToken": "t" * 8193}, "GrantToken is not 1 to 8192 characters"),
    ("CreateGrant", b'{"GrantId": "0a', "not a JSON object"),
    ("RetireGrant", b"<html>", "not a JSON object"),
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

    with pytest.raises(errors.KmsBadAnswer, match=text) as caught:
        CALLS[operation](kms)

    assert KEY_ARN in caught.value.message
    assert caught.value.key_arn == KEY_ARN
    assert len(scenario.endpoint.targets) == 1


@each_call
@pytest.mark.parametrize("status", [301, 302, 307, 404])
def test_redirects_are_not_followed(operation: str, status: int, scenario: Scenario) -> None:
    """A redirect, as a login page in between sends it, is no answer of KMS, and nothing is sent to where it leads."""
    kms = scenario.client(
        answers(status, b"<html>log in first</html>", headers={"Location": f"{scenario.endpoint.url}/x"})
    )

    with pytest.raises(errors.KmsBadAnswer, match=f"status {status}") as caught:
        CALLS[operation](kms)

    assert caught.value.kms_code is None
    assert "log in" not in str(caught.value.record())
    assert len(scenario.endpoint.targets) == 1


@pytest.mark.parametrize("code", ["NotFoundException", "InvalidGrantIdException"])
def test_a_grant_that_is_gone_is_retired(code: str, scenario: Scenario) -> None:
    """Retiring a grant that is gone, or whose key is, has nothing left to do."""
    CALLS["RetireGrant"](scenario.client(refuses(code, "not found")))

    assert scenario.endpoint.targets == ["TrentService.RetireGrant"]


def test_key_of_another_kms_key(scenario: Scenario) -> None:
    """An answer that names another KMS key than the header does is `KmsIncorrectKey`."""
    other = KEY_ARN.replace("1234abcd", "ffffffff")
    kms = scenario.client(answers(200, GOOD["Decrypt"] | {"KeyId": other}))

    with pytest.raises(errors.KmsIncorrectKey, match=other):
        CALLS["Decrypt"](kms)
