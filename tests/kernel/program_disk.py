"""The disk with the program under test, mounted as the guest's /usr/local: as `pip install ebscrypt` leaves a Debian.

It has the package of this tree with its compiled core, and of the virtual environment only what the package declares
that it needs: what only the development tools bring along is not there, so nothing can come to need it unnoticed.
"""

from __future__ import annotations

import compileall
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from tests.kernel.guest_root import GuestError

_TREE: Final = Path(__file__).parents[2]
_SIZE: Final = "1G"
_COMMAND: Final = """\
#!/usr/bin/python3
import sys
from ebscrypt.cli.main import main
sys.exit(main())
"""


def write_program_disk(disk: Path) -> None:
    """Write the ext4 disk. Raises `GuestError` when the tree's core is not built."""
    if not list((_TREE / "ebscrypt").glob("_core*.so")):
        raise GuestError(f"{_TREE}/ebscrypt has no compiled core: run scripts/setup")
    with tempfile.TemporaryDirectory(prefix="ebscrypt-program-") as folder:
        _stage(Path(folder))
        subprocess.run(
            ["mke2fs", "-q", "-F", "-t", "ext4", "-O", "^has_journal", "-d", folder, disk, _SIZE], check=True
        )


def _stage(top: Path) -> None:
    top.chmod(0o755)
    packages = top / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/dist-packages"
    packages.mkdir(parents=True)
    for needed in _closure():
        _copy_distribution(needed, packages)
    shutil.copytree(_TREE / "ebscrypt", packages / "ebscrypt", ignore=shutil.ignore_patterns("__pycache__", "*.pyi"))
    # The service sees a read-only file system and could not keep what it compiles; under emulation that costs seconds.
    compileall.compile_dir(packages / "ebscrypt", stripdir=str(packages), quiet=2)
    for part in ("systemd", "scripts"):
        shutil.copytree(_TREE / part, top / "share/ebscrypt" / part)
    unwrap = top / "libexec/unwrap-key"
    unwrap.parent.mkdir()
    shutil.copy2(_TREE / "tests/kernel/guest/unwrap-key", unwrap)
    command = top / "bin/ebscrypt"
    command.parent.mkdir()
    command.write_text(_COMMAND, encoding="utf-8")
    command.chmod(0o755)


def _closure() -> Iterator[Distribution]:
    """The distributions that the project's dependencies need, and theirs."""
    project = tomllib.loads((_TREE / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [Requirement(text) for text in project["dependencies"]]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        found = distribution(requirement.name)
        waiting += map(Requirement, found.requires or ())
        yield found


def _copy_distribution(found: Distribution, packages: Path) -> None:
    """The distribution's files; what it put outside site-packages (commands, manual pages) is not needed."""
    for file in found.files or ():
        source = Path(str(found.locate_file(file)))
        if ".." not in file.parts and source.is_file():
            target = packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
