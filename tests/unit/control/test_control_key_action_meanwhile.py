"""`turn` and what comes between the question to KMS and its consequence: looked for once more, under the lock."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ebscrypt.control import key_check, runtime
from ebscrypt.control.key_action import detach_unusable, turn
from ebscrypt.control.key_check import Verdict
from ebscrypt.control.site import Site
from ebscrypt.model import OnKeyUnusable, Volume, VolumeState
from tests.unit.control.served import served

GONE = Verdict(False, "KEYARN is disabled.")


def told(site: Site) -> list[str]:
    """The results of the key's events."""
    return [event["detail"]["result"] for _, event in site.catalog.events() if event["source"] == "ebscrypt"]


def test_a_mode_that_was_changed_meanwhile_counts(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """The spec is read again under the lock, for KMS may have taken its time."""
    with served(site, volume, OnKeyUnusable.SUSPEND) as daemon:
        place = runtime.directory(site.settings, volume.volume_id)
        spec = place.read_spec()

        def check(*_: Any, **__: Any) -> Verdict:
            runtime.write_spec(site.settings, msgspec.structs.replace(spec, on_key_unusable=OnKeyUnusable.READ_ONLY))
            return GONE

        monkeypatch.setattr(key_check, "check_key", check)
        turn(site, volume.volume_id)

    assert daemon.asked == ["set_access read-only"]


def test_a_verdict_about_another_key_does_not_count(
    site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rewrap came while KMS was asked about the old key: the volume is left alone, and the next turn asks anew."""
    with served(site, volume, OnKeyUnusable.SUSPEND) as daemon:
        spec = runtime.directory(site.settings, volume.volume_id).read_spec()

        def check(*_: Any, **__: Any) -> Verdict:
            runtime.write_spec(site.settings, msgspec.structs.replace(spec, kms_key_arn=f"{spec.kms_key_arn}0"))
            return GONE

        monkeypatch.setattr(key_check, "check_key", check)
        assert turn(site, volume.volume_id) is False

    assert daemon.asked == []
    assert told(site) == []


@pytest.mark.parametrize("came", ["the key", "another mode"])
def test_no_volume_is_detached_that_may_stay(
    site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch, came: str
) -> None:
    """Between the turn that asks for it and the process that does it: cutting users off is checked under the lock."""
    monkeypatch.setattr(key_check, "check_key", lambda *_, **__: GONE)
    with served(site, volume, OnKeyUnusable.DETACH) as daemon:
        assert turn(site, volume.volume_id) is True
        if came == "the key":
            monkeypatch.setattr(key_check, "check_key", lambda *_, **__: Verdict(usable=True))
            turn(site, volume.volume_id)
        else:
            spec = runtime.directory(site.settings, volume.volume_id).read_spec()
            runtime.write_spec(site.settings, msgspec.structs.replace(spec, on_key_unusable=OnKeyUnusable.IGNORE))

        assert detach_unusable(site, volume.volume_id).state is VolumeState.IN_USE

    assert daemon.asked == []
    assert "detached" not in told(site)
