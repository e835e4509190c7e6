"""The way of a key under a grant: the unwrap process asks as the grantee, and leaves its record in the audit trail."""

from __future__ import annotations

import base64
import json
import os
import time
from pathlib import Path

import msgspec
import pytest

from ebscrypt import errors
from ebscrypt.config import Settings
from ebscrypt.core import SecretMemory
from ebscrypt.kms import principals, unwrap
from ebscrypt.model import encryption_context
from tests.unit.kms.calls import GOOD, TOKEN, recorded
from tests.unit.kms.scripted import KEY_ARN, Scenario, answers
from tests.unit.kms.unwrapping import CONTEXT, Wrapped, holds


def unwrapped(wrapped: Wrapped, memory: SecretMemory, token: str) -> list[str]:
    """Unwrap under a grant, as the daemon does."""
    deadline = time.monotonic() + 60
    return unwrap.unwrap_key(wrapped.blob, CONTEXT, wrapped.key_arn, memory, deadline=deadline, grant_token=token)


def test_the_grant_is_what_allows_it(wrapped: Wrapped, memory: SecretMemory, settings: Settings) -> None:
    """The key arrives, and the record says that the instance's role asked, not the account."""
    grant = wrapped.kms.create_grant(wrapped.key_arn, CONTEXT, name="for-this-attachment")

    unwrapped(wrapped, memory, grant.token)

    assert holds(memory, wrapped.plaintext)
    record = recorded(settings)[-1]
    assert record["eventName"] == "Decrypt"
    assert record["userIdentity"]["arn"] == principals.grantee(settings)
    assert record["requestParameters"]["encryptionContext"] == CONTEXT
    assert record["additionalEventData"]["processId"] != os.getpid()
    assert grant.token not in (settings.audit_dir / "kms.jsonl").read_text()


def test_a_retired_grant_allows_nothing(wrapped: Wrapped, memory: SecretMemory) -> None:
    """Although the account's own credentials would: the process does not fall back on them."""
    grant = wrapped.kms.create_grant(wrapped.key_arn, CONTEXT, name="over")
    wrapped.kms.retire_grant(wrapped.key_arn, grant.grant_id)

    with pytest.raises((errors.KmsAccessDenied, errors.KmsInvalidRequest)) as caught:
        unwrapped(wrapped, memory, grant.token)

    assert holds(memory, bytes(64))
    assert grant.token not in json.dumps(caught.value.record())


def test_a_grant_is_for_one_volume(wrapped: Wrapped, memory: SecretMemory) -> None:
    """That of another volume does not open this one's key."""
    other = encryption_context("vol-11111111111111111")
    grant = wrapped.kms.create_grant(wrapped.key_arn, other, name="for-another")

    with pytest.raises(errors.KmsAccessDenied) as caught:
        unwrapped(wrapped, memory, grant.token)

    assert holds(memory, bytes(64))
    assert "attach it again" in str(caught.value.hint)


def test_the_token_goes_along_to_any_other_kms(
    wrapped: Wrapped, memory: SecretMemory, scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KMS over the network gets the token, and judges by credentials."""
    monkeypatch.setenv("EBSCRYPT_KMS", scenario.endpoint.url)
    plaintext = base64.b64encode(wrapped.plaintext).decode()
    scenario.endpoint.script = [answers(200, GOOD["Decrypt"] | {"KeyId": wrapped.key_arn, "Plaintext": plaintext})]

    unwrapped(wrapped, memory, TOKEN)

    assert holds(memory, wrapped.plaintext)
    assert scenario.endpoint.bodies[-1]["GrantTokens"] == [TOKEN]


def test_the_token_shows_nowhere(
    wrapped: Wrapped, memory: SecretMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in no argument and no environment of the process, and in no repr of its request."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "looking.py").write_text(
        "import json, sys\n"
        "asked = json.loads(sys.stdin.buffer.read())\n"
        "seen = open('/proc/self/cmdline').read() + open('/proc/self/environ').read()\n"
        "print(json.dumps({'notes': [str(asked['grant_token'] in seen)]}), flush=True)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setattr(unwrap, "MODULE", "looking")

    assert unwrapped(wrapped, memory, TOKEN) == ["False"]
    request = unwrap.UnwrapRequest(b"", {}, KEY_ARN, 3, 64, 0.0, TOKEN)
    assert TOKEN not in repr(request) + str(request)
    assert TOKEN in msgspec.json.encode(request).decode()


def test_no_room_for_the_record_is_a_note(wrapped: Wrapped, memory: SecretMemory, settings: Settings) -> None:
    """The key arrives all the same, and whoever attaches is told."""
    trail = settings.audit_dir / "kms.jsonl"
    trail.unlink()
    trail.mkdir()

    notes = wrapped.into(memory)

    assert holds(memory, wrapped.plaintext)
    assert sum("leave no record" in note for note in notes) == 1
