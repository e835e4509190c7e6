"""Servers for the contract suites: one of each kind for a whole run, with a store of its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebscrypt.kms.client import KmsClient
from tests.contracts.kms_implementations import MOTO, SERVE, Kms, serving, settings_at


@pytest.fixture(scope="session")
def kms_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of `ebscrypt kms serve`."""
    with serving(SERVE, tmp_path_factory.mktemp("kms-server")) as url:
        yield url


@pytest.fixture(scope="session")
def moto_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of moto's server."""
    with serving(MOTO, tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture
def kms(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kms]:
    """The implementation that the test is run against."""
    name = str(request.param)
    if name != "aws":
        for variable in [variable for variable in os.environ if variable.startswith(("AWS_", "EBSCRYPT_"))]:
            monkeypatch.delenv(variable)
        monkeypatch.setenv("HOME", str(tmp_path))
    servers = {"http": "kms_server", "moto": "moto_server"}
    endpoint = request.getfixturevalue(servers[name]) if name in servers else name
    kms = Kms(name, KmsClient(settings_at(tmp_path / "state", endpoint)))
    yield kms
    kms.clean_up()
