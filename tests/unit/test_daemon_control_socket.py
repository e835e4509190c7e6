"""The control socket and its client, over a real socket: words, limits, and who may speak."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
import trio

from ebscrypt.daemon.client import DaemonClient
from ebscrypt.daemon.control_socket import MAX_PEERS, serve_control
from ebscrypt.daemon.listening import listen_privately
from ebscrypt.daemon.protocol import MAX_REQUEST
from ebscrypt.errors import (
    DaemonError,
    DaemonLost,
    EbscryptError,
    InvalidParameter,
    KmsKeyDisabled,
    NotPermitted,
    VolumeInUse,
)


class Daemon:
    """A control socket that is served by a thread of its own, with operations that do what a test needs."""

    def __init__(self, path: Path, owner: int) -> None:
        self.path = path
        self.finished = False
        self._owner = owner
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: trio.run(self._serve))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.finished = True
        with socket.socket(socket.AF_UNIX) as last:  # a peer that comes and goes lets the server look at `finished`
            last.settimeout(5)
            if last.connect_ex(str(self.path)) == 0:
                last.shutdown(socket.SHUT_WR)
        self._thread.join(10)
        assert not self._thread.is_alive()

    async def _serve(self) -> None:
        operations = {
            "echo": self._echo,
            "refuse": self._refuse,
            "fail": self._fail,
            "crash": self._crash,
            "hang": self._hang,
            "shutdown": self._shutdown,
        }
        with listen_privately(self.path) as listener:
            self._ready.set()
            await serve_control(
                listener, operations, owner=self._owner, finished=lambda: self.finished, taking={"take": self._take}
            )
        self.path.unlink()

    async def _echo(self, parameters: dict[str, Any]) -> dict[str, Any]:
        return parameters

    async def _refuse(self, _parameters: dict[str, Any]) -> dict[str, Any]:
        raise VolumeInUse("volume is in use", hint="wait")

    async def _fail(self, _parameters: dict[str, Any]) -> dict[str, Any]:
        raise OSError(28, "No space left on device")

    async def _crash(self, _parameters: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("a bug")

    async def _hang(self, _parameters: dict[str, Any]) -> dict[str, Any]:
        await trio.sleep_forever()
        return {}

    async def _take(self, _parameters: dict[str, Any], descriptor: int | None) -> dict[str, Any]:
        if descriptor is None:
            return {"content": None}
        with os.fdopen(descriptor, "rb") as file:
            return {"content": file.read().decode(), "inheritable": os.get_inheritable(descriptor)}

    async def _shutdown(self, _parameters: dict[str, Any]) -> dict[str, Any]:
        self.finished = True
        return {"bye": True}


@contextmanager
def daemon(owner: int | None = None) -> Iterator[Daemon]:
    """A served control socket in a short directory, whose path fits a Unix socket wherever pytest runs."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o755)
        with Daemon(Path(directory) / "control.sock", os.geteuid() if owner is None else owner) as served:
            yield served


@pytest.fixture
def served() -> Iterator[Daemon]:
    """A served control socket that is ours."""
    with daemon() as one:
        yield one


def raw(path: Path, data: bytes) -> bytes:
    """Everything that comes back for ``data``, after which our side says no more."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(path))
        peer.sendall(data)
        peer.shutdown(socket.SHUT_WR)
        answer = b""
        while part := peer.recv(65_536):
            answer += part
        return answer


def test_call_and_answer(served: Daemon) -> None:
    """Parameters arrive as they were given, call after call on one connection."""
    with DaemonClient(served.path) as client:
        assert client.call("echo", size=1 << 40, name="ä") == {"size": 1 << 40, "name": "ä"}
        assert client.call("echo") == {}


def test_error_is_raised_as_it_was(served: Daemon) -> None:
    """An error of the tree crosses the socket with its type, message and hint."""
    with DaemonClient(served.path) as client, pytest.raises(VolumeInUse, match="in use") as raised:
        client.call("refuse")
    assert raised.value.hint == "wait"


def test_operating_system_error_is_told(served: Daemon) -> None:
    """An OSError becomes a `DaemonError` with the system's words, and the daemon goes on."""
    with DaemonClient(served.path) as client:
        with pytest.raises(DaemonError, match="No space left on device"):
            client.call("fail")
        assert client.call("echo", a=1) == {"a": 1}


def test_a_bug_is_told_and_survived(served: Daemon) -> None:
    """An error that nobody foresaw ends neither the daemon nor the conversation."""
    with DaemonClient(served.path) as client:
        with pytest.raises(DaemonError, match="internal error: RuntimeError"):
            client.call("crash")
        assert client.call("echo", a=1) == {"a": 1}


def test_unknown_operation(served: Daemon) -> None:
    """An operation that does not exist is refused by name of the mistake, not by silence."""
    with DaemonClient(served.path) as client, pytest.raises(InvalidParameter, match="no such operation"):
        client.call("format")


@pytest.mark.parametrize("line", [b"", b"{", b"[]", b"null", b'{"op": 1}', b'{"op": "echo", "extra": 1}', b"\xff\xfe"])
def test_senseless_line_is_answered(served: Daemon, line: bytes) -> None:
    """What is no request gets an error, and the next request on the connection is served."""
    first, second = raw(served.path, line + b"\n" + b'{"op": "echo"}\n').splitlines()
    assert msgspec.json.decode(first)["error"]["Error"] == "InvalidParameter"
    assert msgspec.json.decode(second) == {"result": {}}


def test_endless_line_is_cut_off(served: Daemon) -> None:
    """A line without an end costs a bounded amount of memory and its sender the connection."""
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(served.path))
        peer.sendall(b"x" * (MAX_REQUEST + 1))
        answer = peer.recv(65_536)
        assert msgspec.json.decode(answer)["error"]["Error"] == "InvalidParameter"
        assert peer.recv(1) == b""


def test_pipelined_requests_are_answered_in_order(served: Daemon) -> None:
    """Several lines in one packet are several requests."""
    data = b"".join(b'{"op": "echo", "parameters": {"n": %d}}\n' % n for n in range(5))
    answers = [msgspec.json.decode(line)["result"]["n"] for line in raw(served.path, data).splitlines()]
    assert answers == [0, 1, 2, 3, 4]


def test_a_hanging_operation_blocks_nobody_else(served: Daemon) -> None:
    """While one peer waits, another is served; the first gives up at its own deadline."""
    with DaemonClient(served.path) as first, DaemonClient(served.path) as second:
        with pytest.raises(DaemonLost, match=r"did not answer 'hang' within 0\.2 s"):
            first.call("hang", timeout=0.2)
        assert second.call("echo", a=1) == {"a": 1}


def test_answer_to_shutdown_arrives(served: Daemon) -> None:
    """The server ends after the answer to the request that ended it, not before."""
    with DaemonClient(served.path) as client:
        assert client.call("shutdown") == {"bye": True}
        with pytest.raises(DaemonLost):
            client.call("echo")


def test_more_peers_than_places_wait(served: Daemon) -> None:
    """Peers beyond the limit are served when another one leaves."""
    idle = [socket.socket(socket.AF_UNIX) for _ in range(MAX_PEERS)]
    for peer in idle:
        peer.connect(str(served.path))
    with DaemonClient(served.path) as late:
        with pytest.raises(DaemonLost):
            late.call("echo", timeout=0.2)
        for peer in idle:
            peer.close()
        assert late.call("echo") == {}


def test_descriptor_comes_with_its_request(served: Daemon, tmp_path: Path) -> None:
    """The operation gets what the descriptor leads to, not to be inherited; the sender's own stays open."""
    path = tmp_path / "content"
    path.write_text("secret")
    with DaemonClient(served.path) as client, path.open("rb") as file:
        assert client.call("take", descriptor=file.fileno()) == {"content": "secret", "inheritable": False}
        assert client.call("take") == {"content": None}
        assert os.fstat(file.fileno()).st_size == len("secret")


@pytest.mark.parametrize("op", ["echo", "refuse", "crash", "nonsense", "take"])
def test_descriptors_do_not_pile_up(served: Daemon, op: str) -> None:
    """Whatever becomes of a request, no descriptor that came with it is left open."""
    reading, writing = os.pipe()
    os.close(writing)
    with DaemonClient(served.path) as client:
        for _ in range(5):
            with contextlib.suppress(EbscryptError):
                client.call(op, descriptor=reading)
        client.call("echo")
    assert ways_to(reading) == 1
    os.close(reading)


def ways_to(descriptor: int) -> int:
    """How many descriptors of this process lead to where this one does."""
    target, found = os.fstat(descriptor).st_ino, 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += entry.stat().st_ino == target
    return found


def test_several_descriptors_are_one_too_many(served: Daemon) -> None:
    """The last of those that there was room for counts, and none is left open."""
    pipe = os.pipe()
    with socket.socket(socket.AF_UNIX) as peer:
        peer.settimeout(10)
        peer.connect(str(served.path))
        socket.send_fds(peer, [b'{"op": "echo"}\n'], [pipe[0]] * 5)
        assert msgspec.json.decode(peer.recv(65_536)) == {"result": {}}
    assert ways_to(pipe[0]) == 2
    for end in pipe:
        os.close(end)


def test_nobody_there(tmp_path: Path) -> None:
    """Without a socket the daemon is lost, and the message says where it was looked for."""
    with DaemonClient(tmp_path / "none") as client, pytest.raises(DaemonLost, match="none is not there"):
        client.call("status")


def test_socket_is_private(served: Daemon) -> None:
    """Mode 0600: nobody but the owner and root can connect at all."""
    assert served.path.stat().st_mode & 0o777 == 0o600


def test_other_users_are_refused() -> None:
    """Whoever could connect in spite of the mode is still asked for its uid."""
    stranger = 65_534 if os.geteuid() == 0 else os.geteuid()
    told, tell = os.pipe()
    # Forked before the server's thread is there, and told the socket's path when it is.
    child = os.fork()
    if child == 0:
        os._exit(_ask_as(stranger, told))
    with daemon(owner=stranger + 1) as served:
        served.path.chmod(0o666)
        os.write(tell, os.fsencode(served.path))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(told)
    os.close(tell)


def _ask_as(uid: int, told: int) -> int:
    """0 if ``uid`` is refused as it should be."""
    try:
        path = Path(os.fsdecode(os.read(told, 4096)))
        os.setresuid(uid, uid, uid)
        with DaemonClient(path) as client:
            client.call("echo")
    except NotPermitted as error:
        return 0 if f"user {uid} may not" in error.message else 2
    except BaseException:  # noqa: BLE001 - nothing may get out of the forked process into pytest
        return 3
    return 1


def test_kms_errors_keep_their_details(served: Daemon) -> None:
    """The record that crosses the socket is the error's own; KMS's code and key come along."""
    record = KmsKeyDisabled("disabled", kms_code="DisabledException", key_arn="arn:x").record()
    assert record["KmsCode"] == "DisabledException"
    with DaemonClient(served.path) as client:
        assert client.call("echo", **record) == record
