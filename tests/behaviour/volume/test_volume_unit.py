"""Attachments through ``ebscrypt@.service``, with a stand-in for systemctl that runs the unit's steps as systemd does.

The real one is started in the virtual machine; here each order of steps can be had at will.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.cli.main import main
from ebscrypt.control import systemd
from tests.behaviour.volume.place import Place, wait_until

SYSTEMCTL = """#!/bin/sh
# The unit's steps, in systemd's order: see systemd/ebscrypt@.service and systemd.service(5).
echo "$@" >> "$FAKE_LOG"
volume=${2#ebscrypt@}; volume=${volume%.service}
step() { "$FAKE_PYTHON" -m ebscrypt.cli.main attachment "$1" "$volume" >> "$FAKE_LOG" 2>&1; }
case $1 in
start)
    step prepare || { step clean; exit 1; }
    setsid "$FAKE_PYTHON" -m ebscrypt.daemon "$volume" < /dev/null >> "$FAKE_LOG" 2>&1 &
    pid=$!
    while kill -0 $pid 2> /dev/null; do
        grep -q "\\"pid\\":$pid," "$FAKE_RUN/$volume/attachment.json" 2> /dev/null && { step commit; exit; }
        sleep 0.05
    done
    step clean
    exit 1 ;;
stop)
    step stop
    step clean ;;
is-active) exit 3 ;;
esac
"""


class Systemd:
    """The stand-in: its own calls, and commands of ebscrypt that believe in it."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.place = place
        self.log = place.directory / "systemctl.log"
        self._capfd = capfd
        program = place.directory / "bin" / "systemctl"
        program.parent.mkdir()
        program.write_text(SYSTEMCTL)
        program.chmod(0o755)
        for name in [name for name in os.environ if name.startswith(("EBSCRYPT_", "AWS_"))]:
            monkeypatch.delenv(name)
        environ = place.environ | {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "EBSCRYPT_ATTACH_EXPORT": "socket",
            "FAKE_LOG": str(self.log),
            "FAKE_PYTHON": sys.executable,
            "FAKE_RUN": str(place.runtime),
        }
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(systemd, "is_used", lambda _: True)

    def ctl(self, verb: str, volume_id: str) -> bool:
        """What an administrator types."""
        return systemd._systemctl(verb, systemd.unit(volume_id)).returncode == 0

    def ebscrypt(self, *words: str) -> tuple[int, str, str]:
        status = main(words)
        out, err = self._capfd.readouterr()
        return status, out.strip(), err


@pytest.fixture
def unit(place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Systemd]:
    umask = os.umask(0o077)
    yield Systemd(place, monkeypatch, capfd)
    os.umask(umask)


def grants(place: Place, key: str) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = place.run("kms", "list-grants", key, "--output", "json").json["Grants"]
    return listed


def last_event(place: Place) -> dict[str, Any]:
    with Catalog(place.directory / "s" / "catalog.db") as catalog:
        return catalog.events()[-1][1]


def test_attach_and_detach_go_through_the_unit(place: Place, volume_id: str, unit: Systemd) -> None:
    """The unit's steps do not wait for the command that waits for them, and do its work only once."""
    status, device, err = unit.ebscrypt("attach", volume_id, "--export", "socket")
    assert status == 0, err
    assert device.startswith("nbd+unix:///")
    assert place.show(volume_id)["State"] == "in-use"

    assert unit.ebscrypt("detach", volume_id)[0] == 0

    assert place.show(volume_id)["State"] == "available"
    assert place.daemons() == []
    assert list(place.runtime.iterdir()) == []
    asked = [line.split()[0] for line in unit.log.read_text().splitlines() if "ebscrypt@" in line]
    assert [verb for verb in asked if verb in ("start", "stop")] == ["start", "stop"]


def test_systemctl_alone_is_the_same(place: Place, volume_id: str, unit: Systemd) -> None:
    """`systemctl start` attaches with the settings' export, `systemctl stop` detaches; the grant comes and goes."""
    assert unit.ctl("start", volume_id), unit.log.read_text()
    attached = place.attachment(volume_id)
    assert (attached["State"], attached["Export"]) == ("attached", "socket")
    key = place.show(volume_id)["KmsKeyId"]
    assert len(grants(place, key)) == 1

    assert unit.ctl("stop", volume_id)

    assert grants(place, key) == []

    assert place.show(volume_id)["State"] == "available"
    assert place.daemons() == []
    assert list(place.runtime.iterdir()) == []


def test_a_volume_that_the_unit_attached_is_detached_by_the_command(
    place: Place, volume_id: str, unit: Systemd
) -> None:
    """And the other way round: they are one attachment."""
    unit.ctl("start", volume_id)
    assert unit.ebscrypt("detach", volume_id)[0] == 0
    assert place.show(volume_id)["State"] == "available"
    assert unit.ebscrypt("attach", volume_id)[0] == 0

    unit.ctl("stop", volume_id)

    assert place.show(volume_id)["State"] == "available"


@pytest.mark.parametrize("way", ["command", "unit"])
def test_a_refusal_of_kms_comes_through(place: Place, unit: Systemd, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """The command tells the daemon's own error; either way there is one event, and nothing is left."""
    monkeypatch.setenv("EBSCRYPT_KMS_GRANTS", "never")  # a grant would be refused before there is a daemon
    key = place.do("kms", "create-key")
    volume_id = place.do("create", "--size", "8M", "--kms-key-id", key)
    place.do("kms", "disable-key", key)
    with Catalog(place.directory / "s" / "catalog.db") as catalog:
        before = len(catalog.events())

    if way == "command":
        status, _, err = unit.ebscrypt("attach", volume_id)
        assert status == 1
        assert f"{key} is disabled" in err
    else:
        assert not unit.ctl("start", volume_id)

    with Catalog(place.directory / "s" / "catalog.db") as catalog:
        assert len(catalog.events()) == before + 1
    assert last_event(place)["detail"]["event"] == "attachVolume"
    assert place.show(volume_id)["State"] == "available"
    assert list(place.runtime.iterdir()) == []


def test_a_boot_with_an_unusable_key(place: Place, unit: Systemd) -> None:
    """What the shutdown stopped and the boot starts again is a reattachment, which fails as EBS's does."""
    key = place.do("kms", "create-key")
    volume_id = place.do("create", "--size", "8M", "--kms-key-id", key)
    assert unit.ctl("start", volume_id), unit.log.read_text()
    assert unit.ctl("stop", volume_id)
    place.do("kms", "disable-key", key)

    assert not unit.ctl("start", volume_id)

    event = last_event(place)
    assert (event["detail"]["event"], event["detail"]["cause"]) == ("reattachVolume", f"{key} is disabled.")
    assert f"{key} is disabled" in place.show(volume_id)["AttachFailure"]
    assert grants(place, key) == []
    assert list(place.runtime.iterdir()) == []


def test_a_killed_daemon_is_restarted_by_the_unit(place: Place, volume_id: str, unit: Systemd) -> None:
    """After a crash systemd runs stop and clean, then starts again: stop leaves the dead alone, start serves anew."""
    unit.ctl("start", volume_id)
    first = place.kill_daemon(volume_id)
    unit.ctl("stop", volume_id)
    wait_until(lambda: place.daemons() == [])

    assert unit.ctl("start", volume_id), unit.log.read_text()

    assert place.attachment(volume_id)["State"] == "attached"
    assert place.attachment(volume_id)["Pid"] != first


def test_a_volume_that_is_attached_is_not_prepared_again(place: Place, volume_id: str, unit: Systemd) -> None:
    """A second start fails at its first step and does not disturb the first."""
    unit.ctl("start", volume_id)
    pid = place.attachment(volume_id)["Pid"]

    ran = place.run("attachment", "prepare", volume_id)

    assert ran.status == 1
    assert f"by process {pid}" in ran.err
    assert place.attachment(volume_id)["Pid"] == pid


def test_it_is_used_only_where_it_can_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not without systemd, not for another user, not with moved settings, not without the unit."""
    from ebscrypt import config  # noqa: PLC0415 - beside its one use

    standard = config.load({})
    moved = config.load({"EBSCRYPT_STATE_DIR": str(tmp_path)})
    installed = {"is": True}
    monkeypatch.setattr(systemd, "is_installed", lambda: installed["is"])
    monkeypatch.setattr(systemd, "_RUNNING", tmp_path)
    monkeypatch.setattr(systemd, "_UNIT_ENVIRONMENT", tmp_path / "environment")
    assert systemd.is_used(standard)

    assert not systemd.is_used(moved)
    (tmp_path / "environment").write_text(f'# ours\nEBSCRYPT_STATE_DIR="{tmp_path}"\n')
    assert systemd.is_used(moved)
    assert not systemd.is_used(standard)
    (tmp_path / "environment").unlink()
    installed["is"] = False
    assert not systemd.is_used(standard)
    installed["is"] = True
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not systemd.is_used(standard)
    monkeypatch.undo()
    monkeypatch.setattr(systemd, "_RUNNING", tmp_path / "missing")
    assert not systemd.is_used(standard)
