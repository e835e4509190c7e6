"""Which KMS a client talks to, and which it refuses to."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import msgspec
import pytest

from ebscrypt.config import Settings
from ebscrypt.errors import ConfigError, KmsAccessDenied, KmsError
from ebscrypt.kms.client import KmsClient
from ebscrypt.kms.endpoint import check_url, connect
from ebscrypt.model import encryption_context
from tests.unit.kms.scripted import KEY_ARN, Scenario, answers

ANSWER = {"KeyId": KEY_ARN, "CiphertextBlob": base64.b64encode(b"blob").decode()}
CONTEXT = encryption_context("vol-0123456789abcdef0")


def at(settings: Settings, **kms: str) -> Settings:
    """The settings with another endpoint or profile."""
    return msgspec.structs.replace(settings, kms=msgspec.structs.replace(settings.kms, **kms))


@pytest.mark.parametrize(
    "url", ["https://kms.example.com", "http://127.0.0.1:80", "http://[::1]:1", "http://localhost"]
)
def test_urls_that_may_carry_keys(url: str) -> None:
    """Https goes anywhere, http to this machine."""
    check_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://kms.example.com",
        "http://10.0.0.1:8080",
        "http://127.0.0.1.example.com",
        "http://localhost@evil.example.com",
        "ftp://127.0.0.1",
        "https://",
        "http://127.0.0.1:notaport",
        "http://[::1",
    ],
)
def test_urls_that_may_not(url: str, settings: Settings) -> None:
    """Plain http to another machine, and what is no URL, are refused before anything is sent."""
    with pytest.raises(ConfigError, match=r"kms\.endpoint"):
        KmsClient(at(settings, endpoint=url)).call("ListKeys")


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_KMS"])
def test_environment_cannot_lead_keys_astray(
    variable: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An endpoint that the AWS variables name obeys the same rule."""
    monkeypatch.setenv(variable, "http://kms.example.com")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")

    with pytest.raises(ConfigError, match="unencrypted"):
        connect(at(settings, endpoint="aws"))


def test_a_proxy_never_sees_loopback_traffic(scenario: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY does not get requests for an endpoint on this machine."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    wrapped = scenario.client(answers(200, ANSWER)).generate_data_key_without_plaintext(KEY_ARN, CONTEXT)

    assert wrapped.blob == b"blob"


def test_loopback_endpoint_needs_no_credentials(scenario: Scenario) -> None:
    """Where the chain has no credentials, an endpoint on this machine is asked with dummies."""
    kms = scenario.client(answers(200, ANSWER))

    kms.generate_data_key_without_plaintext(KEY_ARN, CONTEXT)

    assert len(scenario.endpoint.targets) == 1


def test_aws_needs_credentials(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS without credentials is refused before anything is sent, with what to do."""
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    with pytest.raises(KmsAccessDenied, match="credentials") as caught:
        KmsClient(at(settings, endpoint="aws")).describe_key(KEY_ARN)

    assert "EBSCRYPT_KMS=embedded" in str(caught.value.hint)


def test_unknown_profile(settings: Settings) -> None:
    """A profile that does not exist is a `ConfigError` that names it."""
    with pytest.raises(ConfigError, match="nobody"):
        KmsClient(at(settings, endpoint="aws", profile="nobody")).describe_key(KEY_ARN)


def test_embedded_ignores_everything_of_aws(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable, profile or file of AWS's can disturb the embedded KMS."""
    (tmp_path / "config").write_text("[not a config\n")
    hostile = {
        "AWS_PROFILE": "nobody",
        "AWS_CONFIG_FILE": str(tmp_path / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "config"),
        "AWS_ENDPOINT_URL": "http://kms.example.com",
        "AWS_RETRY_MODE": "nonsense",
        "AWS_DEFAULTS_MODE": "nonsense",
        "AWS_CA_BUNDLE": "/nonexistent",
        "AWS_USE_FIPS_ENDPOINT": "true",
        "HTTPS_PROXY": "http://127.0.0.1:9",
    }
    for name, value in hostile.items():
        monkeypatch.setenv(name, value)

    assert KmsClient(settings).resolve_key(None).state == "Enabled"


def test_wrong_parameters_are_named_and_not_quoted(settings: Settings) -> None:
    """What botocore refuses to send is `KmsInvalidRequest`: the parameters' names, never their values."""
    kms = KmsClient(settings)

    with pytest.raises(KmsError) as caught:
        kms.call("Encrypt", Plaintext=["hidden"], EncryptionContext={"aws:ebs:id": ("hidden",)}, Nope="hidden")

    message = json.dumps(caught.value.record())
    assert type(caught.value).__name__ == "KmsInvalidRequest"
    assert all(name in message for name in ("Plaintext", "EncryptionContext.aws:ebs:id", "KeyId", "Nope"))
    assert "hidden" not in message
