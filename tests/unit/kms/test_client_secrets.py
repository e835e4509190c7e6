"""Whatever goes wrong in a call, and when nothing does: no key material is written, logged, raised or recorded."""

from __future__ import annotations

import base64
import logging
import traceback
from collections.abc import Callable
from typing import Any

import pytest

from ebscrypt import errors
from ebscrypt.kms.client import KmsClient
from ebscrypt.kms.retry import Retry
from tests.unit.kms.calls import BLOB, CALLS, GOOD, PLAINTEXT, TOKEN, secrets_in
from tests.unit.kms.scripted import KEY_ARN, Behaviour, Scenario, ScriptedEndpoint, answers, refuses, resets

SAID = "".join(base64.b64encode(secret).decode() for secret in (PLAINTEXT, BLOB)) + TOKEN
"""What an answer may hold of secrets without being a good one."""


def hangs(endpoint: ScriptedEndpoint) -> Behaviour:
    return endpoint.hang


def trickles(endpoint: ScriptedEndpoint) -> Behaviour:
    """Say a bit of the answer, and go on with blanks for ever."""

    def behave(handler: Any) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        handler.wfile.write(SAID.encode())
        while not endpoint.released.wait(0.02):
            handler.wfile.write(b" ")
            handler.wfile.flush()

    return behave


Faulty = Callable[[ScriptedEndpoint, str], Behaviour]


def _always(behaviour: Behaviour) -> Faulty:
    return lambda *_: behaviour


def _wrong_length(_: ScriptedEndpoint, operation: str) -> Behaviour:
    """The good answer, but for blobs and a token that are too long."""
    blobs = {"CiphertextBlob": BLOB * 50, "Plaintext": PLAINTEXT * 2}
    longer = {name: base64.b64encode(blob).decode() for name, blob in blobs.items() if name in GOOD[operation]}
    return answers(200, GOOD[operation] | longer | {"GrantToken": TOKEN * 1000})


FAULTS: dict[str, tuple[Faulty, type[errors.EbscryptError]]] = {
    "throttled": (_always(refuses("ThrottlingException", "Rate exceeded")), errors.KmsThrottled),
    "5xx with a code": (_always(refuses("KMSInternalException", "inside", 500)), errors.KmsUnreachable),
    "5xx without": (_always(answers(502, SAID.encode())), errors.KmsUnreachable),
    "hanging": (lambda endpoint, _: hangs(endpoint), errors.KmsUnreachable),
    "trickling": (lambda endpoint, _: trickles(endpoint), errors.KmsUnreachable),
    "reset": (_always(resets), errors.KmsUnreachable),
    "cut off": (_always(answers(200, b'{"x": "' + SAID.encode(), length=100_000)), errors.KmsUnreachable),
    "truncated JSON": (_always(answers(200, b'{"x": "' + SAID.encode())), errors.KmsBadAnswer),
    "wrong content": (_always(answers(200, f"<html>{SAID}</html>".encode())), errors.KmsBadAnswer),
    "list": (_always(answers(200, [SAID])), errors.KmsBadAnswer),
    "wrong length": (_wrong_length, errors.KmsBadAnswer),
    "redirected": (
        _always(answers(307, SAID.encode(), headers={"Location": "http://127.0.0.1:9/"})),
        errors.KmsBadAnswer,
    ),
    "not there": (_always(answers(404, SAID.encode())), errors.KmsBadAnswer),
}
NOT_WRONG = {("RetireGrant", "wrong length"), ("DescribeKey", "wrong length")}
"""There is nothing of a fixed length in these answers."""
CELLS = [
    pytest.param(operation, *fault, id=f"{operation}-{name}")
    for operation in CALLS
    for name, fault in FAULTS.items()
    if (operation, name) not in NOT_WRONG
]


def everything_said(error: BaseException) -> str:
    """An error as any log, answer or screen could show it."""
    told = [str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)]
    if isinstance(error, errors.EbscryptError):
        told.append(repr(error.record()))
    return "\n".join(told)


def locals_of(error: BaseException) -> str:
    """What stays reachable in error objects that were chained to it."""
    return repr((error.__cause__, error.__context__))


@pytest.mark.parametrize(("operation", "faulty", "kind"), CELLS)
def test_every_fault_of_every_call(  # noqa: PLR0917 - pytest passes them by name
    operation: str,
    faulty: Faulty,
    kind: type[errors.KmsError],
    scenario: Scenario,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The right type with the key's ARN and a cure; no secret in error, record, traceback, log, output or audit."""
    caplog.set_level(logging.DEBUG)
    kms = scenario.client(faulty(scenario.endpoint, operation))
    kms._retry = Retry(attempts=2, timeout=0.5, deadline=1.0, clock=scenario.clock)

    with pytest.raises(errors.KmsError) as caught:
        CALLS[operation](kms)

    error = caught.value
    assert type(error) is kind
    assert KEY_ARN in error.message
    assert error.key_arn == KEY_ARN
    assert error.hint
    assert type(errors.from_record(error.record())) is kind
    written = everything_said(error) + caplog.text + "".join(capfd.readouterr()) + locals_of(error)
    audited = (scenario.settings.audit_dir / "kms.jsonl").read_text()
    assert secrets_in(written) == []
    assert secrets_in(audited, context_too=False) == []


@pytest.mark.parametrize("operation", list(CALLS))
def test_success_writes_no_secret(
    operation: str, scenario: Scenario, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """With every logger at DEBUG, what a good answer brought shows in no log and not in its own repr."""
    caplog.set_level(logging.DEBUG)

    said = repr(CALLS[operation](scenario.client(answers(200, GOOD[operation]))))

    assert secrets_in(said + caplog.text + "".join(capfd.readouterr())) == []


@pytest.mark.parametrize("operation", [name for name in CALLS if name not in ("DescribeKey", "RetireGrant")])
def test_wrong_parameters_are_not_quoted(operation: str, scenario: Scenario, caplog: pytest.LogCaptureFixture) -> None:
    """A parameter that botocore refuses is named, and its value is not; nothing is sent."""
    caplog.set_level(logging.DEBUG)
    kms = scenario.client(answers(200, GOOD[operation]))
    secrets: dict[str, Any] = {"CiphertextBlob": 7, "Plaintext": [PLAINTEXT], "GrantTokens": TOKEN, "KeyId": BLOB}

    with pytest.raises(errors.KmsInvalidRequest) as caught:
        kms.call(operation, **secrets)

    assert secrets_in(everything_said(caught.value) + caplog.text) == []
    assert scenario.endpoint.targets == []
    assert not scenario.settings.audit_dir.exists()


def test_a_client_shows_nothing(scenario: Scenario) -> None:
    """The client's own repr and its attributes' hold nothing of what went through it."""
    kms: KmsClient = scenario.client(answers(200, GOOD["Decrypt"]))
    CALLS["Decrypt"](kms)

    assert secrets_in(repr(kms) + repr(vars(kms))) == []
