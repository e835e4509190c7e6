"""`recover`: rows that a crash left behind, as they lie in the catalog afterwards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from ebscrypt.config import Settings
from ebscrypt.control import locks, runtime
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.recover import recover
from ebscrypt.control.site import Site
from ebscrypt.model import (
    MIB,
    Attachment,
    AttachmentSpec,
    AttachmentState,
    BackingKind,
    ExportKind,
    Volume,
    VolumeState,
    new_volume_id,
    utc_now,
)


def entered(site: Site, state: VolumeState, path: Path | None = None) -> Volume:
    """A row in ``state``, as a killed command leaves it."""
    volume_id = new_volume_id()
    volume = Volume(
        volume_id=volume_id,
        state=state,
        size=8 * MIB,
        backing=str(path or site.settings.volumes_dir / f"{volume_id}.luks"),
        backing_kind=BackingKind.FILE,
        backing_owned=path is None,
        encrypted=True,
        create_time=utc_now(),
    )
    site.catalog.add(volume)
    return volume


def attachment_of(volume: Volume) -> Attachment:
    """What a daemon that is long dead wrote."""
    return Attachment(
        volume_id=volume.volume_id,
        pid=2**22 - 1,
        pid_start=1,
        export=ExportKind.SOCKET,
        device="nbd+unix:///?socket=/nowhere",
        backing=volume.backing,
        size=volume.size,
        read_only=False,
        key_memory="memfd_secret",
        attach_time=utc_now(),
    )


def test_an_interrupted_creation_is_taken_back(site: Site) -> None:
    """The half-made file goes, the record stays with its reason, the event says failed."""
    volume = entered(site, VolumeState.CREATING)
    site.settings.volumes_dir.mkdir(parents=True)
    Path(volume.backing).write_bytes(b"half a header")

    recover(site)

    assert not Path(volume.backing).exists()
    assert site.catalog.volume(volume.volume_id).state is VolumeState.ERROR
    assert [event["detail"]["result"] for _, event in site.catalog.events()] == ["failed"]
    assert site.notes == [f"the creation of {volume.volume_id} was interrupted: it was taken back"]


def test_an_interrupted_creation_never_removes_the_users_file(site: Site, tmp_path: Path) -> None:
    """What is not our header is not touched."""
    path = tmp_path / "theirs"
    path.write_bytes(b"something else")
    entered(site, VolumeState.CREATING, path)

    recover(site)

    assert path.read_bytes() == b"something else"


def test_an_interrupted_deletion_is_finished(site: Site, volume: Volume) -> None:
    """File and row go, and the event says deleted."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.DELETING)

    recover(site)

    assert not Path(volume.backing).exists()
    assert site.catalog.volumes() == []
    assert site.catalog.events()[-1][1]["detail"]["event"] == "deleteVolume"


@pytest.mark.parametrize("state", [VolumeState.CREATING, VolumeState.DELETING])
def test_what_a_living_command_does_is_left_alone(site: Site, settings: Settings, state: VolumeState) -> None:
    """The lock is held by another process: not interrupted at all."""
    volume = entered(site, state)
    code = """
import sys, msgspec
from ebscrypt.config import Settings
from ebscrypt.control import locks
with locks.held(msgspec.json.decode(sys.argv[1], type=Settings), sys.argv[2], "create"):
    print("held", flush=True)
    sys.stdin.read()
"""
    command = [sys.executable, "-c", code, msgspec.json.encode(settings).decode(), volume.volume_id]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        recover(site)
        process.kill()

    assert site.catalog.volume(volume.volume_id).state is state
    assert site.notes == []


def test_after_a_reboot_a_volume_is_available(site: Site, volume: Volume) -> None:
    """In use says the catalog, but there is nothing of an attachment: the runtime directory went with the boot."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)

    recover(site)

    assert site.catalog.volume(volume.volume_id).state is VolumeState.AVAILABLE


def test_a_start_that_was_killed_leaves_nothing(site: Site, volume: Volume) -> None:
    """The spec was written, no daemon ever answered: directory gone, volume available."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)
    spec = AttachmentSpec(
        volume_id=volume.volume_id,
        backing=volume.backing,
        backing_kind=volume.backing_kind,
        encrypted=True,
        size=volume.size,
    )
    runtime.write_spec(site.settings, spec)

    recover(site)

    assert not site.settings.runtime_dir(volume.volume_id).exists()
    assert site.catalog.volume(volume.volume_id).state is VolumeState.AVAILABLE


def test_a_lost_attachment_stays_and_is_shown(site: Site, volume: Volume) -> None:
    """A file system may hang on it: only attach and detach may touch it."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)
    site.settings.runtime_dir(volume.volume_id).mkdir()
    runtime.write_attachment(site.settings, attachment_of(volume))

    recover(site)

    assert site.catalog.volume(volume.volume_id).state is VolumeState.IN_USE
    attached = runtime.attachment_state(site.settings, volume.volume_id)
    assert attached is not None
    assert attached.state is AttachmentState.LOST


def test_a_noted_resize_is_finished(site: Site, volume: Volume) -> None:
    """The target says where it was going."""
    site.catalog.begin_resize(volume.volume_id, VolumeState.AVAILABLE, 32 * MIB)

    recover(site)

    assert site.catalog.volume(volume.volume_id).size == 32 * MIB
    assert Path(volume.backing).stat().st_size > 32 * MIB


def test_a_resize_that_cannot_go_on_is_taken_back(site: Site, volume: Volume) -> None:
    """Its file is gone: the next commands say so and work, and the volume is not stuck for ever."""
    site.catalog.begin_resize(volume.volume_id, VolumeState.AVAILABLE, 32 * MIB)
    aside = Path(volume.backing).rename(f"{volume.backing}.aside")

    recover(site)
    assert any("could not be put in order" in note for note in site.notes)
    aside.rename(volume.backing)
    recover(site)

    assert site.catalog.volume(volume.volume_id).size == 32 * MIB


def test_one_that_cannot_be_helped_does_not_stop_the_others(site: Site, tmp_path: Path) -> None:
    """Recovery never fails a command."""
    stuck = entered(site, VolumeState.DELETING, tmp_path)  # a directory: nobody can erase that
    helped = entered(site, VolumeState.CREATING)

    recover(site)

    assert site.catalog.volume(stuck.volume_id).state is VolumeState.DELETING
    assert site.catalog.volume(helped.volume_id).state is VolumeState.ERROR


def test_nothing_to_do_is_two_queries_and_no_lock(site: Site) -> None:
    """A command on a site in order pays next to nothing."""
    volume = create_volume(site, VolumeRequest(size=8 * MIB))
    locks.forget(site.settings, volume.volume_id)

    recover(site)

    assert site.notes == []
    assert not locks.lock_path(site.settings, volume.volume_id).exists()


def test_after_a_reboot_it_is_known_that_a_volume_was_attached(site: Site, volume: Volume) -> None:
    """The next attachment is a reattachment, whether or not it succeeds; what was never attached is not."""
    other = create_volume(site, VolumeRequest(size=8 * MIB))
    for volume_id in (volume.volume_id, other.volume_id):
        site.catalog.change_state(volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)
    site.catalog.correct(volume.volume_id, was_attached=True)

    recover(site)

    assert site.catalog.volume(volume.volume_id).was_attached
    assert not site.catalog.volume(other.volume_id).was_attached
