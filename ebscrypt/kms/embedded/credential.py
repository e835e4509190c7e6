"""Encrypted credentials of systemd: files that only this machine opens, by its host key, its TPM, or both together.

`systemd-creds` (systemd 250 and later) does the work, in a process of its own. What is secret goes through pipes: never
into an argument, the environment or a file. The name under which it is sealed is part of what is authenticated, so a
credential that was made for something else does not open as ours.
"""

from __future__ import annotations

import base64
import binascii
import subprocess
from typing import Final

from ebscrypt.errors import ConfigError

NAME: Final = "ebscrypt-kms-root"
"""Also the ID for LoadCredential= and LoadCredentialEncrypted=."""
WITH_KEYS: Final = ("tpm2", "host", "host+tpm2", "auto")
"""As `systemd-creds encrypt --with-key` has them; auto is host+tpm2 where there is a TPM, else host."""
LARGEST: Final = 64 * 1024
"""Bytes of an encrypted credential that are read at most: 163 with the host key, some 600 with a TPM, as measured."""

_PROGRAM: Final = "systemd-creds"
_SECONDS: Final = 60
"""A discrete TPM takes seconds for one operation; more means that it does not answer."""
_KINDS: Final = {
    "5a1c6a86df9d4096b1d5a65e0862f19a": "host",
    "0c7cc07b117645919c4b0bea08bc20fe": "tpm2",
    "faf7eb9341e3412ca1a436f95a29362f": "tpm2",
    "93a894094874449090caf2fc93cab553": "host+tpm2",
    "af4950a849134eb1a73846304ff30c05": "host+tpm2",
}
"""The first 16 bytes of an encrypted credential say which keys are needed (systemd, src/shared/creds-util.h)."""


def encrypt(secret: bytes, with_key: str, pcrs: str | None = None) -> tuple[bytes, list[str]]:
    """``secret`` as the content of a credential file, and what systemd-creds said besides.

    ``pcrs`` are the TPM's registers that must be the same to open it, ``7+14`` for example; None: systemd's default.
    Raises `ConfigError` when systemd-creds is missing or refuses.
    """
    options = ["encrypt", f"--with-key={with_key}", f"--name={NAME}"]
    if pcrs is not None:
        options.append(f"--tpm2-pcrs={pcrs}")
    return _run(options, secret, "seal the root key", "see `systemd-creds has-tpm2`; --with-key host needs no TPM")


def decrypt(sealed: bytes, origin: object) -> bytes:
    """The secret in a credential file's content; ``origin`` names it in errors. Raises `ConfigError`."""
    hint = (
        "sealed credentials open on the machine, and with the TPM and boot state, that sealed them: "
        "there, or put back the root key or `ebscrypt kms import` a backup"
    )
    return _run(["decrypt", f"--name={NAME}"], sealed, f"open the sealed root key {origin}", hint)[0]


def sealed_with(sealed: bytes) -> str | None:
    """Which keys open it, in the words of ``--with-key``; None when systemd has a new kind."""
    try:
        return _KINDS.get(base64.b64decode(sealed)[:16].hex())
    except binascii.Error:
        return None


def _run(options: list[str], stdin: bytes, what: str, hint: str) -> tuple[bytes, list[str]]:
    try:
        # The environment is handed on: SYSTEMD_TPM2_DEVICE and SYSTEMD_CREDENTIAL_SECRET name unusual places.
        done = subprocess.run(
            [_PROGRAM, *options, "-", "-"], input=stdin, capture_output=True, timeout=_SECONDS, check=False
        )
    except FileNotFoundError:
        raise ConfigError(
            f"cannot {what}: there is no program {_PROGRAM}", hint="it is part of systemd 250 and later"
        ) from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"cannot {what}: {_PROGRAM} took longer than {_SECONDS} s", hint=hint) from None
    said = [_printable(line) for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
    if done.returncode != 0:
        why = said[-1] if said else f"exit status {done.returncode}"
        raise ConfigError(f"cannot {what}: {_PROGRAM}: {why}", hint=hint)
    return done.stdout, said


def _printable(line: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in line)[:300]
