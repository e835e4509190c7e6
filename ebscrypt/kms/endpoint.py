"""Which KMS: makes the boto3 client for ``kms.endpoint``.

    embedded   the KMS in this process: requests are answered before they are sent (botocore's ``before-send``), with
               credentials that mean nothing and a host name that can never resolve (RFC 6761, .invalid)
    aws        AWS: the ordinary credential chain
    URL        any other endpoint. Plain http is for this machine only: Decrypt answers with a plaintext key, and that
               must not cross a network in the clear. There is no switch to allow it.

Every client has botocore's own retries off, since `ebscrypt.kms.retry` is the one layer that tries again.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import boto3
import botocore.session
import msgspec
from botocore.config import Config
from botocore.exceptions import IncompleteReadError

from ebscrypt.errors import ConfigError
from ebscrypt.kms.failures import NotJson
from ebscrypt.kms.names import is_loopback

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

    from ebscrypt.config import KmsSettings, Settings

EMBEDDED_URL: Final = "https://kms.embedded.invalid"
_DUMMY: Final = "embedded"
"""Access key id and secret for endpoints that look at neither."""


def connect(settings: Settings, principal: str | None = None) -> KMSClient:
    """A client for the configured KMS. Raises `ConfigError`, or botocore's errors about settings and credentials.

    ``principal`` is whom the embedded KMS takes the client for; any other KMS judges by credentials.
    """
    _keep_bodies_out_of_logs()
    if settings.kms.endpoint == "embedded":
        return _embedded(settings, principal)
    client: KMSClient = _remote(settings.kms, "kms")
    client.meta.events.register("before-parse.kms", _check_body)
    return client


def connect_sts(settings: Settings) -> Any:
    """A client of STS with the same credentials, Region and limits, at the same endpoint. Not for the embedded KMS."""
    return _remote(settings.kms, "sts")


def check_url(url: str) -> None:
    """Raise `ConfigError` unless keys may travel to ``url``: https anywhere, http to this machine."""
    try:
        parts = urlsplit(url)
        host, scheme, _ = parts.hostname or "", parts.scheme, parts.port
    except ValueError as error:
        raise ConfigError(f"kms.endpoint {url[:80]!r} is not a URL: {error}") from None
    if not host or scheme not in ("http", "https"):
        raise ConfigError(f"kms.endpoint {url[:80]!r} is not an http(s) URL with a host")
    if scheme == "http" and not is_loopback(host):
        raise ConfigError(
            f"kms.endpoint {url[:80]!r} would carry plaintext keys over the network unencrypted",
            hint="use https; http is for 127.0.0.1, ::1 and localhost",
        )


def _keep_bodies_out_of_logs() -> None:
    # At DEBUG botocore logs whole requests and answers, and with them the plaintext key of each Decrypt. An application
    # that turns debugging on for everything must not get that by accident.
    logger = logging.getLogger("botocore")
    if logger.level == logging.NOTSET or logger.level < logging.INFO:
        logger.setLevel(logging.INFO)


def _check_body(response_dict: dict[str, Any], **_: Any) -> None:
    """Find what botocore overlooks: a body that broke off, or is no JSON object. For its ``before-parse`` event.

    Empty bodies and null are answers of operations that have nothing to say (CreateAlias).
    """
    body, promised = response_dict["body"], response_dict["headers"].get("Content-Length", "")
    if promised.isdecimal() and len(body) < int(promised):
        raise IncompleteReadError(actual_bytes=len(body), expected_bytes=int(promised))
    if response_dict["status_code"] < HTTPStatus.MULTIPLE_CHOICES:
        try:
            msgspec.json.decode(body or b"null", type=dict | None)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            broken = True
        else:
            broken = False
        if broken:
            raise NotJson


def _config(kms: KmsSettings, **more: Any) -> Config:
    return Config(
        region_name=kms.region,
        connect_timeout=kms.timeout,
        read_timeout=kms.timeout,
        retries={"mode": "standard", "total_max_attempts": 1},
        user_agent_extra="ebscrypt",
        **more,
    )


def _embedded(settings: Settings, principal: str | None) -> KMSClient:
    from ebscrypt.kms.embedded.transport import InProcess  # noqa: PLC0415 - only who uses it pays for it

    # None of AWS's variables or files may reach this client: it has to work where they are absent, wrong or malicious.
    isolated = {name: (None, None, row[2], row[3]) for name, row in botocore.session.Session.SESSION_VARIABLES.items()}
    isolated |= dict.fromkeys(("config_file", "credentials_file"), (None, None, "/dev/null", None))
    config = _config(settings.kms, proxies={}, ignore_configured_endpoint_urls=True)
    core = botocore.session.Session(session_vars=isolated)
    client: KMSClient = _client(core, "kms", EMBEDDED_URL, config, dummy_credentials=True)
    in_process: Any = InProcess(
        settings, client.meta.service_model, principal
    )  # botocore's stubs let no handler answer
    client.meta.events.register("before-send.kms", in_process)
    client.meta.events.register("before-parse.kms", _check_body)
    return client


def _remote(kms: KmsSettings, service: str) -> Any:
    url = None if kms.endpoint == "aws" else kms.endpoint
    if url is not None:
        check_url(url)
    core = botocore.session.Session(profile=kms.profile or None)
    more: dict[str, Any] = {}
    dummy = False
    if url and is_loopback(urlsplit(url).hostname or ""):
        more["proxies"] = {}  # a proxy would take the plaintext off this machine
        # An endpoint on this machine rarely knows credentials. Whatever the chain has is used, but the instance
        # metadata service is not asked, which takes seconds where there is none.
        core.get_component("credential_provider").remove("iam-role")
        dummy = core.get_credentials() is None
    client = _client(core, service, url, _config(kms, **more), dummy_credentials=dummy)
    # AWS_ENDPOINT_URL and the profile may have named another place.
    check_url(client.meta.endpoint_url)
    return client


def _client(
    core: botocore.session.Session, service: Any, url: str | None, config: Config, *, dummy_credentials: bool
) -> Any:
    given = _DUMMY if dummy_credentials else None
    return boto3.session.Session(botocore_session=core).client(
        service, endpoint_url=url, config=config, aws_access_key_id=given, aws_secret_access_key=given
    )
