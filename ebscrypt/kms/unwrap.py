"""The way of a wrapped key to its plaintext, as the daemon sees it: a short-lived process asks KMS, and exits.

    daemon (no boto3, no plaintext)                        unwrap process
      SecretMemory, 64 bytes ── descriptor inherited ──→     maps it
      {wrapped key, context, key ARN} ── stdin ─────────→    KMS Decrypt
                             ←── stdout: one JSON line ──    fills it, exits at once

The plaintext exists in that process for milliseconds, and in the secret memory afterwards; never in a Python object of
the process that lives on (design, laws 3 and 6). stdin is a pipe, so nothing shows in arguments or environment.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

import ebscrypt
from ebscrypt.errors import DaemonError, KmsUnreachable, from_record

if TYPE_CHECKING:
    from ebscrypt.core import SecretMemory

MODULE: Final = "ebscrypt.kms.unwrap_process"
_LONGEST_ANSWER: Final = 64 * 1024

_PASSED_ON: Final = frozenset(
    {
        "HOME", "PATH", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONPATH",
        "XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "CREDENTIALS_DIRECTORY",
        "SYSTEMD_CREDENTIAL_SECRET", "SYSTEMD_TPM2_DEVICE",
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE",
    }
)  # fmt: skip
_PASSED_ON_PREFIXES: Final = ("AWS_", "EBSCRYPT_", "LC_")


class UnwrapRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the unwrap process reads from stdin: bytes in base64, as msgspec writes them.

    ``deadline`` is a moment of CLOCK_MONOTONIC, which all processes of a machine share. ``grant_token`` is that of the
    attachment's grant, if it has one.
    """

    wrapped_key: bytes
    context: dict[str, str]
    key_arn: str
    fd: int
    size: int
    deadline: float
    grant_token: str | None = None

    def __repr__(self) -> str:
        return f"UnwrapRequest({self.key_arn})"


class UnwrapAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What it writes to stdout, one line: an error's record, or nothing but notes on protections it could not have."""

    error: dict[str, str | None] | None = None
    notes: list[str] = []


def unwrap_key(
    wrapped_key: bytes,
    context: Mapping[str, str],
    key_arn: str,
    memory: SecretMemory,
    *,
    deadline: float,
    grant_token: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> list[str]:
    """Have KMS decrypt ``wrapped_key`` into ``memory``; return notes on what this machine could not protect.

    ``context`` is the encryption context and ``key_arn`` the KMS key that the volume's header names. At ``deadline``,
    a moment of `time.monotonic`, the process is killed if it has not answered. Settings and credentials come from
    ``environ`` (this process's environment) and files, as `ebscrypt.config.load` reads them. With ``grant_token`` the
    process asks under that grant, and the embedded KMS takes it for the grantee, so that the grant is what allows it.

    Raises what KMS or the settings were the cause of (`KmsError` and its family, `ConfigError`, `NotPermitted`),
    `KmsUnreachable` at the deadline, `DaemonError` when the process failed. Then ``memory`` holds zeros.
    """
    fd = memory.fileno()
    request = UnwrapRequest(wrapped_key, dict(context), key_arn, fd, memory.size, deadline, grant_token)
    process = subprocess.Popen(
        # -P: python -m would otherwise look for modules in the working directory first.
        [sys.executable, "-P", "-m", MODULE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(fd,),
        env=environment(os.environ if environ is None else environ),
    )
    unwrapped = False
    try:
        with process:
            notes = _finish(process, msgspec.json.encode(request), key_arn, deadline)
        unwrapped = True
    finally:
        if not unwrapped:
            # The process has ended, but may have filled the memory before something else went wrong.
            memory.fill(bytes(memory.size))
    return notes


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """The part of ``own`` that settings, credentials and network need, and nothing else."""
    passed = {
        name: value for name, value in own.items() if name.upper() in _PASSED_ON or name.startswith(_PASSED_ON_PREFIXES)
    }
    source = Path(ebscrypt.__file__).parents[1]
    if source.name not in ("site-packages", "dist-packages"):
        # Run from a source tree, perhaps found by working directory or sys.path only: the child must find the same.
        passed["PYTHONPATH"] = os.pathsep.join(filter(None, (str(source), passed.get("PYTHONPATH"))))
    return passed


def _finish(process: subprocess.Popen[bytes], request: bytes, key_arn: str, deadline: float) -> list[str]:
    started = time.monotonic()
    try:
        output, _ = process.communicate(request, timeout=max(0.0, deadline - started))
    except subprocess.TimeoutExpired:
        raise KmsUnreachable(
            f"KMS did not unwrap the key of {key_arn} within {max(0.0, deadline - started):.1f} s",
            hint="check network and KMS; kms.deadline says how long ebscrypt waits",
            key_arn=key_arn,
        ) from None
    finally:
        process.kill()
        process.wait()
    try:
        answer = msgspec.json.decode(output[:_LONGEST_ANSWER], type=UnwrapAnswer)
    except msgspec.DecodeError:
        raise DaemonError(
            f"the unwrap process {_ended(process.returncode)} without an answer",
            hint="its reason is on the standard error output: see the log of this service",
        ) from None
    if answer.error is not None:
        raise from_record(answer.error)
    if process.returncode != 0:
        raise DaemonError(f"the unwrap process {_ended(process.returncode)} after its answer")
    return answer.notes


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"
