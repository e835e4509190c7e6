"""`examine`: each look at this machine, with what is right and with what is not."""

from __future__ import annotations

import os
import pwd
import resource
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ebscrypt import core
from ebscrypt.control import doctor, systemd
from ebscrypt.control.doctor import Finding, Level, examine
from ebscrypt.control.site import Site
from ebscrypt.daemon.exports import loop, mount, nbd_device
from ebscrypt.kms.audit import Trail
from ebscrypt.kms.audit_record import Exchange


def found(site: Site, check: str) -> list[Finding]:
    """The findings of one look."""
    return [finding for finding in examine(site) if finding.check == check]


def only(site: Site, check: str) -> Finding:
    (finding,) = found(site, check)
    return finding


def test_every_look_finds_something(site: Site) -> None:
    """All checks speak, in their documented order, and what is not ok says what to do."""
    findings = examine(site)

    order = ["exports", "memory", "systemd", "user", "directories", "catalog", "root key", "programs"]
    assert list(dict.fromkeys(finding.check for finding in findings)) == order
    assert all(finding.hint for finding in findings if finding.level in (Level.WARNING, Level.PROBLEM))


def test_looking_makes_nothing(site: Site) -> None:
    """A state directory that is not there is not made by looking for it."""
    state = Path(site.settings.paths.state)
    before = set(state.rglob("*")) if state.exists() else None

    examine(site)

    assert (set(state.rglob("*")) if state.exists() else None) == before


@pytest.mark.parametrize(
    ("nbd", "fuse", "says"),
    [
        (True, True, ["ok: the kernel has nbd"]),
        (True, False, ["ok: the kernel has nbd", "warning: no FUSE export"]),
        (False, True, ["warning: FUSE with loop devices"]),
        (False, False, ["warning: nothing but sockets", "warning: no FUSE export"]),
    ],
)
def test_exports(
    says: list[str], site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, nbd: bool, fuse: bool
) -> None:
    """With nbd nothing is wanting; what is there instead, and what is missing, is said."""
    monkeypatch.setattr(nbd_device, "is_available", lambda: nbd)
    monkeypatch.setattr(mount, "FUSE_DEVICE", Path("/dev/null") if fuse else tmp_path / "fuse")
    monkeypatch.setattr(loop, "CONTROL", Path("/dev/null") if fuse else tmp_path / "loop-control")

    findings = found(site, "exports")

    assert len(findings) == len(says)
    for finding, words in zip(findings, says, strict=True):
        level, _, text = words.partition(": ")
        assert finding.level == level
        assert text in finding.message


class _Memory:
    """Secret memory of the weaker kind."""

    kind = "memfd"

    def wipe(self) -> None:
        pass


def _refused() -> None:
    raise OSError(11, "Resource temporarily unavailable")


@pytest.mark.parametrize(
    ("memory", "level", "text"),
    [(_Memory, Level.WARNING, "root can read"), (_refused, Level.PROBLEM, "no memory can be locked")],
)
def test_memory(
    memory: Callable[[], object], level: Level, text: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fallback is a warning; no locked memory at all is a problem."""
    monkeypatch.setattr(core, "SecretMemory", memory)

    finding = only(site, "memory")

    assert finding.level is level
    assert text in finding.message


@pytest.mark.parametrize(("limit", "warned"), [(64 << 10, True), (8 << 20, False), (resource.RLIM_INFINITY, False)])
def test_memory_limit(limit: int, site: Site, monkeypatch: pytest.MonkeyPatch, *, warned: bool) -> None:
    """A small RLIMIT_MEMLOCK is told to who is bound by it, and not to who has CAP_IPC_LOCK."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    monkeypatch.setattr(doctor, "_may_lock_all", lambda: True)
    assert not any("RLIMIT" in finding.message for finding in found(site, "memory"))
    monkeypatch.setattr(doctor, "_may_lock_all", lambda: False)

    assert any(f"RLIMIT_MEMLOCK is {limit}" in finding.message for finding in found(site, "memory")) is warned


@pytest.mark.parametrize(
    ("running", "used", "installed", "level", "text"),
    [
        (False, False, False, Level.OK, "systemd does not run here"),
        (True, True, True, Level.OK, "daemons are units"),
        (True, False, True, Level.WARNING, "would not see this command's settings"),
        (True, False, False, Level.WARNING, "not installed"),
    ],
)
def test_systemd(  # noqa: PLR0917 - pytest passes them by name
    running: bool,  # noqa: FBT001
    used: bool,  # noqa: FBT001
    installed: bool,  # noqa: FBT001
    level: Level,
    text: str,
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Units where systemd has them and would see the same settings; else why not."""
    monkeypatch.setattr(doctor, "_RUNNING_SYSTEMD", tmp_path if running else tmp_path / "none")
    monkeypatch.setattr(systemd, "is_used", lambda _: used)
    monkeypatch.setattr(systemd, "is_installed", lambda: installed)

    finding = only(site, "systemd")

    assert finding.level is level
    assert text in finding.message


@pytest.mark.parametrize(("name", "level"), [(pwd.getpwuid(1).pw_name, Level.OK), ("no-such-user", Level.WARNING)])
def test_user(name: str, level: Level, site: Site) -> None:
    """Without the account the daemon becomes nobody, which is said."""
    attach = msgspec.structs.replace(site.settings.attach, user=name)
    other = Site(msgspec.structs.replace(site.settings, attach=attach))

    finding = only(other, "user")

    assert finding.level is level
    assert name in finding.message


def _recorded(site: Site) -> Path:
    """The audit directory, made by a record."""
    Trail(site.settings).record(Exchange(operation="ListKeys", parameters={}))
    return site.settings.audit_dir


def test_directories_open_to_others(site: Site) -> None:
    """Each that others may read or enter is a problem of its own, with the command that closes it."""
    audit = _recorded(site)
    assert only(site, "directories").level is Level.OK

    audit.chmod(0o755)
    Path(site.settings.paths.state).chmod(0o711)

    findings = found(site, "directories")
    assert [finding.level for finding in findings] == [Level.PROBLEM] * 2
    assert {finding.hint.split(",")[0] for finding in findings if finding.hint} == {
        f"chmod go= {site.settings.paths.state}",
        f"chmod go= {audit}",
    }


def test_directories_of_somebody_else(site: Site) -> None:
    """One that belongs to another user is a problem."""
    os.chown(_recorded(site), 1, 1)

    finding = only(site, "directories")

    assert finding.level is Level.PROBLEM
    assert "belongs to uid 1" in finding.message


def test_catalog(site: Site) -> None:
    """One that opens says how many volumes it has; one that is no database is a problem."""
    Path(site.settings.paths.state).mkdir(parents=True, exist_ok=True)
    site.settings.catalog_path.write_bytes(b"this is no database" * 100)

    finding = only(Site(site.settings), "catalog")

    assert finding.level is Level.PROBLEM
    assert str(site.settings.catalog_path) in finding.message


def test_root_key(site: Site) -> None:
    """None yet, then in clear with what that means, then open to others, which is a problem."""
    path = site.settings.kms_dir / "root.key"
    assert "none yet" in only(site, "root key").message
    site.kms.call("CreateKey")
    clear = only(site, "root key")
    path.chmod(0o644)
    opened = only(site, "root key")

    assert (clear.level, str(path) in clear.message, "in clear" in clear.message) == (Level.OK, True, True)
    assert opened.level is Level.PROBLEM
    assert "chmod 600" in str(opened.hint)


def test_no_root_key_elsewhere(site: Site) -> None:
    """Who has no embedded KMS is told nothing of its root key."""
    kms = msgspec.structs.replace(site.settings.kms, endpoint="aws")

    assert found(Site(msgspec.structs.replace(site.settings, kms=kms)), "root key") == []


def test_programs(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that is missing is named with its package and what it is for."""
    monkeypatch.setattr(doctor, "_SYSTEM_PATH", str(tmp_path))

    findings = found(site, "programs")

    assert [finding.message.split()[0] for finding in findings] == list(doctor._PROGRAMS)
    assert all(finding.level is Level.WARNING and "install " in str(finding.hint) for finding in findings)


def test_a_look_that_fails_is_a_finding(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the system in one look ends neither the others nor the command."""
    monkeypatch.setattr(nbd_device, "is_available", lambda: Path("/nowhere/at/all").stat())

    assert only(site, "exports").level is Level.PROBLEM
    assert found(site, "programs")
