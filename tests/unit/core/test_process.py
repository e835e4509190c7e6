"""What a process does before it takes a key, and after set-up: hardening, and giving privileges up."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

NOBODY = 65534


def run(program: str, *, uid: int | None = None) -> str:
    """Run a program in a process of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        user=uid,
        group=uid,
        extra_groups=[] if uid else None,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


PREAMBLE = """
import errno, os, resource, threading
from ebscrypt.core import drop_privileges, harden_process

def status(tid="self"):
    path = f"/proc/self/task/{tid}/status" if tid != "self" else "/proc/self/status"
    return dict(line.split(":\\t", 1) for line in open(path).read().splitlines() if ":\\t" in line)

NONE = "0000000000000000"

def assert_powerless(tid="self"):
    found = status(tid)
    for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
        assert found[name] == NONE, (tid, name, found[name])
    assert found["NoNewPrivs"] == "1", tid
"""


def test_hardening_forbids_dumps() -> None:
    """Afterwards there is no core file, and /proc/self belongs to root, as of every process that is not dumpable."""
    out = run("""
        notes = harden_process(lock_memory=False, io_flusher=False)
        assert notes == [], notes
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        import ctypes
        print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
    """)
    assert out == "0"


def test_root_gets_what_it_may_have() -> None:
    """With CAP_SYS_RESOURCE every wish is granted; root without it (as in many containers) is told of each that is not.

    Either way a process that gave its privileges up afterwards can go on to allocate memory and start threads.
    """
    run("""
        notes = harden_process(lock_memory=True, io_flusher=True)
        import ctypes
        if int(status()["CapEff"], 16) >> 24 & 1:
            assert notes == [], notes
            assert int(status()["VmLck"].split()[0]) > 1000, status()["VmLck"]
            assert ctypes.CDLL(None).prctl(58, 0, 0, 0, 0) == 1
        else:
            assert len(notes) == 2, notes
            assert status()["VmLck"].split()[0] == "0"
        drop_privileges(65534, 65534)
        more = [bytearray(1 << 20) for _ in range(64)]
        threading.Thread(target=print).start()
    """)


def test_a_plain_user_is_told_what_was_not_possible() -> None:
    """What the machine does not allow of the wishes comes back as notes; the rest is done."""
    out = run(
        """
        for note in harden_process(lock_memory=True, io_flusher=True):
            print(note)
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        bytearray(64 << 20)
        """,
        uid=NOBODY,
    )
    locked, flusher = out.splitlines()
    assert locked.startswith("memory is not locked")
    assert "RLIMIT_MEMLOCK is" in locked
    assert "PR_SET_IO_FLUSHER" in flusher


def test_root_becomes_somebody_else_for_good() -> None:
    """User, groups and capabilities are gone, nothing brings them back, and the process is still not dumpable."""
    run(f"""
        os.setgroups([4, 5])
        harden_process(lock_memory=False, io_flusher=False)
        drop_privileges({NOBODY}, {NOBODY})
        assert os.getresuid() == os.getresgid() == ({NOBODY},) * 3
        assert os.getgroups() == []
        assert_powerless()
        assert status()["CapBnd"] == NONE
        for back in (lambda: os.setuid(0), lambda: os.setresuid(-1, -1, 0), lambda: os.setgroups([0])):
            try:
                back()
            except PermissionError:
                continue
            raise SystemExit("there was a way back")
        import ctypes
        assert ctypes.CDLL(None).prctl(3, 0, 0, 0, 0) == 0
    """)


def test_root_stays_root_without_power() -> None:
    """With root's own id only the capabilities go: the name is left, and can no longer do what it could."""
    run("""
        drop_privileges(0, 0)
        assert os.getresuid() == (0, 0, 0)
        assert_powerless()
        try:
            os.setuid(1)
        except PermissionError:
            pass
        else:
            raise SystemExit("root could still change its id")
    """)


def test_a_plain_user_may_call_it_too() -> None:
    """For a user without privileges there is nothing to drop: it succeeds, and no_new_privs is set."""
    run("drop_privileges(os.getuid(), os.getgid())\nassert_powerless()", uid=NOBODY)


def test_a_plain_user_cannot_become_another() -> None:
    """What is not allowed is an error, not a silent nothing."""
    run(
        """
        try:
            drop_privileges(0, 0)
        except PermissionError:
            pass
        else:
            raise SystemExit("no error")
        """,
        uid=NOBODY,
    )


THREADS = """
ready, end = threading.Barrier(4), threading.Event()
tids = []
def wait():
    tids.append(threading.get_native_id())
    ready.wait()
    end.wait()
threads = [threading.Thread(target=wait) for _ in range(3)]
for thread in threads:
    thread.start()
ready.wait()
"""


def test_threads_lose_their_power_with_the_user_id() -> None:
    """Threads that run already are powerless afterwards as well, and can gain nothing by an exec."""
    run(f"""{textwrap.indent(THREADS, "        ")}
        drop_privileges({NOBODY}, {NOBODY})
        for tid in tids:
            assert_powerless(tid)
            assert status(tid)["Uid"].split() == ["{NOBODY}"] * 4
        end.set()
    """)


def test_threads_that_keep_power_are_an_error() -> None:
    """Where the user id stays, other threads keep their capabilities: that is an error and not a false assurance."""
    run(f"""{textwrap.indent(THREADS, "        ")}
        try:
            drop_privileges(0, 0)
        except OSError as error:
            assert error.errno == errno.EBUSY, error
        else:
            raise SystemExit("no error")
        end.set()
    """)


def test_these_tests_run_as_root() -> None:
    """Privileges can only be dropped by whom who has them."""
    assert os.geteuid() == 0
