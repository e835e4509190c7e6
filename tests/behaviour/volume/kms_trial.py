"""A site before a proxy that damages what KMS says, and the look at all that is written meanwhile."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from ebscrypt import errors
from ebscrypt.catalog.event_rows import Event
from ebscrypt.config import KmsSettings, PathSettings, Settings
from ebscrypt.control import grants
from ebscrypt.control.attach import attach_volume
from ebscrypt.control.detach import detach_volume
from ebscrypt.control.site import Site
from ebscrypt.errors import EbscryptError
from ebscrypt.kms.client import KmsClient
from ebscrypt.kms.retry import Retry
from ebscrypt.model import VolumeState
from tests.behaviour.volume.kms_proxy import SHORT, SILENT, THROTTLED, TRUNCATED, Proxy, content_of
from tests.unit.control.unwrapping import FakeDaemons

DEADLINE: Final = 0.6
"""Seconds for a call that gets no answer, with its retries."""
UNWRAPPING: Final = 20.0
"""The same, where an unwrap process must start within it."""
SLACK: Final = 3.0
"""Seconds between a deadline and the moment in which a busy machine notices it."""
ROLE: Final = "arn:aws:iam::000000000000:role/storage"
KINDS: Final = {THROTTLED: errors.KmsThrottled, TRUNCATED: errors.KmsBadAnswer, SHORT: errors.KmsBadAnswer}
"""All other faults are `KmsUnreachable`."""


def directory() -> Path:
    """A new one, in memory where that can be: nothing here is about what survives a power cut."""
    memory = next(place for place in ("/dev/shm", "/tmp") if os.access(place, os.W_OK))  # noqa: S108 - of mode 0700
    return Path(tempfile.mkdtemp(prefix="ef-", dir=memory))


class Impatient(KmsClient):
    """A client that has little time for a KMS that says nothing; ``waited`` is what the faulty operation took.

    Whatever KMS does say has as long as a busy machine may need.
    """

    def __init__(self, settings: Settings, proxy: Proxy, notes: list[str]) -> None:
        super().__init__(settings, notes=notes)
        self._proxy = proxy
        self.waited = 0.0

    def _send(self, operation: str, key: str | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
        faulty = operation == self._proxy.operation
        if faulty and self._proxy.fault == SILENT:
            self._retry = Retry(attempts=2, timeout=DEADLINE / 2, deadline=DEADLINE)
        else:
            self._retry = Retry(attempts=2, timeout=60.0, deadline=60.0)
        started = time.monotonic()
        try:
            return super()._send(operation, key, parameters)
        finally:
            if faulty:
                self.waited = max(self.waited, time.monotonic() - started)


class Trial:
    """A site before the proxy, its stand-in for daemons, and the look at what is written."""

    def __init__(self, proxy: Proxy, patch: pytest.MonkeyPatch, log: io.StringIO) -> None:
        self.directory = directory()
        self.proxy, self._log = proxy, log
        kms = KmsSettings(
            endpoint=proxy.url, grants="always", grantee=ROLE, retiring_principal=ROLE, deadline=UNWRAPPING
        )
        paths = PathSettings(state=str(self.directory / "s"), runtime=str(self.directory / "r"))
        self.site = Site(Settings(paths=paths, kms=kms))
        self.kms = Impatient(self.site.settings, proxy, self.site.notes)
        patch.setitem(self.site.__dict__, "kms", self.kms)
        patch.setattr(grants, "_impatient", lambda site: site.kms)
        self.daemons = FakeDaemons(self.site, patch)
        self.key = str(self.site.kms.call("CreateKey")["KeyMetadata"]["Arn"])
        self.told: list[str] = []

    @contextlib.contextmanager
    def in_time(self, operation: str, fault: str) -> Iterator[None]:
        """The block meets the fault, and waits no longer for KMS than it should."""
        self.kms.waited, started = 0.0, time.monotonic()
        with self.proxy.faulty(operation, fault):
            yield
        if self.kms.waited and fault == SILENT:
            assert self.kms.waited < DEADLINE + SLACK
        elif fault == SILENT:  # it was the unwrap process that waited
            assert time.monotonic() - started < UNWRAPPING + SLACK

    def fails(self, operation: str, fault: str, work: Callable[[], object]) -> EbscryptError:
        """Let ``work`` meet the fault; the error, which must be the right one."""
        with self.in_time(operation, fault), pytest.raises(EbscryptError) as caught:
            work()
        error = caught.value
        assert type(error) is KINDS.get(fault, errors.KmsUnreachable)
        assert operation in error.message
        self.told += [str(error), str(error.record()), repr(error), "".join(traceback.format_exception(error))]
        return error

    def events(self) -> list[Event]:
        return [event for _, event in self.site.catalog.events()]

    def expect_failed(self, name: str, volume_id: str) -> None:
        """The newest event says that this failed, and why."""
        newest = self.events()[-1]
        detail = newest["detail"]
        assert (detail["event"], detail["result"]) == (name, "failed")
        assert detail["cause"]
        assert newest["resources"][0].endswith(f":volume/{volume_id}")

    def expect_works(self, volume_id: str) -> None:
        """With KMS in order again the volume attaches and detaches, and no grant is left, neither noted nor in KMS."""
        attach_volume(self.site, volume_id)
        detach_volume(self.site, volume_id)
        assert self.site.catalog.volume(volume_id).state is VolumeState.AVAILABLE
        assert self.site.catalog.keys.grants() == []
        assert self.site.kms.call("ListGrants", KeyId=self.key)["Grants"] == []

    def expect_no_secrets(self) -> None:
        """In nothing that was written; backings have the wrapped key, as they must."""
        said = "\n".join([self._log.getvalue(), *self.told, *self.site.notes])
        assert "urllib3" in said, "the claim about what is logged is about nothing"
        assert self.proxy.written(said.encode()) == []
        for path in self.directory.rglob("*"):
            if path.is_file():
                own = path.suffix == ".luks"
                found = self.proxy.written(content_of(path), wrapped_too=not own, tokens_too=path.name != "spec.json")
                assert found == [], path

    def close(self) -> None:
        self.site.forget_catalog()
        shutil.rmtree(self.directory)
