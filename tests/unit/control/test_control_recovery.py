"""Recovery passphrases on a detached volume: keyslots that stock cryptsetup makes, tries and removes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from ebscrypt.control import cryptsetup, faultpoints, headers, recovery
from ebscrypt.control.check import Result, check_volume
from ebscrypt.control.resize import resize_volume
from ebscrypt.control.rewrap import rewrap_volume
from ebscrypt.control.site import Site
from ebscrypt.errors import (
    BackingMissing,
    HeaderError,
    InvalidParameter,
    KeyMismatch,
    KmsKeyDisabled,
    NotFound,
    StateError,
)
from ebscrypt.model import MIB, Volume, VolumeState
from tests.unit.control.sealing import seal, write_token

PASSPHRASE = b"correct horse battery staple"
OTHER = "wörter mit Blank".encode()

pytestmark = pytest.mark.usefixtures("unwrapping", "_quick")


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keyslots that take no seconds. One test has those that users get."""
    monkeypatch.setattr(cryptsetup, "PBKDF", ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"))


def run_cryptsetup(*arguments: str, stdin: bytes = b"", status: int = 0) -> bytes:
    """What anybody can do who has cryptsetup and the backing."""
    ran = subprocess.run(["cryptsetup", "-q", *arguments], input=stdin, capture_output=True, check=False)
    assert ran.returncode == status, ran.stderr
    return ran.stdout


def opens(volume: Volume, passphrase: bytes) -> bool:
    """Whether stock cryptsetup opens the volume by a passphrase, as if it had been typed."""
    command = ["cryptsetup", "open", "--test-passphrase", volume.backing]
    return subprocess.run(command, input=passphrase + b"\n", capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("sealed", [False, True], ids=["never-attached", "sealed"])
def test_the_passphrase_opens_the_volume_for_stock_cryptsetup(site: Site, volume: Volume, *, sealed: bool) -> None:
    """And gives exactly the key that KMS unwraps; a volume that was never attached is sealed on the way."""
    if sealed:
        seal(site, volume)

    assert recovery.add_recovery_passphrase(site, volume.volume_id, PASSPHRASE) == 0

    header = headers.read(volume).header
    assert header.token().sealed
    assert any("sealed" in note for note in site.notes) is not sealed
    assert opens(volume, PASSPHRASE)
    assert not opens(volume, PASSPHRASE + b"r")
    token = header.token()
    plaintext = site.kms.decrypt(token.wrapped_key, token.encryption_context).plaintext
    dump = run_cryptsetup("luksDump", "--dump-volume-key", volume.backing, stdin=PASSPHRASE).decode()
    shown = dump.partition("MK dump:")[2].partition("\n\n")[0]
    assert bytes.fromhex("".join(re.findall(r"\b[0-9a-f]{2}\b", shown))) == plaintext
    findings = check_volume(site, volume.volume_id, unwrap=True)
    assert {finding.result for finding in findings} == {Result.OK}, findings


def test_what_users_get_is_argon2id(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cryptsetup's default, measured by it on this machine: a second or more for each guess, and much memory."""
    monkeypatch.undo()
    monkeypatch.setenv("EBSCRYPT_CONFIG", os.devnull)
    monkeypatch.setenv("EBSCRYPT_STATE_DIR", site.settings.paths.state)
    monkeypatch.setenv("EBSCRYPT_REGION", site.settings.kms.region)
    monkeypatch.setenv("EBSCRYPT_ACCOUNT", site.settings.kms.account)

    recovery.add_recovery_passphrase(site, volume.volume_id, PASSPHRASE)

    [slot] = recovery.list_keyslots(site, volume.volume_id)
    assert slot.kdf == "argon2id"
    assert slot.memory is not None
    assert slot.memory >= 64 * 1024


def test_a_passphrase_tells_its_keyslot(site: Site, volume: Volume) -> None:
    """Of several; and whether it opens one of a given number."""
    volume_id = volume.volume_id
    assert recovery.add_recovery_passphrase(site, volume_id, PASSPHRASE) == 0
    assert recovery.add_recovery_passphrase(site, volume_id, OTHER) == 1

    assert recovery.try_recovery_passphrase(site, volume_id, PASSPHRASE) == 0
    assert recovery.try_recovery_passphrase(site, volume_id, OTHER) == 1
    assert recovery.try_recovery_passphrase(site, volume_id, OTHER, keyslot=1) == 1
    with pytest.raises(KeyMismatch, match="does not open keyslot 0"):
        recovery.try_recovery_passphrase(site, volume_id, OTHER, keyslot=0)
    with pytest.raises(KeyMismatch, match="opens no keyslot"):
        recovery.try_recovery_passphrase(site, volume_id, b"neither of them")
    with pytest.raises(NotFound, match="no keyslot 7"):
        recovery.try_recovery_passphrase(site, volume_id, OTHER, keyslot=7)
    assert [slot.keyslot for slot in recovery.list_keyslots(site, volume_id)] == [0, 1]


def test_without_a_passphrase_there_is_nothing_to_try(site: Site, volume: Volume) -> None:
    """The hint says how to add one."""
    with pytest.raises(NotFound) as caught:
        recovery.try_recovery_passphrase(site, volume.volume_id, PASSPHRASE)

    assert caught.value.hint == f"`ebscrypt recovery add {volume.volume_id}` adds one"


def test_our_later_updates_of_the_header_keep_it(site: Site, volume: Volume, new_key: str) -> None:
    """Added, then rewrapped, then grown: it still opens the volume."""
    recovery.add_recovery_passphrase(site, volume.volume_id, PASSPHRASE)

    rewrap_volume(site, volume.volume_id, new_key)
    resize_volume(site, volume.volume_id, 16 * MIB)

    assert opens(volume, PASSPHRASE)
    assert recovery.try_recovery_passphrase(site, volume.volume_id, PASSPHRASE) == 0


def test_a_removed_passphrase_opens_nothing(site: Site, volume: Volume) -> None:
    """The other one still does; what old copies of the header can do is said."""
    recovery.add_recovery_passphrase(site, volume.volume_id, PASSPHRASE)
    recovery.add_recovery_passphrase(site, volume.volume_id, OTHER)
    before = Path(volume.backing).read_bytes()

    recovery.remove_keyslot(site, volume.volume_id, 0)

    assert not opens(volume, PASSPHRASE)
    assert opens(volume, OTHER)
    assert any("older copies of the header" in note for note in site.notes)
    Path(volume.backing).write_bytes(before)
    assert opens(volume, PASSPHRASE)


def test_a_file_that_was_put_in_its_place_loses_nothing(
    site: Site, volume: Volume, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may write to the directory could swap the backing between the look at it and the removal."""
    recovery.add_recovery_passphrase(site, volume.volume_id, PASSPHRASE)
    backing, other = Path(volume.backing), tmp_path / "other"
    other.write_bytes(backing.read_bytes())
    check = recovery._check_there

    def swap(volume_id: str, keyslot: int, there: set[int]) -> None:
        check(volume_id, keyslot, there)
        backing.rename(tmp_path / "aside")
        other.rename(backing)

    monkeypatch.setattr(recovery, "_check_there", swap)
    recovery.remove_keyslot(site, volume.volume_id, 0)

    assert opens(volume, PASSPHRASE)
    (tmp_path / "aside").rename(backing)
    assert not opens(volume, PASSPHRASE)


def test_a_keyslot_of_another_program_is_left_to_it(site: Site, volume: Volume) -> None:
    """What a token says that it uses is listed as its, and not removed; a recovery key of systemd's is a passphrase."""
    for passphrase, kind in ((PASSPHRASE, "clevis"), (OTHER, "systemd-recovery")):
        number = recovery.add_recovery_passphrase(site, volume.volume_id, passphrase)
        token = json.dumps({"type": kind, "keyslots": [str(number)]}).encode()
        run_cryptsetup("token", "import", volume.backing, stdin=token)

    assert [slot.tokens for slot in recovery.list_keyslots(site, volume.volume_id)] == [
        ["clevis"],
        ["systemd-recovery"],
    ]
    with pytest.raises(StateError, match="belongs to clevis"):
        recovery.remove_keyslot(site, volume.volume_id, 0)
    assert opens(volume, PASSPHRASE)
    recovery.remove_keyslot(site, volume.volume_id, 1)
    with pytest.raises(NotFound, match="no keyslot 1"):
        recovery.remove_keyslot(site, volume.volume_id, 1)


@pytest.mark.parametrize(
    ("passphrase", "text"),
    [
        pytest.param(b"too short", "9 characters", id="short"),
        pytest.param(b"", "0 characters", id="empty"),
        pytest.param(b"x" * 513, "513 bytes", id="long"),
        pytest.param(b"correct horse\nbattery", "cannot be typed", id="two-lines"),
        pytest.param(b"correct\0horse battery", "cannot be typed", id="nul"),
        pytest.param(b"correct horse \xff\xfe battery", "not UTF-8", id="bytes"),
    ],
)
def test_a_passphrase_that_will_not_do_is_refused(
    site: Site, volume: Volume, untouched: Callable[[], None], passphrase: bytes, text: str
) -> None:
    """Before KMS is asked; and the message does not repeat it."""
    with pytest.raises(InvalidParameter, match=text) as caught:
        recovery.add_recovery_passphrase(site, volume.volume_id, passphrase)

    assert len(passphrase) == 0 or passphrase.decode(errors="replace") not in caught.value.message
    untouched()


def test_the_longest_passphrase_is_one_that_can_be_typed(site: Site, volume: Volume) -> None:
    """All of it counts."""
    longest = os.urandom(256).hex().encode()

    recovery.add_recovery_passphrase(site, volume.volume_id, longest)

    assert opens(volume, longest)
    assert not opens(volume, longest[:-1])


def test_generated_passphrases_are_recovery_keys_of_systemds_form() -> None:
    """256 bits in letters that most keyboards agree on, and never the same."""
    made = {recovery.generate_passphrase() for _ in range(50)}

    assert len(made) == 50
    assert all(re.fullmatch(r"[cbdefghijklnrtuv]{8}(-[cbdefghijklnrtuv]{8}){7}", text) for text in made)
    assert set("".join(made)) == set("cbdefghijklnrtuv-")
    for text in made:
        recovery.check_passphrase(text.encode())


def test_a_key_that_cannot_be_used_adds_nothing(site: Site, volume: Volume, new_key: str) -> None:
    """KMS must decrypt once."""
    rewrap_volume(site, volume.volume_id, new_key)
    site.kms.call("DisableKey", KeyId=new_key)

    with pytest.raises(KmsKeyDisabled):
        recovery.add_recovery_passphrase(site, volume.volume_id, PASSPHRASE)

    assert recovery.list_keyslots(site, volume.volume_id) == []
    assert not headers.read(volume).header.token().sealed


def test_a_foreign_data_key_gets_no_keyslot(site: Site, volume: Volume) -> None:
    """KMS unwraps something that is not this volume's key: a keyslot of that would be a trap."""
    seal(site, volume)
    token = headers.read(volume).header.token()
    wrong = site.kms.encrypt(token.kms_key_arn, os.urandom(64), token.encryption_context)
    write_token(volume, wrapped_key=wrong.blob)

    with pytest.raises(KeyMismatch):
        recovery.add_recovery_passphrase(site, volume.volume_id, PASSPHRASE)

    assert recovery.list_keyslots(site, volume.volume_id) == []


def test_what_cryptsetup_says_is_passed_on(site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own words, as when it does not take the key derivation."""
    monkeypatch.setattr(cryptsetup, "PBKDF", ("--pbkdf", "argon2id", "--pbkdf-force-iterations", "1"))

    with pytest.raises(HeaderError, match="could not add a keyslot"):
        recovery.add_recovery_passphrase(site, volume.volume_id, PASSPHRASE)

    assert recovery.list_keyslots(site, volume.volume_id) == []


def test_a_machine_without_cryptsetup_is_told(
    site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The package is named."""
    monkeypatch.setattr(cryptsetup, "_SYSTEM_PATH", str(tmp_path))

    with pytest.raises(NotFound, match="cryptsetup is not installed"):
        recovery.add_recovery_passphrase(site, volume.volume_id, PASSPHRASE)


def test_neither_key_nor_passphrase_is_in_an_argument_or_in_the_environment(
    site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What any user of the machine can read of cryptsetup's process; nor can it leave a core file."""
    spy = tmp_path / "bin" / "cryptsetup"
    spy.parent.mkdir()
    # The limit is set right after the start, and before the key is there: by then it is what counts.
    spy.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/seen; env >> {tmp_path}/seen\n'
        f'while [ "$(ulimit -c)" != 0 ]; do sleep 0.01; done\nexec {cryptsetup_path()} "$@"\n'
    )
    spy.chmod(0o755)
    monkeypatch.setattr(cryptsetup, "_SYSTEM_PATH", f"{spy.parent}:{os.environ['PATH']}")
    token = headers.read(volume).header.token()
    plaintext = site.kms.decrypt(token.wrapped_key, token.encryption_context).plaintext

    recovery.add_recovery_passphrase(site, volume.volume_id, PASSPHRASE)
    recovery.try_recovery_passphrase(site, volume.volume_id, PASSPHRASE)

    seen = (tmp_path / "seen").read_bytes()
    assert b"luksAddKey" in seen
    assert b"--test-passphrase" in seen
    assert PASSPHRASE not in seen
    assert plaintext not in seen
    assert plaintext.hex().encode() not in seen


def cryptsetup_path() -> str:
    ran = subprocess.run(["sh", "-c", "command -v cryptsetup"], capture_output=True, text=True, check=True)
    return ran.stdout.strip()


@pytest.mark.parametrize("command", ["add", "try", "list", "remove"])
def test_a_plain_volume_has_no_keyslots(site: Site, plain_volume: Volume, command: str) -> None:
    """Said so, by each of the four."""
    volume_id = plain_volume.volume_id
    calls: dict[str, Callable[[], object]] = {
        "add": lambda: recovery.add_recovery_passphrase(site, volume_id, PASSPHRASE),
        "try": lambda: recovery.try_recovery_passphrase(site, volume_id, PASSPHRASE),
        "list": lambda: recovery.list_keyslots(site, volume_id),
        "remove": lambda: recovery.remove_keyslot(site, volume_id, 0),
    }

    with pytest.raises(StateError, match="is not encrypted"):
        calls[command]()


def test_a_volume_whose_daemon_died_waits(site: Site, volume: Volume) -> None:
    """Its header may be about to be written by the next daemon."""
    site.catalog.change_state(volume.volume_id, VolumeState.AVAILABLE, VolumeState.IN_USE)

    with pytest.raises(StateError, match="has died"):
        recovery.add_recovery_passphrase(site, volume.volume_id, PASSPHRASE)


def test_a_missing_backing_is_named(site: Site, volume: Volume) -> None:
    """By its path."""
    Path(volume.backing).unlink()

    with pytest.raises(BackingMissing, match=volume.backing):
        recovery.list_keyslots(site, volume.volume_id)


def test_a_keyslot_of_somebody_else_at_the_same_time_is_not_taken_for_ours(
    site: Site, volume: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two new ones: which is ours is not guessed."""
    recovery.add_recovery_passphrase(site, volume.volume_id, PASSPHRASE)

    def strike(name: str) -> None:
        if name == "recovery.added":
            quick = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "-")
            key = Path(volume.backing).with_suffix(".theirs")
            key.write_bytes(b"their own passphrase")
            run_cryptsetup("luksAddKey", *quick, volume.backing, str(key), stdin=PASSPHRASE)

    monkeypatch.setattr(faultpoints, "reach", strike)
    with pytest.raises(StateError, match="2 keyslots were added"):
        recovery.add_recovery_passphrase(site, volume.volume_id, OTHER)


def test_an_unknown_kind_of_keyslot_is_listed(site: Site, volume: Volume) -> None:
    """As far as it can be understood; the format lets others invent their own key derivation."""
    recovery.add_recovery_passphrase(site, volume.volume_id, PASSPHRASE)
    header = headers.read(volume).header
    slots = header.metadata["keyslots"]
    new_kdf = {"type": "scrypt9", "cost": 12}
    changed = header.metadata | {"keyslots": {"0": slots["0"] | {"kdf": new_kdf}}}

    [slot] = recovery._keyslots(msgspec.structs.replace(header, metadata=changed))

    assert slot == recovery.Keyslot(keyslot=0, kdf="scrypt9", memory=None, tokens=[])
