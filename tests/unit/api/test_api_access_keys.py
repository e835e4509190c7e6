"""The file of access keys: what it keeps, who may read it, what it refuses."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ebscrypt.api.access_keys import LARGEST_FILE, MOST_KEYS, AccessKeys
from ebscrypt.config import PathSettings, Settings
from ebscrypt.errors import ConfigError, InvalidParameter, NotFound


@pytest.fixture
def keys(tmp_path: Path) -> AccessKeys:
    return AccessKeys(Settings(paths=PathSettings(state=str(tmp_path), runtime=str(tmp_path))))


def test_a_key_is_kept_and_removed(keys: AccessKeys) -> None:
    """What was created is there, in order, for this user alone; what was removed is not, and cannot be twice."""
    assert keys.all() == []
    assert keys.stamp() is None
    one, two = keys.create("alice"), keys.create("bob")
    assert keys.all() == [one, two]
    assert stat.S_IMODE(keys.path.stat().st_mode) == 0o600
    before = keys.stamp()
    keys.remove(one.access_key_id)
    assert keys.all() == [two]
    assert keys.stamp() != before
    with pytest.raises(NotFound):
        keys.remove(one.access_key_id)


def test_secrets_are_long_and_never_shown(keys: AccessKeys) -> None:
    """Ids and secrets have AWS's form, no two are alike, and a key's text has no secret in it."""
    made = [keys.create("u") for _ in range(20)]
    assert all(len(key.secret_access_key) == 40 and len(key.access_key_id) == 20 for key in made)
    assert len({key.secret_access_key for key in made} | {key.access_key_id for key in made}) == 40
    assert not any(key.secret_access_key in f"{key!r} {key}" for key in made)


def test_the_first_key_is_made_once(keys: AccessKeys) -> None:
    """Where there is a key already, none is made."""
    made = keys.first()
    assert made is not None
    assert made.user == "admin"
    assert keys.first() is None


@pytest.mark.parametrize("user", ["", "a b", "é", "a/b", "x" * 65, "a\n"])
def test_a_user_is_a_name_that_an_arn_can_have(keys: AccessKeys, user: str) -> None:
    """Other names are refused, and nothing is kept."""
    with pytest.raises(InvalidParameter):
        keys.create(user)
    assert keys.all() == []


def test_there_is_an_end(keys: AccessKeys) -> None:
    """One key more than there may be is refused."""
    for _ in range(MOST_KEYS):
        keys.create("u")
    with pytest.raises(InvalidParameter, match="already"):
        keys.create("u")


def test_those_who_write_at_once_lose_nothing(keys: AccessKeys) -> None:
    """Keys made by several at a time are all there."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: keys.create("u").access_key_id, range(24)))
    assert {key.access_key_id for key in keys.all()} == set(made)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o610])
def test_a_file_that_others_can_open_is_refused(keys: AccessKeys, mode: int) -> None:
    """Any right of group or others is refused, with what to do."""
    keys.create("u")
    keys.path.chmod(mode)
    with pytest.raises(ConfigError, match="others can read") as caught:
        keys.all()
    assert "chmod 0600" in (caught.value.hint or "")


def test_a_file_of_another_user_is_refused(keys: AccessKeys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who owns the file can open it whatever its mode is."""
    keys.create("u")
    if keys.path.stat().st_uid:
        monkeypatch.setattr("os.geteuid", lambda: 54321)
    else:
        os.chown(keys.path, 12345, -1)  # root's own is anybody's to trust
    with pytest.raises(ConfigError, match="of user"):
        keys.all()


@pytest.mark.parametrize(
    "content",
    [b"", b"[", b"{}", b"[{}]", b"\xff", b'[{"SecretAccessKey": "hunter2"}]', b"[" * (LARGEST_FILE + 2)],
    ids=["empty", "torn", "another type", "without members", "no text", "part of a key", "endless"],
)
def test_a_damaged_file_is_told_without_its_content(keys: AccessKeys, content: bytes) -> None:
    """The error names the file, and quotes nothing of it."""
    keys.create("u")
    keys.path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged") as caught:
        keys.all()
    assert "hunter2" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
