"""`reencrypt` and the process that turns the data are killed at every point: the content is the same, and it goes on.

Power cuts, at every call and with what the disk had not written lost, are the core's own tests (device, `turn`).
"""

from __future__ import annotations

import os
from unittest.mock import patch

import pytest

from ebscrypt.control import headers, locks, reencrypting
from ebscrypt.control.check import Result, check_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.reencrypt import reencrypt_volume
from ebscrypt.control.site import Site
from ebscrypt.luks2 import reencryption
from ebscrypt.model import MIB
from tests.behaviour.volume.place import wait_until
from tests.crash.sweep import Killer, newest
from tests.unit.control.from_snapshots import contents

CONTENT = os.urandom(5 * MIB)


class Turned:
    """A volume with content that is re-encrypted again and again."""

    def __init__(self, killer: Killer) -> None:
        self.killer = killer
        killer.do("create", "--size", "8M")
        with Site(killer.settings) as site:
            self.volume_id = newest(site)
            contents.write(site, site.catalog.volume(self.volume_id), {MIB: CONTENT})

    def verify(self, name: str) -> None:
        """The next command takes up what had begun, to its end; then all is sound, and the content is what it was."""
        with Site(self.killer.settings) as site:
            wait_until(lambda: locks.holder(site.settings, self.volume_id) is None)
            recover(site)
            reencrypting.wait_for(site, self.volume_id)
            wait_until(lambda: locks.holder(site.settings, self.volume_id) is None)
            recover(site)
            assert site.catalog.keys.rewraps() == {}, name
            volume = site.catalog.volume(self.volume_id)
            assert reencryption.find(headers.read(volume).header) is None
            assert contents.read(site, volume) == bytes(MIB) + CONTENT + bytes(2 * MIB)
            findings = check_volume(site, self.volume_id, unwrap=True)
            assert {finding.result for finding in findings} == {Result.OK}, findings


@pytest.fixture
def turned(killer: Killer, monkeypatch: pytest.MonkeyPatch) -> Turned:
    """This process has KMS unwrap keys too: with the killer's settings."""
    for name, value in killer.environ.items():
        monkeypatch.setenv(name, value)
    return Turned(killer)


@pytest.mark.slow
def test_the_command(turned: Turned) -> None:
    """Nothing has begun, or it goes on by itself."""
    assert turned.killer.sweep(lambda: ["reencrypt", turned.volume_id], turned.verify) >= 8


@pytest.mark.slow
def test_the_process(turned: Turned) -> None:
    """Wherever it was, another takes it up."""

    def prepare() -> list[str]:
        with Site(turned.killer.settings) as site, patch.object(reencrypting, "start"):
            reencrypt_volume(site, turned.volume_id)
        return ["reencrypting", turned.volume_id]

    assert turned.killer.sweep(prepare, turned.verify) >= 10
