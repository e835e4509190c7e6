"""`examine`: is this machine fit for attaching volumes, and does what it keeps lie safely? Changes nothing.

exports      which ways of showing a volume the kernel gives
memory       where data keys will be
systemd      who runs the daemons
user         whom a daemon becomes
directories  the state directory and what is in it: ours, and closed to others
catalog      opens
root key     of the embedded KMS: where it is, and what that means
programs     those that ebscrypt starts

The permissions for a KMS key are another matter: doctor_key.py.
"""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import stat
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from ebscrypt.control import systemd
from ebscrypt.control.site import Site
from ebscrypt.errors import EbscryptError

_SYSTEM_PATH: Final = os.pathsep.join(filter(None, (os.environ.get("PATH"), "/usr/sbin", "/sbin", "/usr/bin", "/bin")))
_ENOUGH_LOCKED: Final = 8 << 20
"""Bytes of RLIMIT_MEMLOCK, the kernel's own default since 5.16: keys and their round keys take at most 3 MiB."""
_CAP_IPC_LOCK: Final = 14
_RUNNING_SYSTEMD: Final = Path("/run/systemd/system")

_PROGRAMS: Final = {
    "blkid": ("util-linux", "without it `create` cannot tell whether a backing is empty, and refuses it"),
    "modprobe": ("kmod", "without it the nbd module must be loaded already"),
    "fusermount3": ("fuse3", "without it users other than root cannot end a FUSE export"),
    "cryptsetup": ("cryptsetup-bin", "without it there are no recovery passphrases (`ebscrypt recovery`)"),
    "systemd-creds": ("systemd 250", "without it the embedded KMS's root key cannot be sealed to this machine"),
}
"""What each program is for, and the package that has it."""


class Level(StrEnum):
    """``warning``: less than there could be; ``problem``: something will fail or is open; ``untried``: not known."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    UNTRIED = "untried"


class Finding(msgspec.Struct, frozen=True, rename="pascal"):
    """What one look found, and what to do about it."""

    check: str
    level: Level
    message: str
    hint: str | None = None


def examine(site: Site) -> list[Finding]:
    """All findings about this machine, in the order above. What fails is a finding."""
    looks = (_exports, _memory, _systemd, _user, _directories, _catalog, _root_key, _programs)
    findings: list[Finding] = []
    for look in looks:
        try:
            findings += look(site)
        except (EbscryptError, OSError) as error:
            hint = error.hint if isinstance(error, EbscryptError) else None
            findings.append(Finding(look.__name__.strip("_").replace("_", " "), Level.PROBLEM, str(error), hint))
    return findings


def _exports(_: Site) -> Iterator[Finding]:
    from ebscrypt.daemon.exports import loop, mount, nbd_device  # noqa: PLC0415 - no other command needs all three

    if os.geteuid() != 0:
        hint = "block devices need root: sudo ebscrypt attach"
        yield Finding("exports", Level.WARNING, "this user can attach volumes as sockets only (--export socket)", hint)
        return
    nbd = nbd_device.is_available()
    fuse = mount.FUSE_DEVICE.exists() and loop.CONTROL.exists()
    if nbd:
        yield Finding("exports", Level.OK, "the kernel has nbd: volumes become /dev/nbdN")
    if not nbd:
        hint = "load the module: modprobe nbd; in a container its host has to"
        instead = "FUSE with loop devices" if fuse else "nothing but sockets"
        yield Finding("exports", Level.WARNING, f"the kernel has no nbd for this process: there is {instead}", hint)
    if not fuse:
        missing = [str(device) for device in (mount.FUSE_DEVICE, loop.CONTROL) if not device.exists()]
        yield Finding(
            "exports", Level.WARNING, f"{' and '.join(missing)} missing: no FUSE export", "modprobe fuse loop"
        )


def _memory(_: Site) -> Iterator[Finding]:
    from ebscrypt.core import SecretMemory  # noqa: PLC0415 - the compiled core: not for --help

    limit, _hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    try:
        memory = SecretMemory()
    except OSError as error:
        hint = "raise RLIMIT_MEMLOCK: `ulimit -l`, LimitMEMLOCK=, or docker run --ulimit memlock=-1"
        yield Finding("memory", Level.PROBLEM, f"no memory can be locked for a data key: {error.strerror}", hint)
        return
    kind = memory.kind
    memory.wipe()
    if kind == "memfd_secret":
        yield Finding("memory", Level.OK, "memfd_secret works: not even root can read a data key out of a daemon")
    else:
        hint = "boot with secretmem.enable=1 (before Linux 6.5), or let the container use memfd_secret"
        yield Finding(
            "memory", Level.WARNING, "no memfd_secret: data keys are in locked memory that root can read", hint
        )
    if limit != resource.RLIM_INFINITY and limit < _ENOUGH_LOCKED and not _may_lock_all():
        hint = "raise it to 8 MiB or more: `ulimit -l 8192`, LimitMEMLOCK="
        yield Finding("memory", Level.WARNING, f"RLIMIT_MEMLOCK is {limit} bytes: an attachment may not fit", hint)


def _may_lock_all() -> bool:
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = next((line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_IPC_LOCK & 1)


def _systemd(site: Site) -> Iterator[Finding]:
    own = "daemons are processes of ebscrypt's own, which nobody starts again after a crash or a reboot"
    if os.geteuid() != 0 or not _RUNNING_SYSTEMD.is_dir():
        why = "systemd does not run here" if os.geteuid() == 0 else "without root there are no units"
        yield Finding("systemd", Level.OK, f"{why}: {own}")
    elif systemd.is_used(site.settings):
        yield Finding("systemd", Level.OK, "daemons are units, ebscrypt@vol-….service")
    elif systemd.is_installed():
        hint = "put the variables into /etc/ebscrypt/environment, or the settings into /etc/ebscrypt/config.toml"
        yield Finding("systemd", Level.WARNING, f"a unit would not see this command's settings: {own}", hint)
    else:
        yield Finding("systemd", Level.WARNING, f"the unit is not installed: {own}", "run scripts/install")


def _user(site: Site) -> Iterator[Finding]:
    name = site.settings.attach.user
    if os.geteuid() != 0:
        return
    try:
        uid = pwd.getpwnam(name).pw_uid
    except KeyError:
        hint = "run scripts/install, or: useradd --system --no-create-home " + name
        yield Finding("user", Level.WARNING, f"there is no account {name}: daemons become nobody", hint)
        return
    yield Finding("user", Level.OK, f"daemons become {name} (uid {uid}) once they serve")


def _directories(site: Site) -> Iterator[Finding]:
    settings = site.settings
    state = Path(settings.paths.state)
    if not state.exists():
        yield Finding("directories", Level.OK, f"{state} is not there yet: the first command that needs it makes it")
        return
    closed = True
    for path in (state, settings.kms_dir, settings.audit_dir, settings.volumes_dir, settings.catalog_path):
        if path.exists() and (finding := _access(path)) is not None:
            closed = False
            yield finding
    if not os.access(state, os.W_OK):
        closed = False
        yield Finding("directories", Level.PROBLEM, f"this user may not write to {state}", "run the command with sudo")
    if closed:
        yield Finding("directories", Level.OK, f"{state} and what is in it is this user's, and closed to others")


def _access(path: Path) -> Finding | None:
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != os.geteuid():
        hint = f"run as its owner, or: chown -R {os.geteuid()} {path}"
        return Finding("directories", Level.PROBLEM, f"{path} belongs to uid {status.st_uid}, not {os.geteuid()}", hint)
    if mode & 0o077:
        hint = f"chmod go= {path}, and consider who may have read or changed it"
        return Finding("directories", Level.PROBLEM, f"{path} is open to others (mode {mode:04o})", hint)
    return None


def _catalog(site: Site) -> Iterator[Finding]:
    path = site.settings.catalog_path
    if not path.exists():
        yield Finding("catalog", Level.OK, "there is none yet")
        return
    count = len(site.catalog.volumes())
    yield Finding("catalog", Level.OK, f"{path} opens: {count} volume{'' if count == 1 else 's'}")


def _root_key(site: Site) -> Iterator[Finding]:
    if site.settings.kms.endpoint != "embedded":
        return
    from ebscrypt.kms.embedded import root_key  # noqa: PLC0415 - cryptography: for who has an embedded KMS

    place = root_key.places(site.settings)[0]
    if not place.exists():
        yield Finding("root key", Level.OK, f"there is none yet: the first key makes {place.path}")
        return
    root_key.read(place)
    if place.kind is root_key.Kind.FILE:
        text = f"{place.path} is in clear: with it and the embedded KMS's database every key can be had"
        yield Finding("root key", Level.OK, text, "seal it to this machine or its TPM: `ebscrypt kms root-key --help`")
    elif place.kind is root_key.Kind.SEALED:
        yield Finding("root key", Level.OK, f"{place.path} is sealed, and opens here")
    else:
        yield Finding("root key", Level.OK, f"{place.path}, a credential of systemd's")


def _programs(_: Site) -> Iterator[Finding]:
    missing = [name for name in _PROGRAMS if shutil.which(name, path=_SYSTEM_PATH) is None]
    for name in missing:
        package, why = _PROGRAMS[name]
        yield Finding("programs", Level.WARNING, f"{name} is not installed: {why}", f"install {package}")
    if not missing:
        yield Finding("programs", Level.OK, f"{', '.join(_PROGRAMS)} are installed")
