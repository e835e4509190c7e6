"""From settings to an open store: names, and the two kinds of URL.

    local                                            the directory <state>/snapshots, unless stores.urls says otherwise
    file:///mnt/backup/ebscrypt                      any directory
    s3://bucket/prefix?region=eu-central-1           AWS
    s3://bucket?endpoint=https://s3.example.org      any other S3-compatible server

Credentials are never part of a URL: S3 takes them from the ordinary chain (environment, ``profile=…``, instance role).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import msgspec

from ebscrypt.config import Settings
from ebscrypt.errors import ConfigError
from ebscrypt.kms.names import is_loopback
from ebscrypt.stores.directory import Directory
from ebscrypt.stores.objects import Objects
from ebscrypt.stores.store import Store

LOCAL: Final = "local"
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX: Final = re.compile(r"(?:[A-Za-z0-9!_.*'()-]+/)*")
_OPTIONS: Final = frozenset({"endpoint", "region", "profile", "plain-http"})


class DirectoryAddress(msgspec.Struct, frozen=True):
    """A directory; ``path`` is absolute."""

    path: Path


class S3Address(msgspec.Struct, frozen=True, kw_only=True):
    """A bucket. ``prefix`` is empty or ends with ``/``; no ``endpoint`` is AWS, no ``region`` that of the settings."""

    bucket: str
    prefix: str = ""
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None

    @property
    def url(self) -> str:
        """The address as it would be written in the settings."""
        given = {"endpoint": self.endpoint, "region": self.region, "profile": self.profile}
        options = urlencode({name: value for name, value in given.items() if value}, safe=":/")
        return f"s3://{self.bucket}/{self.prefix}" + (f"?{options}" if options else "")


def store_url(settings: Settings, name: str | None = None) -> str:
    """The URL of a store by its name or URL; None: the default. Raises `ConfigError` for a name that nobody gave."""
    asked = name or settings.stores.default
    if "://" in asked:
        return asked
    if asked in settings.stores.urls:
        return settings.stores.urls[asked]
    if asked == LOCAL:
        return settings.snapshots_dir.absolute().as_uri()
    known = ", ".join(sorted({LOCAL, *settings.stores.urls}))
    raise ConfigError(f"there is no store {asked[:80]!r}", hint=f"stores.urls gives names to stores; there are {known}")


def open_store(settings: Settings, name: str | None = None, *, create: bool = True) -> Store:
    """The store of that name or URL, open; None: the default. ``create`` lets an empty place become a store.

    Raises `ConfigError`, or `StoreError` of the kind that keeps the store from being opened.
    """
    objects = _objects(settings, parse_url(store_url(settings, name)), create=create)
    try:
        return Store(objects, create=create)
    except BaseException:
        objects.close()
        raise


def _objects(settings: Settings, address: DirectoryAddress | S3Address, *, create: bool) -> Objects:
    if isinstance(address, DirectoryAddress):
        return Directory(address.path, create=create)
    from ebscrypt.stores.s3 import S3  # noqa: PLC0415 - boto3 takes 0.3 s to import; only who uses it pays for it

    return S3(address, settings.stores, region=address.region or settings.kms.region)


def parse_url(url: str) -> DirectoryAddress | S3Address:
    """What a store's URL says. Raises `ConfigError` naming what is wrong with it."""
    shown = repr(url if len(url) <= 120 else f"{url[:120]}…")
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, strict_parsing=True) if parts.query else []
    except ValueError as error:
        raise ConfigError(f"the store {shown} is not a URL: {error}") from None
    if "@" in parts.netloc:
        # Not quoted: what stands before the sign may be a password.
        raise ConfigError("a store's URL has credentials in it", hint="use a profile, the environment or a role")
    if parts.fragment or len(dict(options)) != len(options) or not _OPTIONS.issuperset(dict(options)):
        raise ConfigError(f"the store {shown} has unknown options", hint=f"there are {', '.join(sorted(_OPTIONS))}")
    if parts.scheme == "s3":
        return _s3(parts.netloc, parts.path, dict(options), shown)
    path = unquote(parts.path)
    if parts.scheme != "file" or options or parts.netloc not in ("", "localhost") or path in ("", "/") or "\0" in path:
        raise ConfigError(
            f"the store {shown} is neither a directory nor S3", hint="write file:///directory or s3://bucket"
        )
    return DirectoryAddress(Path(path))


def _s3(bucket: str, path: str, options: dict[str, str], shown: str) -> S3Address:
    if not _BUCKET.fullmatch(bucket) or ".." in bucket:
        raise ConfigError(f"the store {shown} does not name a bucket", hint="write s3://bucket or s3://bucket/prefix")
    stripped = unquote(path).strip("/")
    prefix = f"{stripped}/" if stripped else ""
    if not _PREFIX.fullmatch(prefix) or any(part in (".", "..") for part in prefix.split("/")) or len(prefix) > 512:
        raise ConfigError(
            f"the store {shown} has a prefix that not every S3 takes", hint="use letters, digits, - _ . and /"
        )
    endpoint, plain = options.get("endpoint"), options.get("plain-http", "no")
    if plain not in ("yes", "no"):
        raise ConfigError(f"the store {shown} has plain-http={plain[:20]!r}", hint="it is yes or no")
    if endpoint is not None:
        _check_endpoint(endpoint, shown, plain=plain == "yes")
    return S3Address(
        bucket=bucket, prefix=prefix, endpoint=endpoint, region=options.get("region"), profile=options.get("profile")
    )


def _check_endpoint(endpoint: str, shown: str, *, plain: bool) -> None:
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        host, parts = "", urlsplit("")
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.path not in ("", "/"):
        raise ConfigError(f"the store {shown} has an endpoint that is no http(s) URL of a host")
    if parts.scheme == "http" and not is_loopback(host) and not plain:
        raise ConfigError(
            f"the store {shown} would carry snapshots over the network unencrypted",
            hint="use https; plain-http=yes allows it, and shows plain volumes and all manifests to the network",
        )
