"""A process with a device at full load, for tests that look at it from outside.

Arguments: descriptor of the secret memory, path of the backing, size of the volume, sector size, and optionally
``without-memfd-secret``, to work as on a kernel that has no such call. It reads commands
from stdin and answers each with one line. A timer interrupts it all the while, as signals interrupt a real daemon: the
kernel then stores all registers on whatever stack is in use.
"""

import ctypes
import errno
import os
import random
import signal
import struct
import sys
import threading

from ebscrypt.core import Device, SecretMemory

THREADS = 3
MEMFD_SECRET = 447
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW = 0x00050000, 0x7FFF0000
TIMER = 0.0007


class Load:
    """Threads that read and write without pause, and can be held between two requests."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.requests = 0
        self.may_run = threading.Event()
        self.idle = threading.Semaphore(0)
        self.stopping = False
        self.threads = [threading.Thread(target=self._work, args=(number,)) for number in range(THREADS)]

    def start(self) -> None:
        self.may_run.set()
        for thread in self.threads:
            thread.start()

    def hold(self) -> None:
        """Return when every thread has finished its request and waits."""
        self.may_run.clear()
        for _ in self.threads:
            self.idle.acquire()

    def stop(self) -> None:
        self.stopping = True
        self.may_run.set()
        for thread in self.threads:
            thread.join()

    def _work(self, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 - load, not a secret
        buffer = bytearray(256 * 1024)
        while not self.stopping:
            if not self.may_run.is_set():
                self.idle.release()
                self.may_run.wait()
            length = chance.choice((4096, 1000, 65536, len(buffer)))
            offset = chance.randrange(self.device.size - length)
            view = memoryview(buffer)[:length]
            if chance.random() < 0.5:
                self.device.pwrite(view, offset)
            else:
                self.device.pread_into(view, offset)
            self.requests += 1


def forbid_memfd_secret() -> None:
    """Let memfd_secret fail as on a kernel without it: a filter of four instructions (load, compare, two answers)."""
    filters = b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x20, 0, 0, 0),
            (0x15, 0, 1, MEMFD_SECRET),
            (0x06, 0, 0, SECCOMP_RET_ERRNO | errno.ENOSYS),
            (0x06, 0, 0, SECCOMP_RET_ALLOW),
        )
    )
    code = ctypes.create_string_buffer(filters)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(filters) // 8, ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "no system call filter")


def main() -> None:
    """Serve the commands hold, go on, requests, suspend (key and round keys wiped), resume, close and end."""
    if sys.argv[5:]:
        forbid_memfd_secret()
    key_fd, path, size, sector_size = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, TIMER, TIMER)
    spare_fd = os.dup(key_fd)
    key = SecretMemory.adopt(key_fd)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    device = Device(fd, size=size, sector_size=sector_size, key=key)
    load = Load(device)
    load.start()
    print(key.kind, flush=True)  # noqa: T201 - its answers
    for line in sys.stdin:
        match line.strip():
            case "hold":
                load.hold()
            case "go on":
                load.may_run.set()
            case "suspend":
                device.suspend(wipe=True)
                key.wipe()
            case "resume":
                key = SecretMemory.adopt(os.dup(spare_fd))
                device.resume(key)
            case "close":
                load.stop()
                device.close()
                key.wipe()
            case "end":
                break
        print(load.requests, flush=True)  # noqa: T201


main()
