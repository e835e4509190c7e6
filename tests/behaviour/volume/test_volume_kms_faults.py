"""A KMS that throttles, fails, hangs, resets and lies, seen from each use of it: in time, told, undone, no secrets.

A proxy between ebscrypt and `ebscrypt kms serve` damages every answer to one operation. Each case then looks at all
that was written meanwhile, with logging at DEBUG: no data key or half of one, no wrapped key outside of headers, no
grant token outside of the daemon's own file. The cases run in this process with a stand-in for the daemon (`rewrap`
proves the new wrapped key by the real unwrap process); the last tests have each fault once with the real command line
and the real daemon.
"""

from __future__ import annotations

import io
import logging
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebscrypt.control.attach import attach_volume
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.defaults import enable_ebs_encryption_by_default, get_ebs_encryption_by_default
from ebscrypt.control.detach import detach_volume
from ebscrypt.control.rewrap import rewrap_volume
from ebscrypt.model import MIB, VolumeState
from tests.behaviour.volume import kms_proxy
from tests.behaviour.volume.kms_proxy import FAULTS, RESET, SHORT, SILENT, TRUNCATED, Proxy, content_of
from tests.behaviour.volume.kms_trial import ROLE, SLACK, Trial, directory
from tests.behaviour.volume.place import Place


def cells(*operations: str) -> pytest.MarkDecorator:
    """Each fault on each of these calls."""
    found = [(operation, fault) for operation in operations for fault in FAULTS]
    found += [("Decrypt", SHORT)] if "Decrypt" in operations else []
    return pytest.mark.parametrize(("operation", "fault"), found, ids=lambda value: value)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """`ebscrypt kms serve`, with a state directory of its own."""
    place, state = Place(), directory()
    place.environ["EBSCRYPT_STATE_DIR"] = str(state)
    with place.start("kms", "serve", "--port", "0") as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            process.communicate(timeout=30)
            shutil.rmtree(place.directory)
            shutil.rmtree(state)


@pytest.fixture
def proxy(server: str) -> Iterator[Proxy]:
    with kms_proxy.before(server) as made:
        yield made


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[io.StringIO]:
    """All that is logged from here on; pytest's own capture begins anew with each phase of a test."""
    caplog.set_level(logging.DEBUG)
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logging.Formatter("%(name)s %(message)s"))
    logging.getLogger().addHandler(handler)
    yield written
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def trial(proxy: Proxy, monkeypatch: pytest.MonkeyPatch, log: io.StringIO) -> Iterator[Trial]:
    for name in list(os.environ):
        if name.startswith(("AWS_", "EBSCRYPT_")):
            monkeypatch.delenv(name)
    made = Trial(proxy, monkeypatch, log)
    monkeypatch.setenv("EBSCRYPT_CONFIG", os.devnull)
    monkeypatch.setenv("EBSCRYPT_STATE_DIR", made.site.settings.paths.state)
    monkeypatch.setenv("EBSCRYPT_KMS", proxy.url)
    monkeypatch.setenv("EBSCRYPT_KMS_ATTEMPTS", "2")
    try:
        yield made
        made.expect_no_secrets()
    finally:
        made.close()


@pytest.fixture
def volume_id(trial: Trial) -> str:
    """An encrypted volume, made while KMS was in order."""
    return create_volume(trial.site, VolumeRequest(size=MIB, kms_key_id=trial.key)).volume_id


@cells("DescribeKey", "GenerateDataKeyWithoutPlaintext")
def test_create(operation: str, fault: str, trial: Trial) -> None:
    """Nothing is made; the record that stays says why, and so does the event."""
    error = trial.fails(
        operation, fault, lambda: create_volume(trial.site, VolumeRequest(size=MIB, kms_key_id=trial.key))
    )

    [volume] = trial.site.catalog.volumes()
    assert (volume.state, volume.state_message) == (VolumeState.ERROR, error.message)
    trial.expect_failed("createVolume", volume.volume_id)
    volumes = trial.directory / "s" / "volumes"
    assert not volumes.exists() or list(volumes.iterdir()) == []
    trial.expect_works(create_volume(trial.site, VolumeRequest(size=MIB, kms_key_id=trial.key)).volume_id)


@cells("CreateGrant", "Decrypt")
def test_attach(operation: str, fault: str, trial: Trial, volume_id: str) -> None:
    """The volume is available as before, says why, and so does the event; a grant that KMS did make is retired."""
    backing = Path(trial.site.catalog.volume(volume_id).backing)
    before = content_of(backing)
    error = trial.fails(operation, fault, lambda: attach_volume(trial.site, volume_id))

    volume = trial.site.catalog.volume(volume_id)
    assert (volume.state, volume.attach_failure) == (VolumeState.AVAILABLE, error.message)
    trial.expect_failed("attachVolume", volume_id)
    assert content_of(backing) == before
    assert [path for path in (trial.directory / "r").rglob("*") if path.is_file()] == []
    trial.expect_works(volume_id)


@cells("RetireGrant")
def test_detach(operation: str, fault: str, trial: Trial, volume_id: str) -> None:
    """It succeeds: the grant stays noted, `site.notes` tell, and a later command retires it."""
    attach_volume(trial.site, volume_id)
    with trial.in_time(operation, fault):
        detach_volume(trial.site, volume_id)

    assert trial.site.catalog.volume(volume_id).state is VolumeState.AVAILABLE
    assert len(trial.site.catalog.keys.grants(volume_id)) == 1
    assert any("could not be retired yet" in note for note in trial.site.notes)
    trial.expect_works(volume_id)


@cells("DescribeKey", "ReEncrypt", "Decrypt")
def test_rewrap(operation: str, fault: str, trial: Trial, volume_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Header and catalog have the old key, to the byte, and no rewrap is under way."""
    backing = Path(trial.site.catalog.volume(volume_id).backing)
    row, before, told = trial.site.catalog.volume(volume_id), content_of(backing), len(trial.events())
    new = str(trial.site.kms.call("CreateKey")["KeyMetadata"]["Arn"])
    monkeypatch.setenv("EBSCRYPT_KMS_TIMEOUT", "1" if fault == SILENT else "20")
    trial.fails(operation, fault, lambda: rewrap_volume(trial.site, volume_id, new))

    assert trial.site.catalog.volume(volume_id) == row
    assert content_of(backing) == before
    assert trial.site.catalog.keys.rewraps() == {}
    assert len(trial.events()) == told
    trial.expect_works(volume_id)


@cells("DescribeKey", "GenerateDataKeyWithoutPlaintext")
def test_enabling_encryption_by_default(operation: str, fault: str, trial: Trial, volume_id: str) -> None:
    """It succeeds, since it is no matter of KMS; the note says that the default key could not be tried, and why."""
    with trial.in_time(operation, fault):
        enable_ebs_encryption_by_default(trial.site)

    assert get_ebs_encryption_by_default(trial.site).enabled
    assert any("default key" in note and operation in note for note in trial.site.notes)
    trial.expect_works(volume_id)


@pytest.fixture(scope="module")
def place(server: str) -> Iterator[tuple[Place, Proxy, str]]:
    """A command line before a proxy, which logs all there is to log; and a volume."""
    made = Place()
    site = made.directory / "p"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import logging\nlogging.basicConfig(level=logging.DEBUG)\n")
    made.environ["PYTHONPATH"] = os.pathsep.join([str(site), made.environ["PYTHONPATH"]])
    with kms_proxy.before(server) as proxy:
        made.environ |= {"EBSCRYPT_KMS": proxy.url, "EBSCRYPT_KMS_GRANTS": "always", "EBSCRYPT_KMS_ATTEMPTS": "2"}
        made.environ |= {"EBSCRYPT_KMS_GRANTEE": ROLE, "EBSCRYPT_KMS_RETIRING_PRINCIPAL": ROLE}
        try:
            yield made, proxy, made.do("create", "--size", "1M")
        finally:
            made.close()


@pytest.mark.parametrize("fault", [*FAULTS, SHORT])
def test_the_command_line_and_the_daemon(fault: str, place: tuple[Place, Proxy, str]) -> None:
    """`attach`, whose daemon's unwrap process meets the fault: refused in time, available, no daemon, no secrets."""
    made, proxy, volume_id = place
    environ = {"EBSCRYPT_KMS_TIMEOUT": "2"} if fault == SILENT else {}

    with proxy.faulty("Decrypt", fault):
        started = time.monotonic()
        ran = made.run("attach", volume_id, "--export", "socket", environ=environ)
        took = time.monotonic() - started

    assert ran.status == 1
    assert "ebscrypt: error: " in ran.err
    assert "DEBUG" in ran.err, "the claim about what is logged is about nothing"
    assert took < 20 + SLACK
    shown = made.run("show", volume_id)
    assert "available" in shown.out
    assert "Decrypt" in shown.out
    assert made.daemons() == []
    assert list(made.runtime.iterdir()) == []
    events = made.do("events", "--output", "json")
    assert '"attachVolume"' in events.splitlines()[-1]
    said = "\n".join([ran.out, ran.err, shown.out, shown.err, events, made.do("audit", "--output", "json")])
    assert proxy.written(said.encode()) == []
    assert proxy.wrapped
    assert proxy.tokens
    assert proxy.plaintexts or fault not in (TRUNCATED, SHORT)
    for path in made.directory.rglob("*"):
        if path.is_file():
            assert proxy.written(content_of(path), wrapped_too=path.suffix != ".luks") == [], path


def test_a_daemon_tells_its_log_no_secret(place: tuple[Place, Proxy, str]) -> None:
    """An attachment that works, all logged at DEBUG: the key is nowhere, the token in the daemon's own file alone."""
    made, proxy, volume_id = place
    ran = made.run("attach", volume_id, "--export", "socket")
    assert ran.status == 0, ran.err

    written = {path: content_of(path) for path in made.directory.rglob("*") if path.is_file()}
    with proxy.faulty("RetireGrant", RESET):
        detached = made.run("detach", volume_id)

    assert detached.status == 0
    assert "could not be retired yet" in detached.err
    assert proxy.written((ran.out + ran.err + detached.out + detached.err).encode()) == []
    assert any(path.name == "daemon.log" for path in written)
    assert proxy.plaintexts
    for path, content in written.items():
        is_spec = path.name == "spec.json"
        assert proxy.written(content, wrapped_too=path.suffix != ".luks", tokens_too=not is_spec) == [], path
        assert not is_spec or proxy.tokens[-1].encode() in content
