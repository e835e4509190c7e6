"""What the daemon tells systemd, received by a socket that stands for it, and what it takes over at a restart."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebscrypt.daemon import notify
from ebscrypt.daemon.notify import Notifier, take_stored_key

SOURCE = Path(notify.__file__).parents[2]


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """The end of NOTIFY_SOCKET that is systemd's."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(10)
        yield receiver


@pytest.fixture
def notifier(systemd: socket.socket, tmp_path: Path) -> Iterator[Notifier]:  # noqa: ARG001
    """A notifier that systemd listens to."""
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    yield notifier
    notifier.close()


def receive(systemd: socket.socket) -> tuple[str, list[int]]:
    message, descriptors, _flags, _address = socket.recv_fds(systemd, 4096, 4)
    return message.decode(), list(descriptors)


def test_ready_is_one_message(notifier: Notifier, systemd: socket.socket) -> None:
    """READY, the main process and a status of one line come together."""
    notifier.ready("serving\nvol")
    message, descriptors = receive(systemd)
    assert message == f"READY=1\nMAINPID={os.getpid()}\nSTATUS=serving vol"
    assert descriptors == []


def test_abstract_socket() -> None:
    """A leading @ in NOTIFY_SOCKET stands for the zero byte of an abstract address."""
    name = f"ebscrypt-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.settimeout(10)
        notifier = Notifier({"NOTIFY_SOCKET": f"@{name}"})
        notifier.stopping()
        assert receiver.recv(100) == b"STOPPING=1"
        notifier.close()


def test_variable_is_taken_from_the_environment(systemd: socket.socket, tmp_path: Path) -> None:  # noqa: ARG001
    """No child of the daemon finds NOTIFY_SOCKET and speaks in its name."""
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    notifier = Notifier(environ)
    assert notifier.active
    assert environ == {}
    notifier.close()


def test_without_systemd_nothing_happens() -> None:
    """Without NOTIFY_SOCKET every call is a no-op, and the key counts as not stored."""
    notifier = Notifier({})
    notifier.ready("x")
    notifier.forget_key()
    assert not notifier.active
    assert not notifier.store_key(0)


def test_key_goes_to_the_store(notifier: Notifier, systemd: socket.socket, tmp_path: Path) -> None:
    """The key's descriptor arrives under its name, after an earlier one was removed, and the barrier is waited for."""
    key = tmp_path / "key"
    key.write_bytes(b"content")
    stored: list[bool] = []
    with key.open("rb") as file:
        sender = threading.Thread(target=lambda: stored.append(notifier.store_key(file.fileno())))
        sender.start()
        removal, (message, descriptors), barrier = receive(systemd), receive(systemd), receive(systemd)
        assert stored == [], "it must wait until systemd has read everything"
        for fd in barrier[1]:
            os.close(fd)
        sender.join(10)
    assert removal == ("FDSTOREREMOVE=1\nFDNAME=ebscrypt-key", [])
    assert message == "FDSTORE=1\nFDNAME=ebscrypt-key\nFDPOLL=0"
    assert barrier[0] == "BARRIER=1"
    assert stored == [True]
    assert os.pread(descriptors[0], 10, 0) == b"content"
    os.close(descriptors[0])


def test_store_without_answer(notifier: Notifier, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """When nobody closes the barrier in time, the key is not known to be stored."""
    monkeypatch.setattr(notify, "_BARRIER_TIMEOUT", 0.05)
    (tmp_path / "key").touch()
    with (tmp_path / "key").open("rb") as file:
        assert not notifier.store_key(file.fileno())


def test_a_deaf_systemd_is_no_failure(systemd: socket.socket, tmp_path: Path) -> None:
    """A message that cannot be sent does not end the daemon: the volume is served all the same."""
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})
    systemd.close()
    notifier.ready("x")
    assert not notifier.active


def start_with_descriptors(script: str, environ: str, *files: Path) -> str:
    """Run Python with ``files`` as descriptors 3, 4, …; the shell knows the pid that LISTEN_PID must have."""
    opened = " ".join(f"{3 + number}<{file}" for number, file in enumerate(files))
    command = f"{environ} exec {sys.executable} -c '{script}' {opened}"
    env = os.environ | {"PYTHONPATH": str(SOURCE)}
    return subprocess.run(["sh", "-c", command], check=True, capture_output=True, text=True, env=env).stdout.strip()


SCRIPT = """
import os
from ebscrypt.daemon.notify import take_stored_key
fd = take_stored_key()
left = [n for n in (3, 4) if os.path.exists(f"/proc/self/fd/{n}")]
inherit = [os.get_inheritable(n) for n in left]
print(fd, left, inherit, [name for name in os.environ if name.startswith("LISTEN")])
"""


def test_stored_key_is_found_by_name(tmp_path: Path) -> None:
    """Of several descriptors the key's is taken, close-on-exec; the others are closed, and the variables removed."""
    first, second = tmp_path / "a", tmp_path / "b"
    first.touch()
    second.touch()
    environ = "LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=other:ebscrypt-key"
    assert start_with_descriptors(SCRIPT, environ, first, second) == "4 [4] [False] []"


def test_descriptors_of_another_process_are_left(tmp_path: Path) -> None:
    """LISTEN_PID of somebody else means that the descriptors are not ours."""
    (tmp_path / "a").touch()
    environ = "LISTEN_PID=1 LISTEN_FDS=1 LISTEN_FDNAMES=ebscrypt-key"
    assert start_with_descriptors(SCRIPT, environ, tmp_path / "a").startswith("None [3]")


def test_nothing_stored() -> None:
    """Without LISTEN_FDS there is no key."""
    assert take_stored_key({}) is None
    assert take_stored_key({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "x"}) is None
