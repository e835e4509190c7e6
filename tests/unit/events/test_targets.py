"""One attempt at each kind of target that is on this machine: what arrives, and how each failure is told."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.events.targets import command, webhook
from ebscrypt.events.targets.kinds import CommandTarget, WebhookTarget
from ebscrypt.events.targets.outcome import Undelivered

SECRET = "AKIAIOSFODNN7EXAMPLE"


def shell(script: str, timeout: float = 30.0) -> CommandTarget:
    return CommandTarget(argv=("/bin/sh", "-c", script), timeout=timeout)


def failed(target: CommandTarget, body: str = "{}") -> Undelivered:
    with pytest.raises(Undelivered) as caught:
        command.deliver(target, body)
    return caught.value


def test_a_command_gets_the_event_on_stdin(tmp_path: Path, make_event: Callable[..., dict[str, Any]]) -> None:
    """Exactly the event, as one line of UTF-8, then the end; and a regular file, so it may be read twice."""
    event = make_event()

    output = command.deliver(shell(f"cat > {tmp_path}/one; cat /dev/stdin; pwd"), json.dumps(event))

    assert json.loads((tmp_path / "one").read_text()) == event
    assert output.endswith("/\n")


def test_a_command_that_does_not_read_makes_nobody_wait() -> None:
    """Even where the event is more than a pipe holds."""
    assert command.deliver(shell("echo fine"), json.dumps("x" * 1_000_000)) == "fine\n"


def test_a_commands_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fixed path, the account's home and ebscrypt's own settings; no credentials and nothing of the caller's."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("LD_PRELOAD_NOT", "x")
    monkeypatch.setenv("PATH", "/evil:" + os.environ["PATH"])
    monkeypatch.setenv("EBSCRYPT_STATE_DIR", "/somewhere")

    output = command.deliver(CommandTarget(argv=("env",)), "{}")
    found = dict(line.split("=", 1) for line in output.splitlines())

    assert {name for name in found if not name.startswith("EBSCRYPT_")} == {"PATH", "LANG", "HOME", "USER", "LOGNAME"}
    assert found["EBSCRYPT_STATE_DIR"] == "/somewhere"
    assert "evil" not in found["PATH"]


def test_a_command_inherits_no_descriptor_and_no_terminal() -> None:
    """Only its three; and a session of its own, so that a Ctrl-C elsewhere does not reach it."""
    readable, writable = os.pipe()
    try:
        output = command.deliver(shell("ls -1 /proc/self/fd | wc -l; test -t 0 || ps -o sid= -p $$; echo $$"), "{}")
    finally:
        os.close(readable)
        os.close(writable)
    count, session, pid = output.split()

    assert int(count) == 4  # ls opens the directory itself
    assert session == pid


@pytest.mark.parametrize(
    ("script", "reason"), [("echo why; exit 3", "ended with status 3"), ("echo why; kill -9 $$", "signal 9")]
)
def test_a_command_that_fails_is_tried_again(script: str, reason: str) -> None:
    """The reason names its end, and the last of its output goes along."""
    failure = failed(shell(script))

    assert reason in failure.reason
    assert failure.output == "why\n"
    assert not failure.final


def test_a_command_that_cannot_be_started_is_final(tmp_path: Path) -> None:
    """It was there when the rule was put; trying 185 times does not bring it back."""
    assert failed(CommandTarget(argv=(str(tmp_path / "gone"),))).final
    (tmp_path / "plain").write_text("echo")
    assert failed(CommandTarget(argv=(str(tmp_path / "plain"),))).final


def test_only_the_end_of_the_output_is_kept() -> None:
    """A command that writes without end fills neither memory nor disk."""
    output = command.deliver(shell("yes x | head -c 3000000; echo; echo last"), "{}")

    assert output.endswith("last\n")
    assert len(output) <= command.OUTPUT_KEPT


def test_a_late_command_is_ended_with_what_it_started(tmp_path: Path) -> None:
    """Politely first, then not, and its children too."""
    began = time.monotonic()

    failure = failed(shell(f"trap '' TERM; (trap '' TERM; echo $$ > {tmp_path}/pid; sleep 60)& wait; sleep 60", 0.3))

    assert "did not end within 0.3 s" in failure.reason
    assert not failure.final
    assert time.monotonic() - began < 20
    group = (tmp_path / "pid").read_text().strip()
    while any(fields[2] == group and fields[0] not in "ZX" for fields in stat_of_all()):
        time.sleep(0.01)  # the kernel takes the killed ones away in a moment; the test's timeout bounds it


def stat_of_all() -> list[list[str]]:
    """State, parent, group… of every process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found.append((entry / "stat").read_text().rpartition(")")[2].split())
    return found


def test_what_a_command_leaves_running_makes_nobody_wait(tmp_path: Path) -> None:
    """A daemon that it starts may keep its stdout open for days: the command's own end is what counts."""
    began = time.monotonic()

    output = command.deliver(shell(f"sleep 60 & echo $! > {tmp_path}/pid; echo started"), "{}")

    assert output == "started\n"
    assert time.monotonic() - began < 20
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_a_webhook_gets_the_event(hook: Any, make_event: Callable[..., dict[str, Any]]) -> None:
    """As the body of a POST, said to be JSON. What is told of it never holds the URL's token."""
    event = make_event()

    told = webhook.deliver(WebhookTarget(url=hook.url), json.dumps(event))

    assert hook.got == [event]
    assert hook.headers[0]["Content-Type"] == "application/json"
    assert told == f"{hook.url.split('/')[2]} answered 200"


AGAIN = (401, 407, 408, 409, 429, 500, 503)
FINAL = (301, 302, 307, 400, 403, 404, 410)


@pytest.mark.parametrize("status", AGAIN + FINAL)
def test_statuses_are_eventbridges(hook: Any, status: int) -> None:
    """What EventBridge tries again with its API destinations, we do; a redirect is not followed, but refused."""
    hook.answers = [(status, {"Location": hook.url})]

    with pytest.raises(Undelivered, match=f"answered {status}") as caught:
        webhook.deliver(WebhookTarget(url=hook.url), "{}")

    assert caught.value.final is (status in FINAL)
    assert len(hook.got) == 1
    assert "geheim" not in caught.value.reason


@pytest.mark.parametrize(
    ("header", "low", "high"),
    [
        ("120", 120, 120),
        (formatdate(time.time() + 3600, usegmt=True), 3000, 3600),
        ("-5", 0, 0),
        ("soon", 0, 0),
        ("9" * 40, 86_400, 86_400),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0),
    ],
    ids=["seconds", "in an hour", "negative", "words", "too many", "long ago"],
)
def test_retry_after_is_heeded(hook: Any, header: str, low: float, high: float) -> None:
    """In both of its forms, bounded, and ignored when it makes no sense."""
    hook.answers = [(503, {"Retry-After": header})]

    with pytest.raises(Undelivered) as caught:
        webhook.deliver(WebhookTarget(url=hook.url), "{}")

    assert low <= caught.value.pause <= high


def test_nobody_there_is_tried_again() -> None:
    """A server that restarts refuses connections for a moment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    with pytest.raises(Undelivered, match="cannot be reached") as caught:
        webhook.deliver(WebhookTarget(url=f"http://127.0.0.1:{port}/secret"), "{}")

    assert not caught.value.final
    assert "secret" not in caught.value.reason


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n"])
def test_an_answer_that_is_none_is_tried_again(answer: bytes) -> None:
    """Closed at once, or something else than HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"

        with pytest.raises(Undelivered, match="gave no answer") as caught:
            webhook.deliver(WebhookTarget(url=url, timeout=5), "{}")

        assert not caught.value.final
        thread.join()


def test_a_silent_webhook_times_out(hook: Any) -> None:
    """After the target's own timeout."""
    hook.held.clear()

    with pytest.raises(Undelivered, match="timed out") as caught:
        webhook.deliver(WebhookTarget(url=hook.url, timeout=0.2), "{}")

    assert not caught.value.final


def test_the_event_file_is_in_memory_only() -> None:
    """The command's stdin has no name on any disk."""
    output = command.deliver(shell("readlink /proc/self/fd/0"), "{}")

    assert output.startswith("/memfd:event")
