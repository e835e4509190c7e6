"""Servers for the contract suites: one of each kind for a whole run, with a store of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
from botocore.config import Config

from ebscrypt.kms.client import KmsClient
from ebscrypt.kms.retry import Retry
from ebscrypt.stores.store import Store
from tests.contracts import store_implementations as stores
from tests.contracts.kms_implementations import (
    GRANTEE,
    GRANTEE_ACCESS_KEY_ID,
    MOTO,
    SERVE,
    Kms,
    serving,
    settings_at,
    settings_of_the_grantee,
)

OWN_CREDENTIALS: Final = {
    "AWS_ACCESS_KEY_ID": "anyone",
    "AWS_SECRET_ACCESS_KEY": "anything",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
    "AWS_PAGER": "",
}


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
    profile = tmp_path / "credentials"
    profile.write_text(f"[grantee]\naws_access_key_id = {GRANTEE_ACCESS_KEY_ID}\naws_secret_access_key = x\n")
    if name != "aws":
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profile))
    state = tmp_path / "state"
    # Only here: what moto has not implemented it answers with 500, which is tried again for long elsewhere.
    once = Retry(attempts=1, timeout=30, deadline=30) if name == "moto" else None
    grantee = KmsClient(settings_of_the_grantee(state, endpoint), principal=GRANTEE if name == "embedded" else None)
    kms = Kms(name, KmsClient(settings_at(state, endpoint), retry=once), grantee)
    yield kms
    kms.clean_up()


@pytest.fixture
def boto_as(kms_server: str) -> Callable[[str], Any]:
    """boto3 as anybody would use it, with its own retries and defaults, under an access key id."""

    def client(access_key_id: str) -> Any:
        return boto3.client(
            "kms",
            endpoint_url=kms_server,
            region_name="eu-central-1",
            aws_access_key_id=access_key_id,
            aws_secret_access_key="anything",
            config=Config(proxies={}),
        )

    return client


@pytest.fixture
def boto(boto_as: Callable[[str], Any]) -> Any:
    """boto3 of somebody of whom the server knows nothing: the account's root."""
    return boto_as("anyone")


@pytest.fixture
def aws(kms_server: str, tmp_path: Path) -> Callable[..., Any]:
    """The aws command, `aws kms …`: its JSON output, or its error text when it fails."""

    def run(*arguments: str, fails: bool = False, access_key_id: str = "anyone") -> Any:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        own = OWN_CREDENTIALS | {"AWS_ACCESS_KEY_ID": access_key_id, "HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
        # Where pyenv provides the aws command, it needs to know its place whatever HOME says.
        pyenv = {name: value for name, value in os.environ.items() if name.startswith("PYENV_")}
        done = subprocess.run(
            ["aws", "--endpoint-url", kms_server, "--output", "json", "kms", *arguments],
            env=clean | own | pyenv,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode != 0) is fails, done.stderr
        return done.stderr if fails else json.loads(done.stdout or "null")

    return run


@pytest.fixture(scope="session")
def s3_server() -> Iterator[stores.Server]:
    """An S3 server with an empty bucket."""
    with stores.serving() as server:
        yield server


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """The credentials of that server, where the ordinary chain finds them, and nothing of the machine's own."""
    for variable in [variable for variable in os.environ if variable.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(variable, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", stores.ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", stores.SECRET_KEY)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> stores.Place:
    """A place of the kind that the test is run against, with nothing in it yet."""
    name = str(request.param)
    server = None
    if name == "s3":
        request.getfixturevalue("s3_credentials")
        server = request.getfixturevalue("s3_server")
    return stores.place_for(name, tmp_path, server)


@pytest.fixture
def store(place: stores.Place) -> Iterator[Store]:
    """A new store in that place."""
    opened = place.open()
    yield opened
    opened.close()
