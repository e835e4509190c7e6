"""The unwrap process: reads a request, has KMS decrypt the wrapped key, fills the secret memory, exits at once.

Started by `ebscrypt.kms.unwrap`, see there. Not dumpable, no core file, memory locked where the machine allows it. It
writes one line to stdout and nothing to stderr: no traceback, since the frames below hold the plaintext. It ends by
_exit, so that nothing runs after the key was here: no handlers, no destructors, no flushing of buffers.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import time
import warnings
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from ebscrypt.errors import DaemonError, EbscryptError
from ebscrypt.kms.unwrap import UnwrapAnswer, UnwrapRequest

if TYPE_CHECKING:
    from ebscrypt.config import Settings

_MARGIN: Final = 0.5
"""Seconds kept for writing the answer."""
_NOT_LOCKED: Final = (
    "the unwrap process could not lock its memory (RLIMIT_MEMLOCK): for some milliseconds the data key could reach swap"
)
_CAP_IPC_LOCK: Final = 14
_MCL_ALL: Final = 1 | 2 | 4
"""MCL_CURRENT, MCL_FUTURE and MCL_ONFAULT of linux/mman.h."""
_LONGEST_REQUEST: Final = 64 * 1024


def main() -> NoReturn:
    """Answer the request on stdin, and end the process."""
    logging.disable()
    warnings.simplefilter("ignore")
    try:
        answer = UnwrapAnswer(notes=_unwrap())
    except EbscryptError as error:
        answer = UnwrapAnswer(error=error.record())
    except BaseException as error:  # noqa: BLE001 - a traceback could show the plaintext, and its text too
        internal = DaemonError(f"the unwrap process failed: {_where(error)}")
        answer = UnwrapAnswer(error=internal.record())
    status = 1
    try:
        line = msgspec.json.encode(answer) + b"\n"
        while line:
            line = line[os.write(1, line) :]
        status = 0
    finally:
        os._exit(status)


def _unwrap() -> list[str]:
    # Here, so that a broken installation is an answer too, and the parent's reason is not lost.
    from ebscrypt import config  # noqa: PLC0415
    from ebscrypt.core import SecretMemory, harden_process  # noqa: PLC0415
    from ebscrypt.kms.client import KmsClient  # noqa: PLC0415
    from ebscrypt.kms.principals import grantee  # noqa: PLC0415

    unlocked = harden_process(lock_memory=True, io_flusher=False)
    notes = [_NOT_LOCKED] if unlocked and not _lock_by_capability() else []
    request = msgspec.json.decode(_read_request(), type=UnwrapRequest)
    memory = SecretMemory.adopt(request.fd, request.size)
    settings = _in_time(config.load(), request.deadline)
    # Only the embedded KMS believes a principal that it is told: any other judges by credentials.
    under_grant = request.grant_token is not None and settings.kms.endpoint == "embedded"
    key = KmsClient(settings, principal=grantee(settings) if under_grant else None, notes=notes).decrypt(
        request.wrapped_key,
        request.context,
        expected_key_arn=request.key_arn,
        size=request.size,
        grant_token=request.grant_token,
    )
    memory.fill(key.plaintext)
    return notes


def _lock_by_capability() -> bool:
    """Lock all memory under a finite limit, which the core declines to do, as it suits a daemon that drops privileges.

    This process keeps CAP_IPC_LOCK, if it has it, to its end: then no limit applies, and no later allocation can fail.
    """
    with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - one line of /proc
        effective = next((line.split()[1] for line in status if line.startswith("CapEff:")), "0")
    return bool(int(effective, 16) >> _CAP_IPC_LOCK & 1) and ctypes.CDLL(None).mlockall(_MCL_ALL) == 0


def _in_time(settings: Settings, deadline: float) -> Settings:
    """Settings that let KMS's own error come back before the parent's patience ends."""
    left = deadline - time.monotonic()
    usable = max(0.001, left - min(_MARGIN, left / 2))
    kms = msgspec.structs.replace(settings.kms, deadline=min(settings.kms.deadline, usable))
    return msgspec.structs.replace(settings, kms=kms)


def _read_request() -> bytes:
    request = sys.stdin.buffer.read(_LONGEST_REQUEST + 1)
    if len(request) > _LONGEST_REQUEST:
        raise DaemonError(f"the request to unwrap a key exceeds {_LONGEST_REQUEST} bytes")
    return request


def _where(error: BaseException) -> str:
    """Type and place of an unexpected error, without its text."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else ""  # noqa: PTH119
    return f"{type(error).__name__}{place}"


if __name__ == "__main__":
    main()
