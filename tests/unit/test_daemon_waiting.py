"""By which settings /dev/nbdN is connected for a volume that may be suspended."""

from __future__ import annotations

import msgspec
import pytest

from ebscrypt.config import AttachSettings
from ebscrypt.daemon.exports.waiting import attach_settings
from ebscrypt.model import OnKeyUnusable

ATTACH = AttachSettings(connections=4, io_timeout=60, dead_connection_timeout=300)


def test_requests_of_a_volume_that_may_be_suspended_wait_without_end() -> None:
    """No I/O timeout, and one connection, for with more nbd.ko would hang up after 30 s; all else stays."""
    waiting = attach_settings(ATTACH, OnKeyUnusable.SUSPEND)

    assert (waiting.connections, waiting.io_timeout) == (1, 0)
    assert msgspec.structs.replace(waiting, connections=4, io_timeout=60) == ATTACH


@pytest.mark.parametrize("mode", [OnKeyUnusable.IGNORE, OnKeyUnusable.READ_ONLY, OnKeyUnusable.DETACH])
def test_any_other_volume_keeps_the_settings(mode: OnKeyUnusable) -> None:
    """A daemon that hangs is noticed by the kernel, and requests go over all connections."""
    assert attach_settings(ATTACH, mode) is ATTACH
