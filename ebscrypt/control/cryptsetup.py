"""Stock cryptsetup at work on a volume's keyslots, which ebscrypt itself neither writes nor opens.

It runs without a terminal: the passphrase goes in by stdin, the data key by a pipe. Neither is ever in a file, an
argument or the environment. The data key goes from secret memory into the pipe by write(2), so that no Python object
holds it on the way; cryptsetup has it while it makes the keyslot, for seconds, and cannot leave a core file.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import re
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from ebscrypt.errors import HeaderError, NotFound
from ebscrypt.model import DATA_KEY_SIZE

if TYPE_CHECKING:
    from ebscrypt.core import SecretMemory

PBKDF: Final = ("--pbkdf", "argon2id")
"""What makes guessing slow; how slow, and with how much memory, cryptsetup measures on this machine."""
LONGEST_PASSPHRASE: Final = 512
"""Bytes that cryptsetup takes from a keyboard (its DEFAULT_PASSPHRASE_SIZE_MAX)."""
_SYSTEM_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_WRONG_PASSPHRASE: Final = 2
_NO_MEMORY: Final = 3
_LONGEST_TEXT: Final = 300
_UNLOCKED: Final = re.compile(r"^Key slot (\d+) unlocked", re.MULTILINE)


def add_keyslot(backing: str, key: SecretMemory, passphrase: bytes) -> None:
    """Let ``passphrase`` open the volume on ``backing``, whose data key is ``key``, by one more keyslot.

    Takes seconds, which is its purpose. Raises `HeaderError` with what cryptsetup said, say that no keyslot is free.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    with contextlib.ExitStack() as ends:
        ends.callback(os.close, writing)
        with contextlib.ExitStack() as theirs:
            theirs.callback(os.close, reading)
            size = ("--key-size", str(DATA_KEY_SIZE * 8))
            arguments = ("luksAddKey", *PBKDF, *size, "--volume-key-file", f"/proc/self/fd/{reading}", backing)
            running = ends.enter_context(_started(arguments, pass_fds=(reading,)))
        with contextlib.suppress(BrokenPipeError):  # it ended before it wanted the key, and will say why
            _hand_over(key, writing)
        status, _, told = _finish(running, passphrase)
    if status != 0:
        raise _failed("add a keyslot to", backing, status, told)


def find_keyslot(backing: str, passphrase: bytes, keyslot: int | None = None) -> int | None:
    """The number of the keyslot that ``passphrase`` opens, of all or just of ``keyslot``; None for no such one."""
    only = () if keyslot is None else ("--key-slot", str(keyslot))
    # Without a key file cryptsetup would try tokens first, and a TPM that opens the volume prove any passphrase right.
    arguments = ("open", "--test-passphrase", "--verbose", "--key-file", "-", *only, backing)
    with _started(arguments) as running:
        status, said, told = _finish(running, passphrase)
    if status == _WRONG_PASSPHRASE:
        return None
    found = _UNLOCKED.search(said)
    if status != 0 or found is None:
        raise _failed("try a passphrase on", backing, status, told)
    return int(found[1])


def remove_keyslot(backing: str, descriptor: int, keyslot: int) -> None:
    """Overwrite and remove a keyslot of the header that ``descriptor`` is open on; ``backing`` names it in errors.

    By descriptor, because cryptsetup asks nothing before it does this: not even whether it is the right volume.
    """
    arguments = ("luksKillSlot", f"/proc/self/fd/{descriptor}", str(keyslot))
    with _started(arguments, pass_fds=(descriptor,)) as running:
        status, _, told = _finish(running, b"")
    if status != 0:
        raise _failed(f"remove keyslot {keyslot} from", backing, status, told)


@contextlib.contextmanager
def _started(arguments: Sequence[str], pass_fds: tuple[int, ...] = ()) -> Iterator[subprocess.Popen[bytes]]:
    """A cryptsetup under way, without core files and asking nothing. It does not outlive the block."""
    program = shutil.which("cryptsetup", path=_SYSTEM_PATH)
    if program is None:
        raise NotFound("cryptsetup is not installed", hint="install the package cryptsetup-bin, or cryptsetup")
    with subprocess.Popen(
        [program, "--batch-mode", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=pass_fds,
        env={"PATH": _SYSTEM_PATH, "LC_ALL": "C"},
    ) as running:
        try:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(running.pid, resource.RLIMIT_CORE, (0, 0))
            yield running
        finally:
            running.kill()


def _hand_over(key: SecretMemory, descriptor: int) -> None:
    """Write the data key into a pipe. The kernel copies it out of the secret memory itself."""
    with mmap.mmap(key.fileno(), key.size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ) as content:
        # The fallback for memfd_secret is ordinary memory: this view of it must not be in a core file either.
        content.madvise(mmap.MADV_DONTDUMP)
        os.write(descriptor, content)


def _finish(running: subprocess.Popen[bytes], passphrase: bytes) -> tuple[int, str, str]:
    """Exit status, stdout and stderr."""
    said, told = running.communicate(passphrase)
    return running.returncode, said.decode(errors="replace"), told.decode(errors="replace")


def _failed(doing: str, backing: str, status: int, told: str) -> Exception:
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    reason = "".join(filter(str.isprintable, "; ".join(lines)))[:_LONGEST_TEXT] or f"it ended with status {status}"
    hint = "`cryptsetup luksDump` shows the keyslots"
    if status == _NO_MEMORY:
        hint = "its key derivation needs memory, up to 1 GiB where the machine has it: end other programs"
    return HeaderError(f"cryptsetup could not {doing} {backing}: {reason}", hint=hint)
