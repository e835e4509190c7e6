"""The watch's process: one for a volume, there as long as its daemon, and nothing of it left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from ebscrypt.config import Settings
from ebscrypt.control import process, runtime, systemd, watch
from ebscrypt.control.site import Site
from ebscrypt.model import OnKeyUnusable, Volume
from tests.unit.control.served import served


def wait_until_watched(settings: Settings, volume_id: str, *, is_so: bool = True) -> None:
    deadline = time.monotonic() + 30
    while watch.is_watched(settings, volume_id) is not is_so:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def hourly(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings by which the first check is the only one; it finds no KMS and says so, which is no matter here."""
    for name, value in process.environment(settings).items():
        if name.startswith("EBSCRYPT_"):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("EBSCRYPT_ATTACH_KEY_CHECK_INTERVAL", "3600")
    return settings


def test_a_watch_is_one_and_ends_when_told(site: Site, volume: Volume, hourly: Settings) -> None:
    """A second one waits for the first, so that a watch that ends leaves no gap; `stop` leaves none."""
    with served(site, volume, OnKeyUnusable.SUSPEND):
        watch.start_if_wanted(site, volume.volume_id)
        wait_until_watched(hourly, volume.volume_id)
        pid = int((hourly.runtime_dir(volume.volume_id) / "watch.lock").read_text().split()[0])
        watch.start_if_wanted(site, volume.volume_id)
        assert len(watch._children) == 1

        watch.stop(hourly, volume.volume_id)

        assert not watch.is_watched(hourly, volume.volume_id)
        assert not Path(f"/proc/{pid}").exists()
        assert watch._children == []


def test_ignore_has_no_watch(site: Site, volume: Volume) -> None:
    """EBS's own behaviour costs no process."""
    with served(site, volume, OnKeyUnusable.IGNORE):
        watch.start_if_wanted(site, volume.volume_id)

    assert watch._children == []
    assert not (site.settings.runtime_dir(volume.volume_id) / "watch.log").exists()


def test_a_watch_ends_with_the_attachment(site: Site, volume: Volume, hourly: Settings) -> None:
    """Its runtime directory is gone and so is its daemon: nobody has to tell it."""
    stand_in = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with served(site, volume, OnKeyUnusable.SUSPEND):
        attachment = runtime.read_attachment(hourly, volume.volume_id)
        assert attachment is not None
        began = Path(f"/proc/{stand_in.pid}/stat").read_text().rpartition(")")[2].split(maxsplit=20)[19]
        runtime.write_attachment(hourly, msgspec.structs.replace(attachment, pid=stand_in.pid, pid_start=int(began)))
        watch.start_if_wanted(site, volume.volume_id)
        wait_until_watched(hourly, volume.volume_id)
    (child,) = watch._children
    stand_in.communicate()
    runtime.remove(hourly, volume.volume_id)

    assert child.wait(30) == 0
    watch._reap()


def test_the_key_is_tried_at_once_and_then_in_every_interval(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No pause is longer than the interval and a tenth: what the threat model says of a suspension counts on it."""
    pauses: list[float] = []
    checks: list[int] = []
    daemons = [(1, 1)]

    def select(_: list[int], __: list[int], ___: list[int], pause: float) -> tuple[list[int], list[int], list[int]]:
        assert len(checks) == len(pauses) + 1
        pauses.append(pause)
        return ([7] if len(pauses) == 200 else []), [], []

    attach = msgspec.structs.replace(settings.attach, key_check_interval=60.0)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(watch, "_acquire", lambda *_: os.open(os.devnull, os.O_RDONLY))
    monkeypatch.setattr(watch, "_daemon", lambda *_: daemons.pop() if daemons else None)
    monkeypatch.setattr(process, "followed", lambda *_: contextlib.nullcontext(7))
    monkeypatch.setattr(watch, "_check", lambda _: checks.append(1))
    monkeypatch.setattr("select.select", select)

    assert watch.run(msgspec.structs.replace(settings, attach=attach), "vol-00000000000000001") == 0

    assert (len(checks), len(pauses)) == (200, 200)
    assert 54.0 <= min(pauses) < max(pauses) <= 66.0


def test_a_watch_for_nothing_ends_at_once(settings: Settings) -> None:
    """No runtime directory, no lock file: the volume was detached before it came to look."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        assert watch.run(settings, "vol-0123456789abcdef0") == 0
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_a_watch_waits_for_the_one_before(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as that may look for a successor of its daemon, and then it leaves it to it."""
    folder = settings.runtime_dir("vol-0123456789abcdef0")
    folder.mkdir()
    first = watch._acquire(settings, folder.name)
    assert first is not None
    assert watch.is_watched(settings, folder.name)
    monkeypatch.setattr(watch, "_LOCK_PATIENCE", 0.2)
    assert watch._acquire(settings, folder.name) is None
    monkeypatch.setattr(watch, "_LOCK_PATIENCE", 30)
    threading.Timer(0.2, os.close, [first]).start()
    second = watch._acquire(settings, folder.name)

    assert second is not None
    assert (folder / "watch.lock").read_text().split()[0] == str(os.getpid())
    os.close(second)
    assert not watch.is_watched(settings, folder.name)


def test_systemd_is_asked_even_while_a_watch_ends(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """`modify` and a daemon's restart stop the old one without waiting: it has the lock still, and soon is gone."""
    started: list[str] = []

    def start(volume_id: str) -> bool:
        started.append(volume_id)
        return True

    monkeypatch.setattr(systemd, "is_used", lambda _: True)
    monkeypatch.setattr(systemd, "start_watch", start)
    with served(site, volume, OnKeyUnusable.SUSPEND):
        ending = watch._acquire(site.settings, volume.volume_id)
        assert ending is not None
        watch.start_if_wanted(site, volume.volume_id)
        os.close(ending)

    assert started == [volume.volume_id]


def test_a_detachment_that_systemd_does_not_take_is_told(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The volume is still there although its key cannot be used: the watch's log must say why."""
    monkeypatch.setattr(systemd, "is_used", lambda _: True)
    monkeypatch.setattr(systemd, "start_detach", lambda _: False)

    watch.start_detach(settings, "vol-0123456789abcdef0")

    assert "did not take the order to detach vol-0123456789abcdef0" in caplog.text
