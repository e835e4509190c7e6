"""A virtual machine of the kernel lane: Debian's kernel under QEMU, without KVM, network or terminal.

Emulation is the default because it works everywhere, nested machines included; KERNEL_LANE_ACCEL=kvm asks for KVM.
One processor, since under emulation a second one costs more than it brings, and two guests share the machine's cores.
The console goes to a file; commands go through the guest's agent. Each machine writes into a layer over the cached
root that is gone with it.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self

from tests.kernel.agent import Agent, AgentSilent
from tests.kernel.guest_root import GuestError, GuestRoot

Init = Literal["systemd", "plain"]
_INIT: Final = {"systemd": "/usr/lib/systemd/systemd", "plain": "/usr/lib/guest/plain-init"}
_BOOT: Final = 180.0
"""Seconds for the agent to answer: 5 (plain) and 15 (systemd) on an idle machine of two cores."""
_COMMAND: Final = 120.0


class CommandFailed(AssertionError):
    """A command in the guest ended with another status than 0, or not at all."""


class Job(NamedTuple):
    """A command that runs in the guest meanwhile."""

    command: str
    pid: int


class Machine:
    """One virtual machine, from boot to power-off. Raises `GuestError` when it does not come up."""

    def __init__(self, root: GuestRoot, program: Path, *, init: Init) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="vm-")
        folder = Path(self._folder.name)
        self._console = folder / "console"
        socket = folder / "agent"
        self._process = subprocess.Popen(_qemu(root, program, init, self._console, socket), stdin=subprocess.DEVNULL)
        try:
            self._wait_for(socket)
            self._agent = Agent(socket)
            self._wait_for_boot()
        except BaseException:
            self._process.kill()
            self._process.wait()
            self._folder.cleanup()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._agent.close()
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    def run(self, command: str, *, timeout: float = _COMMAND) -> str:
        """Run a shell command in the guest; its stdout, stripped. Raises `CommandFailed` with what it printed."""
        return self.wait(self.start(command), timeout=timeout)

    def attempt(self, command: str, *, timeout: float = _COMMAND) -> tuple[int, str]:
        """Run a command that may fail: its exit status, and stdout and stderr together."""
        return self._finish(self.start(f"{{ {command}\n}} 2>&1"), timeout)[:2]

    def start(self, command: str) -> Job:
        """Begin a shell command in the guest and go on."""
        return Job(command, self._agent.start(command))

    def wait(self, job: Job, *, timeout: float = _COMMAND) -> str:
        """What a started command printed on stdout, stripped. Raises `CommandFailed`."""
        status, output, errors = self._finish(job, timeout)
        if status:
            raise CommandFailed(f"{job.command}: exit status {status}\n{output}{errors}")
        return output.strip()

    def eventually(self, condition: str, *, timeout: float = _COMMAND) -> None:
        """Return once a shell command succeeds in the guest. Raises `CommandFailed` with its last words."""
        quoted = shlex.quote(condition)
        status, output = self.attempt(
            f"timeout {timeout:g} sh -c 'until sh -c \"$1\"; do sleep 0.2; done' sh {quoted}", timeout=timeout + 30
        )
        if status:
            raise CommandFailed(f"{condition}: not within {timeout:g} s\n{output[-2000:]}")

    def reboot(self, command: str) -> None:
        """Run ``command``, which reboots the guest, and return when it is up again."""
        before = self.run("cat /proc/sys/kernel/random/boot_id")
        self.start(command)
        deadline = time.monotonic() + _BOOT
        while time.monotonic() < deadline:
            self._wait_for_boot()
            with suppress(AgentSilent):  # it is going down
                if self.run("cat /proc/sys/kernel/random/boot_id") != before:
                    return
            time.sleep(0.5)
        raise GuestError(f"the guest did not reboot:\n{self.console_tail()}")

    @contextmanager
    def kernel_log(self) -> Iterator[list[str]]:
        """The kernel's messages of the block, in a list that is filled at its end."""
        mark = f"mark {time.monotonic_ns()}"
        self.run(f"echo {mark} >/dev/kmsg")
        lines: list[str] = []
        yield lines
        lines += self.run(f"dmesg --notime | sed '1,/^{mark}$/d'").splitlines()

    def console_tail(self) -> str:
        """The last lines on the console, which has the kernel's log of every boot."""
        return self._console.read_text(encoding="utf-8", errors="replace")[-4000:]

    def _finish(self, job: Job, timeout: float) -> tuple[int, str, str]:
        done = self._agent.finish(job.pid, timeout)
        if done is None:
            raise CommandFailed(f"{job.command}: still running after {timeout:g} s\n{self.console_tail()}")
        return done

    def _wait_for(self, socket: Path) -> None:
        deadline = time.monotonic() + _BOOT
        while not socket.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise GuestError(f"qemu ended with status {self._process.returncode} before the guest began")
            time.sleep(0.05)

    def _wait_for_boot(self) -> None:
        deadline = time.monotonic() + _BOOT
        while True:
            try:
                self._agent.synchronise(1.0)
            except AgentSilent:
                if self._process.poll() is None and time.monotonic() < deadline:
                    continue
                raise GuestError(f"the guest did not come up:\n{self.console_tail()}") from None
            return


def _qemu(root: GuestRoot, program: Path, init: Init, console: Path, socket: Path) -> list[str]:
    accelerator = os.environ.get("KERNEL_LANE_ACCEL", "tcg,thread=multi,tb-size=512")
    disk = "if=virtio,format=raw,snapshot=on,cache=unsafe"
    return [
        # It must not outlive a test run that is killed.
        *("setpriv", "--pdeathsig", "KILL"),
        *("qemu-system-x86_64", "-machine", "q35", "-accel", accelerator, "-cpu", "max", "-smp", "1", "-m", "2G"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-kernel", str(root.kernel), "-initrd", str(root.initramfs)),
        *("-append", f"console=ttyS0 panic=-1 mitigations=off guest_init={_INIT[init]}"),
        *("-drive", f"file={root.disk},{disk}", "-drive", f"file={program},{disk}"),
        *("-chardev", f"file,id=console,path={console}", "-serial", "chardev:console"),
        *("-chardev", f"socket,id=agent,path={socket},server=on,wait=off", "-device", "virtio-serial-pci"),
        *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
    ]
