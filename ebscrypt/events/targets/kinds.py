"""What a target is: one record a kind, checked when a rule is put and when it is read back."""

from __future__ import annotations

import re
import shlex
import shutil
from typing import Annotated, Final, TypeAlias
from urllib.parse import urlsplit

import msgspec

from ebscrypt.errors import CatalogDamaged, InvalidParameter

SAFE_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where a command target is looked for, and its PATH: not the path of whoever ran the command that had an event."""
_ARN: Final = re.compile(
    r"arn:[\w-]{1,20}:(?P<service>\w{1,20}):(?P<region>[\w-]{1,32}):\d{12}:(?P<rest>[\w./-]{1,256})"
)
_SHOWN: Final = 100

Timeout = Annotated[float, msgspec.Meta(gt=0, le=3600)]


class RetryPolicy(msgspec.Struct, frozen=True, rename="pascal", forbid_unknown_fields=True):
    """How often and how long a delivery is tried again; bounds and defaults are EventBridge's."""

    maximum_retry_attempts: Annotated[int, msgspec.Meta(ge=0, le=185)] = 185
    maximum_event_age_in_seconds: Annotated[int, msgspec.Meta(ge=60, le=86_400)] = 86_400


class _Target(msgspec.Struct, frozen=True, kw_only=True, rename="pascal", tag_field="Type", forbid_unknown_fields=True):
    timeout: Timeout = 60.0
    retry_policy: RetryPolicy = RetryPolicy()


class CommandTarget(_Target, frozen=True, kw_only=True, tag="Command", rename="pascal"):
    """A program and its arguments; no shell is between."""

    argv: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=100)]

    def __str__(self) -> str:
        return shlex.join(self.argv)


class WebhookTarget(_Target, frozen=True, kw_only=True, tag="Webhook", rename="pascal"):
    """An http or https URL that takes a POST. The URL may hold a secret: only its host is ever told."""

    url: str

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}/…"


class _ArnTarget(_Target, frozen=True, kw_only=True, rename="pascal"):
    arn: str

    def __str__(self) -> str:
        return self.arn

    @property
    def region(self) -> str:
        return self.arn.split(":")[3]

    @property
    def account(self) -> str:
        return self.arn.split(":")[4]

    @property
    def name(self) -> str:
        """The last part of the ARN."""
        return self.arn.split(":")[5].rpartition("/")[2]

    @property
    def is_fifo(self) -> bool:
        return self.arn.endswith(".fifo")


class BusTarget(_ArnTarget, frozen=True, kw_only=True, tag="EventBus", rename="pascal"):
    """An EventBridge event bus."""


class TopicTarget(_ArnTarget, frozen=True, kw_only=True, tag="Topic", rename="pascal"):
    """An SNS topic."""


class QueueTarget(_ArnTarget, frozen=True, kw_only=True, tag="Queue", rename="pascal"):
    """An SQS queue."""


Target: TypeAlias = CommandTarget | WebhookTarget | BusTarget | TopicTarget | QueueTarget

_SERVICES: Final = {BusTarget: "events", TopicTarget: "sns", QueueTarget: "sqs"}
_decoder: Final[msgspec.json.Decoder[Target]] = msgspec.json.Decoder(Target)


def encode(target: Target) -> str:
    """The JSON of a target, for the catalog."""
    return msgspec.json.encode(target).decode()


def decode(text: str) -> Target:
    """The target that `encode` wrote. Raises `CatalogDamaged`."""
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise CatalogDamaged(
            f"a target in the catalog is damaged: {error}", hint="delete its rule and put it again"
        ) from error


def check(target: Target) -> None:
    """Refuse what could never be delivered to. Raises `InvalidParameter`."""
    try:
        msgspec.convert(msgspec.to_builtins(target), type(target))
    except msgspec.ValidationError as error:
        raise InvalidParameter(f"the target {shown(str(target))} is wrong: {error}") from None
    match target:
        case CommandTarget():
            _check_command(target)
        case WebhookTarget():
            _check_url(target.url)
        case _:
            _check_arn(target)


def _check_command(target: CommandTarget) -> None:
    if any("\0" in word for word in target.argv):
        raise InvalidParameter(f"the command {shown(str(target))} has a null byte in it")
    program = target.argv[0]
    if "/" in program and not program.startswith("/"):
        raise InvalidParameter(f"the command {shown(program)} is relative", hint="give its full path")
    if shutil.which(program, path=SAFE_PATH) is None:
        where = "" if "/" in program else f" on {SAFE_PATH}"
        raise InvalidParameter(f"there is no program {shown(program)}{where}", hint="give its full path; chmod +x it")


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        named = parts.username is not None
    except ValueError:
        sound = named = False
    if not sound or not url.isascii() or not url.isprintable() or " " in url:
        raise InvalidParameter(f"{shown(url)} is not an http(s) URL with a host")
    if named:
        raise InvalidParameter("the URL of a webhook holds a user name", hint="put a token in its path or query")


def _check_arn(target: BusTarget | TopicTarget | QueueTarget) -> None:
    service = _SERVICES[type(target)]
    found = _ARN.fullmatch(target.arn)
    wants_bus = isinstance(target, BusTarget)
    if found is None or found["service"] != service or found["rest"].startswith("event-bus/") != wants_bus:
        form = "event-bus/NAME" if wants_bus else "NAME"
        raise InvalidParameter(
            f"{shown(target.arn)} is not the ARN of an {service} target",
            hint=f"its form is arn:aws:{service}:REGION:ACCOUNT:{form}",
        )


def shown(text: str) -> str:
    """A value as a message may show it."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")
