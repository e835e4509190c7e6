"""The guest's kernel and root disk: Debian's own, of this machine's release, made once and kept in the cache.

The kernel is the newest that apt knows, unpacked, never installed. The root is a minimal Debian by mmdebstrap, with
the kernel's modules and the tools that the tests use, written into an ext4 disk. Nothing of the machine outside the
cache is touched, no privilege is needed, and nothing of the machine's own configuration reaches the guest.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

_GUEST_FILES: Final = Path(__file__).parent / "guest"
_PACKAGES: Final = (
    "busybox-static",
    "cpio",
    "cryptsetup-bin",
    "e2fsprogs",
    "fuse3",
    "iproute2",
    "kmod",
    "libfuse3-3",
    "libnbd-bin",
    "procps",
    "psmisc",
    "python3",
    "qemu-guest-agent",
    "systemd-sysv",
    "udev",
)
_OLDEST_KERNEL: Final = (6, 5)
"""The first kernel in which memfd_secret works without a boot option."""
_DISK_SIZE: Final = "4G"
_KERNEL_NAME: Final = re.compile(r"linux-image-(\d+(?:\.\d+)+)\+[a-z0-9.]+-amd64")


class GuestError(Exception):
    """The guest cannot be made or started; says what is missing."""


class GuestRoot(NamedTuple):
    """What a machine boots from. The disk is never written: each machine writes into a layer of its own."""

    kernel: Path
    initramfs: Path
    disk: Path

    @classmethod
    def inside(cls, folder: Path) -> GuestRoot:
        return cls(folder / "vmlinuz", folder / "initramfs", folder / "root.ext4")


def guest_root() -> GuestRoot:
    """The guest's root, from the cache or made now (under a minute). Raises `GuestError`."""
    package = _kernel_package()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ebscrypt"
    folder = cache / f"guest-{_fingerprint(package)}"
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / "guest.lock"):
        if not folder.exists():
            for old in (*cache.glob("guest-*/"), *cache.glob("making-*/")):
                shutil.rmtree(old)
            with tempfile.TemporaryDirectory(prefix="making-", dir=cache) as made:
                _make(package, Path(made))
                (Path(made) / "done").rename(folder)
    return GuestRoot.inside(folder)


def _kernel_package() -> str:
    """The package of the newest generic kernel that apt offers, by its own lists."""
    listed = _run("apt-cache", "search", "--names-only", "^linux-image-[0-9].*-amd64$")
    found = [match for match in map(_KERNEL_NAME.match, listed.splitlines()) if match]
    best = max(found, key=lambda match: _version(match[1]), default=None)
    if best is None or _version(best[1]) < _OLDEST_KERNEL:
        raise GuestError(
            "apt offers no Debian kernel of 6.5 or later: run `apt-get update`, or enable bookworm-security"
        )
    return best[0]


def _version(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(".")))


def _fingerprint(package: str) -> str:
    parts = [package, _release(), *_PACKAGES, _DISK_SIZE]
    parts += [path.read_text(encoding="utf-8") for path in sorted(_GUEST_FILES.iterdir())]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def _release() -> str:
    """The code name of this machine's Debian; the guest's Python must be the one that the program was installed for."""
    lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    if values.get("ID") != "debian":
        raise GuestError(f"the kernel lane runs on Debian; this machine's /etc/os-release says ID={values.get('ID')}")
    return values["VERSION_CODENAME"]


def _make(package: str, work: Path) -> None:
    """Fetch the kernel, have mmdebstrap make the root, and leave the three files in ``work``/done."""
    done = work / "done"
    done.mkdir()
    # apt fetches as its own user where it may; this folder is nobody's secret.
    work.chmod(0o755)
    _run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=work)
    (archive,) = work.glob("*.deb")
    kernel = package.removeprefix("linux-image-")
    hook = " ".join(['sh "$HOOK"', '"$1"', f"'{archive}'", kernel, f"'{done}'", _DISK_SIZE])
    _run(
        *("mmdebstrap", "--quiet", "--variant=minbase", "--format=null", f"--include={','.join(_PACKAGES)}"),
        *('--aptopt=Apt::Install-Recommends "false"', *_apt_options()),
        *(f"--dpkgopt=path-exclude=/usr/share/{kind}/*" for kind in ("doc", "locale", "man")),
        f"--customize-hook={hook}",
        *(_release(), "-", *_sources()),
        env={**os.environ, "HOOK": str(_GUEST_FILES / "make-disk"), "GUEST_FILES": str(_GUEST_FILES)},
    )


def _sources() -> list[str]:
    """Where this machine gets Debian from, so that a mirror set up here is used; mmdebstrap's default if unknown."""
    standard = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
    return [path for path in standard if Path(path).exists() and Path(path).stat().st_size]


def _apt_options() -> list[str]:
    """This machine's proxies and certificates for apt: mmdebstrap does not read apt's configuration by itself."""
    dumped = _run("apt-config", "dump", "--format", '%f "%v";%n', "Acquire::http", "Acquire::https")
    return [f"--aptopt={line}" for line in dumped.splitlines() if '""' not in line]


def _run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=cwd, env=env, timeout=600)
    except FileNotFoundError:
        raise GuestError(f"{command[0]} is not installed: run scripts/setup test") from None
    if done.returncode:
        raise GuestError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time makes the guest."""
    with path.open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
