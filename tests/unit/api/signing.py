"""Requests signed by botocore, as a server gets them."""

from __future__ import annotations

from datetime import UTC, datetime
from unittest import mock
from urllib.parse import urlsplit

from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from ebscrypt.api.protocol.http import HttpRequest

ID, SECRET = "AKIAABCDEFGHIJKLMNOP", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
NOW = datetime(2024, 2, 29, 23, 55, 7, tzinfo=UTC)


def signed(
    method: str = "POST",
    target: str = "/",
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    *,
    service: str = "ec2",
    region: str = "us-east-1",
    when: datetime = NOW,
    key: tuple[str, str] = (ID, SECRET),
    expires: int | None = None,
    covers_body: bool = True,
) -> HttpRequest:
    """A request that botocore signed: in its query string with ``expires``, else in a header."""
    scheme = "http" if covers_body else "https"
    asked = AWSRequest(method, f"{scheme}://127.0.0.1:4580{target}", data=body, headers=headers or {})
    asked.context["payload_signing_enabled"] = covers_body
    credentials = Credentials(*key)
    signer = (
        SigV4Auth(credentials, service, region)
        if expires is None
        else SigV4QueryAuth(credentials, service, region, expires=expires)
    )
    with mock.patch("botocore.auth.get_current_datetime", return_value=when.replace(tzinfo=None)):
        signer.add_auth(asked)
    url = urlsplit(str(asked.url))
    sent = {name.lower(): str(value) for name, value in asked.headers.items()}
    return HttpRequest(
        method=method, path=url.path or "/", query=url.query, headers={"host": url.netloc} | sent, body=body
    )
