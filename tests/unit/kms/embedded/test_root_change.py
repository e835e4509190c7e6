"""Another root key, and another place for it: everything still opens, the old one opens nothing, nobody has to wait."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import msgspec
import pytest

from ebscrypt.config import Settings
from ebscrypt.errors import ConfigError, InvalidCombination, KmsError, NotFound, StateError
from ebscrypt.kms.embedded import directory, root_change, root_files, root_key, schema, secrets_kept
from ebscrypt.kms.embedded.root_change import Sealing
from ebscrypt.kms.embedded.root_key import Kind, Place
from tests.unit.kms.embedded.changing import names, opens
from tests.unit.kms.embedded.speaking import Speaker


def test_rotation_seals_everything_anew(used: tuple[Settings, bytes]) -> None:
    """Everything opens, the file holds another key, and the old one opens nothing any more."""
    settings, blob = used
    path = settings.kms_dir / "root.key"
    old = path.read_bytes()

    changed = root_change.rotate(settings)

    assert changed.resealed == 1
    assert path.read_bytes() != old
    assert path.stat().st_mode & 0o7777 == 0o600
    assert opens(settings, blob)
    assert names(settings) == {"README", "root.key", "keys.db"}
    path.write_bytes(old)
    with pytest.raises(ConfigError, match="not the root key"):
        Speaker(settings).say("ListKeys")


@pytest.mark.parametrize("name", ["root.new", "link"])
def test_a_root_key_elsewhere_is_rotated_where_it_is(settings: Settings, tmp_path: Path, name: str) -> None:
    """A name that looks like a next root key's is none, and a link stays one; the only root key is never taken away."""
    named, file = tmp_path / name, tmp_path / ("real.key" if name == "link" else name)
    if name == "link":
        named.symlink_to(file)
        settings.kms_dir.mkdir(parents=True, mode=0o700)
        root_key.write(Place(file, Kind.FILE), root_key.fresh(Place(file, Kind.FILE)).line())
    elsewhere = msgspec.structs.replace(settings, kms=msgspec.structs.replace(settings.kms, root_key=str(named)))
    speaker = Speaker(elsewhere)
    blob = speaker.wrapped(speaker.key())
    speaker.close()
    old = file.read_bytes()

    changed = root_change.rotate(elsewhere)

    assert changed.erased == []
    assert file.read_bytes() not in (b"", old)
    assert named.is_symlink() is (name == "link")
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {named.name, file.name}
    assert opens(elsewhere, blob)


def test_every_kind_of_secret_is_sealed_anew(settings: Settings) -> None:
    """Each row that secrets_kept lists opens under the new root key, and none under the old one."""
    speaker = Speaker(settings)
    speaker.key()
    external = speaker.key(Origin="EXTERNAL")
    algorithm = {"WrappingAlgorithm": "RSAES_OAEP_SHA_256", "WrappingKeySpec": "RSA_2048"}
    speaker.say("GetParametersForImport", KeyId=external, **algorithm)
    old = root_key.load(settings, create=False)

    changed = root_change.rotate(settings)

    new = root_key.load(settings, create=False)
    with speaker.kms.open().read() as db:
        kept = secrets_kept.every(db)
    assert {secret.kind.table for secret in kept} == {kind.table for kind in secrets_kept.KINDS}
    assert changed.resealed == len(kept) == 2
    for secret in kept:
        assert secret.opened(new)
        with pytest.raises(KmsError, match="tampered"):
            secret.opened(old)
    speaker.close()


def test_old_forms_are_not_left_in_the_files(used: tuple[Settings, bytes]) -> None:
    """Neither the old root key nor what was sealed under it is in any file of the directory afterwards."""
    settings, _ = used
    old_line = (settings.kms_dir / "root.key").read_bytes()
    with sqlite3.connect(settings.kms_dir / "keys.db") as database:
        old_sealed = bytes(database.execute("SELECT sealed FROM material").fetchone()[0])
    database.close()

    root_change.rotate(settings)

    content = b"".join(path.read_bytes() for path in settings.kms_dir.iterdir())
    assert old_line.split()[1] not in content
    assert old_sealed not in content


def test_whoever_has_the_store_open_goes_on(settings: Settings) -> None:
    """A KMS that is in use sees the new root key in its next request, whatever it asks."""
    user, blob = Speaker(settings), b""
    key = user.key()
    blob = user.wrapped(key)

    for _ in range(3):
        root_change.rotate(settings)
        assert len(user.opened(blob)) == 64
        assert len(user.opened(user.wrapped(user.key()))) == 64

    user.close()


def test_rotations_while_others_work(settings: Settings) -> None:
    """Threads with KMSs of their own make keys and open blobs while the root key changes ten times: none fails."""
    failures: list[BaseException] = []
    stop = threading.Event()
    rounds = [0, 0, 0]

    def work(number: int) -> None:
        speaker = Speaker(settings)
        try:
            while not stop.is_set():
                key = speaker.key()
                assert len(speaker.opened(speaker.wrapped(key))) == 64
                rounds[number] += 1
        except BaseException as error:  # noqa: BLE001 - told to the main thread
            failures.append(error)
        finally:
            speaker.close()

    Speaker(settings).key()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    rotations = 0
    while (rotations < 10 or not all(rounds)) and not failures:
        root_change.rotate(settings)
        rotations += 1
    stop.set()
    for thread in threads:
        thread.join()

    assert failures == []


def test_two_rotations_at_once_take_turns(used: tuple[Settings, bytes]) -> None:
    """Rotations that are asked for at the same time happen one after the other."""
    settings, blob = used
    fingerprints: list[str] = []
    threads = [
        threading.Thread(target=lambda: fingerprints.append(root_change.rotate(settings).fingerprint)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(fingerprints)) == 4
    assert root_key.load(settings, create=False).fingerprint in fingerprints
    assert opens(settings, blob)


def test_nothing_to_rotate(settings: Settings) -> None:
    """Where there is no store, none is made."""
    with pytest.raises(NotFound, match="no embedded KMS"):
        root_change.rotate(settings)

    assert not settings.kms_dir.exists()


def test_a_damaged_secret_stops_the_rotation(used: tuple[Settings, bytes]) -> None:
    """When one secret does not open, nothing changes: the old root key stays in force and the rest opens."""
    settings, blob = used
    speaker = Speaker(settings)
    damaged = speaker.key()
    with speaker.database() as database:
        database.execute("UPDATE material SET sealed = zeroblob(61) WHERE key_id = ?", (damaged.rpartition("/")[2],))
    old = (settings.kms_dir / "root.key").read_bytes()

    with pytest.raises(KmsError, match="tampered"):
        root_change.rotate(settings)

    assert (settings.kms_dir / "root.key").read_bytes() == old
    assert len(speaker.opened(blob)) == 64
    speaker.close()
    assert opens(settings, blob)
    assert "root.key.new" not in names(settings)


def test_a_root_key_elsewhere_stays_there(settings: Settings, tmp_path: Path) -> None:
    """A root key that kms.root_key names, even by a symbolic link, is changed where it is."""
    real, link = tmp_path / "real.key", tmp_path / "link.key"
    link.symlink_to(real)
    kms = msgspec.structs.replace(settings.kms, root_key=str(link))
    moved = msgspec.structs.replace(settings, kms=kms)
    real.write_bytes(root_key.fresh(Place(real, Kind.FILE)).line())
    real.chmod(0o600)
    speaker = Speaker(moved)
    blob = speaker.wrapped(speaker.key())
    old = real.read_bytes()

    root_change.rotate(moved)

    assert link.is_symlink()
    assert real.read_bytes() != old
    assert len(speaker.opened(blob)) == 64
    speaker.close()


def test_what_systemd_passed_cannot_be_changed(
    used: tuple[Settings, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A root key out of $CREDENTIALS_DIRECTORY has a source that is not known here: refused, with the way out."""
    settings, blob = used
    credential = tmp_path / "credentials" / "ebscrypt-kms-root"
    credential.parent.mkdir()
    (settings.kms_dir / "root.key").rename(credential)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credential.parent))

    for change in (root_change.rotate, root_change.seal, root_change.unseal):
        with pytest.raises(StateError, match="systemd passed") as caught:
            change(settings)
        assert "EBSCRYPT_KMS_ROOT_KEY=FILE" in str(caught.value.hint)

    assert opens(settings, blob)


def test_what_systemd_passed_before_a_rotation_is_passed_over(
    used: tuple[Settings, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A unit that was started before a rotation has the old one in $CREDENTIALS_DIRECTORY, and works all the same."""
    settings, blob = used
    credential = tmp_path / "credentials" / "ebscrypt-kms-root"
    credential.parent.mkdir()
    credential.touch(0o400)
    credential.write_bytes((settings.kms_dir / "root.key").read_bytes())
    root_change.rotate(settings)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credential.parent))

    assert opens(settings, blob)


def test_how_to_seal_is_refused_for_a_file_in_clear(used: tuple[Settings, bytes]) -> None:
    """--with-key makes no sense where nothing is sealed: said, instead of ignored."""
    settings, _ = used

    with pytest.raises(InvalidCombination, match="in clear"):
        root_change.rotate(settings, Sealing(with_key="host"))


@pytest.mark.parametrize("committed", [False, True], ids=["before the transaction", "after it"])
def test_what_a_crash_left_is_tidied_up(committed: bool, used: tuple[Settings, bytes]) -> None:  # noqa: FBT001
    """A ….new beside the root key is taken or erased by the next opening, as the store's fingerprint says."""
    settings, blob = used
    place = root_key.plain_place(settings)
    new = root_key.fresh(place.next)
    root_key.write(place.next, new.line())
    if committed:
        old = root_key.read(place)
        with sqlite3.connect(settings.kms_dir / "keys.db") as database:
            for secret in secrets_kept.every(database):
                secrets_kept.put(database, secret, secret.sealed_again(old, new))
            schema.set_root_fingerprint(database, new.fingerprint)
        database.close()

    assert opens(settings, blob)

    assert names(settings) == {"README", "root.key", "keys.db"}
    assert (root_key.read(place).fingerprint == new.fingerprint) is committed


def test_a_change_under_way_is_left_alone(used: tuple[Settings, bytes]) -> None:
    """While another process holds the lock, whoever opens the store neither waits nor tidies up."""
    settings, blob = used
    place = root_key.plain_place(settings)
    root_key.write(place.next, root_key.fresh(place.next).line())

    with directory.locked(settings.kms_dir):
        assert opens(settings, blob)
        assert place.next.exists()


def test_an_interrupted_erasure_is_recognised(used: tuple[Settings, bytes]) -> None:
    """A file that was overwritten but not removed counts as nothing, whoever reads it."""
    settings, _ = used
    place = root_key.plain_place(settings)
    root_files.erase(place)

    assert not place.exists()
    place.path.touch(0o600)
    place.path.write_bytes(b"\n" * 85)
    assert root_files.is_erased(place)
    with pytest.raises(ConfigError, match="malformed"):
        root_key.read(place)
