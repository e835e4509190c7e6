"""The way of a key: a real unwrap process, real secret memory, and what KMS may answer."""

from __future__ import annotations

import base64
import os
import signal
import time

import pytest

from ebscrypt import errors
from ebscrypt.config import Settings
from ebscrypt.core import SecretMemory
from ebscrypt.kms import unwrap
from tests.unit.kms.scripted import KEY_ARN, Scenario, answers, refuses
from tests.unit.kms.unwrapping import CONTEXT, Wrapped, holds


def test_the_right_key_arrives(wrapped: Wrapped, memory: SecretMemory) -> None:
    """What KMS decrypts is in the secret memory afterwards, and the process is gone."""
    notes = wrapped.into(memory)

    assert holds(memory, wrapped.plaintext)
    assert all(isinstance(note, str) for note in notes)
    assert wrapped.left_behind() == set()


def test_nothing_secret_is_written(wrapped: Wrapped, memory: SecretMemory, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither output nor errors of the process hold key, blob or context, in whatever spelling."""
    wrapped.into(memory)
    with pytest.raises(errors.KmsInvalidCiphertext) as caught:
        wrapped.into(memory, context={"aws:ebs:id": "vol-secretsecretsecre"})

    written = "".join(capfd.readouterr()) + repr(caught.value.record())
    for secret in (wrapped.plaintext, wrapped.plaintext[:32], wrapped.plaintext[32:], wrapped.blob, b"vol-secretsec"):
        for spelled in (secret.hex(), base64.b64encode(secret).decode().rstrip("=")[:-1], repr(secret)[2:-1]):
            assert spelled not in written
    assert written == repr(caught.value.record())


@pytest.mark.parametrize("context", [{"aws:ebs:id": "vol-11111111111111111"}, {}, CONTEXT | {"more": "x"}])
def test_wrong_context(context: dict[str, str], wrapped: Wrapped, memory: SecretMemory) -> None:
    """Another volume's context, none, or one pair more: invalid ciphertext, and memory of zeros."""
    with pytest.raises(errors.KmsInvalidCiphertext, match=wrapped.key_arn):
        wrapped.into(memory, context=context)

    assert holds(memory, bytes(64))


def test_disabled_key(wrapped: Wrapped, memory: SecretMemory) -> None:
    """A disabled key is `KmsKeyDisabled` with its ARN and its cure; enabled again, it unwraps."""
    wrapped.kms.call("DisableKey", KeyId=wrapped.key_arn)
    with pytest.raises(errors.KmsKeyDisabled, match=f"{wrapped.key_arn} is disabled") as caught:
        wrapped.into(memory)
    assert caught.value.key_arn == wrapped.key_arn
    assert "enable-key" in str(caught.value.hint)
    assert caught.value.request_id

    wrapped.kms.call("EnableKey", KeyId=wrapped.key_arn)
    wrapped.into(memory)

    assert holds(memory, wrapped.plaintext)


def test_key_pending_deletion(wrapped: Wrapped, memory: SecretMemory) -> None:
    """A key pending deletion is `KmsKeyInvalidState`, which says how to cancel."""
    wrapped.kms.call("ScheduleKeyDeletion", KeyId=wrapped.key_arn)

    with pytest.raises(errors.KmsKeyInvalidState, match="is pending deletion") as caught:
        wrapped.into(memory)

    assert "cancel-key-deletion" in str(caught.value.hint)


def test_another_key_in_the_header(wrapped: Wrapped, memory: SecretMemory) -> None:
    """A header that names another KMS key than the one that wrapped is refused, and the memory stays empty."""
    other = wrapped.kms.call("CreateKey")["KeyMetadata"]["Arn"]

    with pytest.raises(errors.KmsIncorrectKey):
        unwrap.unwrap_key(wrapped.blob, CONTEXT, other, memory, deadline=time.monotonic() + 60)

    assert holds(memory, bytes(64))


def test_missing_root_key(wrapped: Wrapped, settings: Settings, memory: SecretMemory) -> None:
    """What the KMS's store itself raises arrives as the same error: here, the root key is gone."""
    (settings.kms_dir / "root.key").unlink()

    with pytest.raises(errors.ConfigError, match="root key"):
        wrapped.into(memory)


def test_wrong_settings(wrapped: Wrapped, memory: SecretMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that cannot be is told as it would be anywhere else."""
    monkeypatch.setenv("EBSCRYPT_KMS_ATTEMPTS", "many")

    with pytest.raises(errors.ConfigError, match="attempts"):
        wrapped.into(memory)


def remote(scenario: Scenario, monkeypatch: pytest.MonkeyPatch, **limits: str) -> None:
    """Lead the unwrap process to the scripted endpoint."""
    monkeypatch.setenv("EBSCRYPT_KMS", scenario.endpoint.url)
    for name, value in limits.items():
        monkeypatch.setenv(f"EBSCRYPT_KMS_{name.upper()}", value)


def test_kms_away(wrapped: Wrapped, memory: SecretMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody at the endpoint: `KmsUnreachable` with what to check."""
    monkeypatch.setenv("EBSCRYPT_KMS", "http://127.0.0.1:9")

    with pytest.raises(errors.KmsUnreachable, match=r"127\.0\.0\.1:9"):
        wrapped.into(memory)

    assert holds(memory, bytes(64))


def test_kms_throttles(
    wrapped: Wrapped, memory: SecretMemory, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Retries happen in the process, and its last error comes back with their number."""
    remote(scenario, monkeypatch, attempts="2")
    scenario.endpoint.script = [refuses("ThrottlingException", "Rate exceeded")]

    with pytest.raises(errors.KmsThrottled, match="after 2 attempts"):
        wrapped.into(memory)

    assert len(scenario.endpoint.targets) == 2


def test_kms_hangs(wrapped: Wrapped, memory: SecretMemory, scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that says nothing ends in KMS's own error shortly before the deadline, not in a killed process."""
    remote(scenario, monkeypatch, timeout="60", deadline="60")
    scenario.endpoint.script = [scenario.endpoint.hang]
    started = time.monotonic()

    with pytest.raises(errors.KmsUnreachable, match="did not answer in time"):
        wrapped.into(memory, seconds=20)

    assert time.monotonic() - started < 20
    assert wrapped.left_behind() == set()


def test_kms_lies(wrapped: Wrapped, memory: SecretMemory, scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plaintext of the wrong length never reaches the memory."""
    remote(scenario, monkeypatch)
    scenario.endpoint.script = [answers(200, {"KeyId": KEY_ARN, "Plaintext": base64.b64encode(b"\x01" * 32).decode()})]

    with pytest.raises(errors.KmsBadAnswer, match="64 bytes"):
        wrapped.into(memory)

    assert holds(memory, bytes(64))


def test_interrupted_parent_leaves_nothing(
    wrapped: Wrapped, memory: SecretMemory, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception in the parent while it waits, such as a signal's, ends the process and empties the memory."""
    remote(scenario, monkeypatch, timeout="60", deadline="60")
    scenario.endpoint.script = [lambda _: os.kill(os.getpid(), signal.SIGUSR1)]

    class Interruption(BaseException):
        pass

    def interrupt(*_: object) -> None:
        raise Interruption

    old = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(Interruption):
            wrapped.into(memory)
    finally:
        signal.signal(signal.SIGUSR1, old)

    assert holds(memory, bytes(64))
    assert wrapped.left_behind() == set()
