"""Settings: a TOML file, overridden by the environment, frozen into one section per concern.

The file is ``/etc/ebscrypt/config.toml`` for root, ``$XDG_CONFIG_HOME/ebscrypt/config.toml`` for others, or what
``EBSCRYPT_CONFIG`` names. Every key of every section can be set as ``EBSCRYPT_<SECTION>_<KEY>``, a table as a JSON
object; five have short names:
``EBSCRYPT_STATE_DIR``, ``EBSCRYPT_RUNTIME_DIR``, ``EBSCRYPT_KMS``, ``EBSCRYPT_REGION``, ``EBSCRYPT_ACCOUNT``. Unknown
keys are refused: a misspelt setting that is silently ignored is how people lose data.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from ebscrypt.errors import ConfigError
from ebscrypt.model import CacheMode, ExportKind

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]


class PathSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where things lie. ``state``: catalog, volumes, embedded KMS. ``runtime``: sockets and attachments."""

    state: str
    runtime: str


class KmsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How KMS is reached: ``endpoint`` is ``embedded``, ``aws`` or an http(s) URL.

    ``deadline`` bounds one operation with all its retries, ``timeout`` one attempt; ``attempts`` counts the first.
    ``root_key`` names the file with the embedded KMS's root key; kms/embedded/root_key.py says what that means, and
    where it is when this is empty.

    ``grants`` says whether each attachment gets a grant of its own: ``auto`` for the embedded KMS and where ``grantee``
    is set. ``grantee`` and ``retiring_principal`` are ARNs: who may Decrypt under the grant, and who may end it.
    """

    endpoint: str = "embedded"
    region: str = "us-east-1"
    account: Annotated[str, msgspec.Meta(pattern=r"^\d{12}$")] = "000000000000"
    profile: str = ""
    timeout: Seconds = 5.0
    deadline: Seconds = 20.0
    attempts: Annotated[int, msgspec.Meta(ge=1, le=20)] = 4
    root_key: str = ""
    grants: Literal["auto", "always", "never"] = "auto"
    grantee: str = ""
    retiring_principal: str = ""


class AttachSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How volumes are served when `attach` is not told otherwise.

    ``io_timeout`` and ``dead_connection_timeout`` (seconds) go to nbd.ko: how long one request may take, and how long
    the kernel keeps requests of a daemon that died before it fails them. ``user`` is whom the daemon becomes after
    set-up, if that account exists. ``key_check_interval`` is how often the KMS key of an attached volume is tried,
    where the volume's ``on_key_unusable`` is not ``ignore``.
    """

    export: ExportKind = ExportKind.AUTO
    cache: CacheMode = CacheMode.WRITEBACK
    discard: bool = True
    connections: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    io_timeout: Annotated[int, msgspec.Meta(ge=1, le=3600)] = 60
    dead_connection_timeout: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 300
    start_timeout: Seconds = 60.0
    key_check_interval: Seconds = 60.0
    user: str = "ebscrypt"


class EventSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``keep``: events that the catalog keeps, besides those that an enabled rule has not looked at yet."""

    keep: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 10_000


class AuditSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much is kept of the record of KMS requests: ``files`` files of up to ``largest_file`` bytes each."""

    largest_file: Annotated[int, msgspec.Meta(ge=4096, le=1 << 40)] = 16 << 20
    files: Annotated[int, msgspec.Meta(ge=2, le=1000)] = 8


class StoreSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where snapshots lie. ``default`` is a name of ``urls``, a URL, or ``local``: ``<state>/snapshots``.

    ``urls`` gives names to ``file:///directory`` and ``s3://bucket/prefix?endpoint=…&region=…&profile=…``. ``timeout``
    (seconds) bounds one connect and one read of a request, ``attempts`` counts the first; ``workers`` blocks move at
    once. ``grace`` (seconds) is how long a block that no snapshot lists is kept at least.
    """

    default: str = "local"
    urls: dict[Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9-]{0,39}\Z")], str] = {}
    timeout: Annotated[float, msgspec.Meta(gt=0, le=30)] = 20.0
    attempts: Annotated[int, msgspec.Meta(ge=1, le=20)] = 6
    workers: Annotated[int, msgspec.Meta(ge=1, le=64)] = 8
    grace: Annotated[float, msgspec.Meta(ge=0, le=31_536_000)] = 3600.0


class RegionSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Other Regions that this machine has an installation of: a state directory, a catalog and a KMS of their own.

    ``files`` gives the settings file of each, by the Region's name; ``kms.region`` in that file must be the same.
    """

    files: dict[Annotated[str, msgspec.Meta(pattern=r"\A[a-z]{2,4}(-[a-z]+)+-\d{1,2}\Z")], str] = {}


class ApiSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How `api serve` answers EC2's and other AWS clients, when not told otherwise.

    ``bind`` and ``port`` are where it listens. ``certificate`` and ``certificate_key`` are PEM files: with them it
    speaks TLS, without them it binds to this machine's own addresses only. ``workers`` requests are answered at once.
    """

    bind: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 4580
    certificate: str = ""
    certificate_key: str = ""
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All sections together, as `load` makes them."""

    paths: PathSettings
    kms: KmsSettings = KmsSettings()
    attach: AttachSettings = AttachSettings()
    events: EventSettings = EventSettings()
    audit: AuditSettings = AuditSettings()
    stores: StoreSettings = StoreSettings()
    regions: RegionSettings = RegionSettings()
    api: ApiSettings = ApiSettings()

    @property
    def catalog_path(self) -> Path:
        return Path(self.paths.state) / "catalog.db"

    @property
    def volumes_dir(self) -> Path:
        return Path(self.paths.state) / "volumes"

    @property
    def events_dir(self) -> Path:
        """Where events wait for their targets: lock, log and dead letters of the deliverer."""
        return Path(self.paths.state) / "events"

    @property
    def audit_dir(self) -> Path:
        """Where every KMS request leaves its record."""
        return Path(self.paths.state) / "audit"

    @property
    def snapshots_dir(self) -> Path:
        """The store called ``local``, unless `StoreSettings.urls` says otherwise."""
        return Path(self.paths.state) / "snapshots"

    @property
    def manifest_key_path(self) -> Path:
        """The secret by which this installation knows its own manifests again."""
        return Path(self.paths.state) / "manifest.key"

    @property
    def api_dir(self) -> Path:
        """What the API keeps beside the catalog: its access keys."""
        return Path(self.paths.state) / "api"

    @property
    def kms_dir(self) -> Path:
        return Path(self.paths.state) / "kms"

    def runtime_dir(self, volume_id: str) -> Path:
        """Where one volume's daemon keeps its sockets, spec and attachment record."""
        return Path(self.paths.runtime) / volume_id


_SECTIONS: Final = {
    "paths": PathSettings,
    "kms": KmsSettings,
    "attach": AttachSettings,
    "events": EventSettings,
    "audit": AuditSettings,
    "stores": StoreSettings,
    "regions": RegionSettings,
    "api": ApiSettings,
}
_SHORT: Final = {
    "EBSCRYPT_STATE_DIR": ("paths", "state"),
    "EBSCRYPT_RUNTIME_DIR": ("paths", "runtime"),
    "EBSCRYPT_KMS": ("kms", "endpoint"),
    "EBSCRYPT_REGION": ("kms", "region"),
    "EBSCRYPT_ACCOUNT": ("kms", "account"),
}
_TABLES: Final = frozenset({("stores", "urls"), ("regions", "files")})
_NOT_SETTINGS: Final = frozenset({"EBSCRYPT_CONFIG"})


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this process. Raises `ConfigError` naming the file or variable and the key."""
    path = _config_path(environ)
    values = _default_paths(environ)
    if path.exists():
        _merge(values, _read(path))
    elif "EBSCRYPT_CONFIG" in environ:
        raise ConfigError(f"there is no configuration file {path}", hint="EBSCRYPT_CONFIG names it")
    _merge(values, _from_environment(environ))
    if "state" in values["paths"] and "runtime" not in values["paths"]:
        values["paths"]["runtime"] = str(Path(values["paths"]["state"]) / "run")
    try:
        settings = msgspec.convert(values, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"a setting is wrong: {error}", hint=f"settings come from {path} and EBSCRYPT_* variables"
        ) from None
    _check_endpoint(settings.kms.endpoint)
    return settings


def _check_endpoint(endpoint: str) -> None:
    if endpoint not in ("embedded", "aws") and not endpoint.startswith(("http://", "https://")):
        raise ConfigError(
            f"kms.endpoint is {endpoint[:80]!r}", hint="it is embedded, aws or the http(s):// URL of an endpoint"
        )


def _config_path(environ: Mapping[str, str]) -> Path:
    if named := environ.get("EBSCRYPT_CONFIG"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/etc/ebscrypt/config.toml")
    return _xdg(environ, "XDG_CONFIG_HOME", ".config") / "ebscrypt/config.toml"


def _default_paths(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Root: /var/lib and /run. Others: the XDG places. A moved state directory takes the runtime files along."""
    region = environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION")
    kms: dict[str, Any] = {"region": region} if region else {}
    if "EBSCRYPT_STATE_DIR" in environ:
        return {"paths": {}, "kms": kms, "attach": {}}
    if os.geteuid() == 0:
        paths = {"state": "/var/lib/ebscrypt", "runtime": "/run/ebscrypt"}
    else:
        paths = {"state": str(_xdg(environ, "XDG_STATE_HOME", ".local/state") / "ebscrypt")}
        if runtime := environ.get("XDG_RUNTIME_DIR"):
            paths["runtime"] = str(Path(runtime) / "ebscrypt")
    return {"paths": paths, "kms": kms, "attach": {}}


def _xdg(environ: Mapping[str, str], name: str, default: str) -> Path:
    return Path(environ.get(name) or Path(environ.get("HOME", "/")) / default)


def _read(path: Path) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - many a process has no file to read, and a daemon keeps what it imports

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the configuration file {path}: {error}") from error


def _merge(into: dict[str, dict[str, Any]], new: dict[str, Any]) -> None:
    for section, values in new.items():
        if section not in _SECTIONS or not isinstance(values, dict):
            raise ConfigError(f"there is no section {section!r}", hint=f"sections are {', '.join(_SECTIONS)}")
        into.setdefault(section, {}).update(values)


def _from_environment(environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, value in environ.items():
        if not name.startswith("EBSCRYPT_") or name in _NOT_SETTINGS:
            continue
        section, key = _SHORT.get(name) or _long_name(name)
        found.setdefault(section, {})[key] = _table(name, value) if (section, key) in _TABLES else value
    return found


def _table(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{name} is no JSON object: {error}", hint='write {"name": "value"}') from None


def _long_name(name: str) -> tuple[str, str]:
    section, _, key = name.removeprefix("EBSCRYPT_").lower().partition("_")
    if section not in _SECTIONS or key not in _SECTIONS[section].__struct_fields__:
        raise ConfigError(
            f"there is no setting {name}", hint="settings and their variables are listed in ebscrypt.toml(5)"
        )
    return section, key
