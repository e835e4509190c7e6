"""`rewrap` is killed at every point: the volume has one key or the other, and it opens.

What the header says, the catalog says after the next command. A data key that nothing opens would be a lost volume.
"""

from __future__ import annotations

import subprocess

import pytest

from ebscrypt.control import headers, runtime
from ebscrypt.control.check import Result, check_volume
from ebscrypt.control.describe import describe_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.model import AttachmentState
from tests.crash.sweep import Killer, newest


class Turns:
    """A volume that is rewrapped to one key and the other by turns, from whichever it has by now."""

    def __init__(self, killer: Killer) -> None:
        self.killer = killer
        killer.do("create", "--size", "8M")
        with Site(killer.settings) as site:
            self.volume_id = newest(site)
            self.first = str(site.catalog.volume(self.volume_id).kms_key_arn)
            self.second = str(site.kms.call("CreateKey")["KeyMetadata"]["Arn"])

    def prepare(self) -> list[str]:
        with Site(self.killer.settings) as site:
            now = site.catalog.volume(self.volume_id).kms_key_arn
        self.target = self.second if now == self.first else self.first
        return ["rewrap", self.volume_id, "--kms-key-id", self.target]

    def verify(self, name: str) -> None:
        """Header and catalog agree, all is sound, and KMS opens the wrapped key: it is the volume's."""
        with Site(self.killer.settings) as site:
            recover(site)
            volume = site.catalog.volume(self.volume_id)
            assert site.catalog.keys.rewraps() == {}
            assert headers.read(volume).header.token().kms_key_arn == volume.kms_key_arn
            assert volume.kms_key_arn in (self.first, self.second)
            if name in ("rewrap.described", "rewrap.done", "the end"):
                assert volume.kms_key_arn == self.target
            findings = check_volume(site, self.volume_id, unwrap=True)
            assert {finding.result for finding in findings} == {Result.OK}, findings


@pytest.fixture(autouse=True)
def _unwrapping_there(killer: Killer, monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has KMS unwrap keys too: with the killer's settings."""
    for name, value in killer.environ.items():
        monkeypatch.setenv(name, value)


@pytest.mark.slow
@pytest.mark.parametrize("sealed", [False, True], ids=["never-attached", "sealed"])
def test_rewrap(killer: Killer, *, sealed: bool) -> None:
    """Of a detached volume."""
    turns = Turns(killer)
    if sealed:
        killer.place.do("attach", turns.volume_id, "--export", "socket")
        killer.place.do("detach", turns.volume_id)

    assert killer.sweep(turns.prepare, turns.verify) >= 8


@pytest.mark.slow
def test_rewrap_while_attached(killer: Killer) -> None:
    """The daemon serves on, whatever becomes of the command; what was written is there at the next attachment."""
    turns = Turns(killer)
    device = killer.place.do("attach", turns.volume_id, "--export", "socket")
    subprocess.run(["qemu-io", "-f", "raw", "-c", "write -P 7 0 1M", device], check=True, capture_output=True)

    def verify(name: str) -> None:
        turns.verify(name)
        with Site(killer.settings) as site:
            attached = describe_volume(site, turns.volume_id).attached
            kms_key_arn = site.catalog.volume(turns.volume_id).kms_key_arn
            spec = runtime.directory(site.settings, turns.volume_id).read_spec()
            grants = {row.kms_key_arn for row in site.catalog.keys.grants(turns.volume_id)}
        assert attached is not None
        assert attached.state is AttachmentState.ATTACHED
        assert spec.kms_key_arn == kms_key_arn
        assert spec.grant_token is not None
        assert kms_key_arn in grants

    assert killer.sweep(turns.prepare, verify) >= 8

    killer.place.do("detach", turns.volume_id)
    device = killer.place.do("attach", turns.volume_id, "--export", "socket")
    command = ["qemu-io", "-f", "raw", "-c", "read -P 7 0 1M", device]
    assert "failed" not in subprocess.run(command, check=True, capture_output=True, text=True).stdout
