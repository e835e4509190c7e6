"""What the tests of the KMS floor share: settings, time, and an endpoint that misbehaves."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import msgspec
import pytest

from ebscrypt.config import KmsSettings, PathSettings, Settings
from ebscrypt.kms.client import KmsClient
from tests.unit.kms.scripted import GRANTEE, RETIRING, FakeClock, Scenario, listening


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting, credential or profile of the machine reaches a test."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "EBSCRYPT_")) or name in ("CREDENTIALS_DIRECTORY", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of an embedded KMS of its own."""
    return Settings(
        paths=PathSettings(state=str(tmp_path / "state"), runtime=str(tmp_path / "run")),
        kms=KmsSettings(region="eu-central-1", account="111122223333"),
    )


@pytest.fixture
def scenario(settings: Settings) -> Iterator[Scenario]:
    """An endpoint that is listening, with everything to make a client for it."""
    with listening() as endpoint:
        # Principals that are named: nobody has to be asked who the caller is.
        kms = msgspec.structs.replace(settings.kms, grantee=GRANTEE, retiring_principal=RETIRING)
        yield Scenario(msgspec.structs.replace(settings, kms=kms), endpoint, FakeClock())


@pytest.fixture(autouse=True, scope="session")
def models_are_read_once() -> Iterator[None]:
    """Every client shares one loader: reading the models of AWS takes most of a test's time otherwise."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(botocore.session, "create_loader", functools.cache(botocore.session.create_loader))
        yield


@pytest.fixture
def wrapped(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A data key, and an environment that leads the unwrap process to its KMS."""
    from tests.unit.kms.unwrapping import CONTEXT, Wrapped  # noqa: PLC0415 - needs the compiled core

    monkeypatch.setenv("EBSCRYPT_STATE_DIR", settings.paths.state)
    monkeypatch.setenv("EBSCRYPT_REGION", settings.kms.region)
    monkeypatch.setenv("EBSCRYPT_ACCOUNT", settings.kms.account)
    kms = KmsClient(settings)
    key = kms.call("CreateKey")["KeyMetadata"]["Arn"]
    blob = kms.generate_data_key_without_plaintext(key, CONTEXT).blob
    return Wrapped(kms, key, blob, kms.decrypt(blob, CONTEXT).plaintext)


@pytest.fixture
def memory() -> Iterator[Any]:
    """Secret memory with something in it, so that emptiness is an achievement."""
    from ebscrypt.core import SecretMemory  # noqa: PLC0415 - needs the compiled core

    memory = SecretMemory(64)
    memory.fill(b"\xee" * 64)
    yield memory
    memory.wipe()
