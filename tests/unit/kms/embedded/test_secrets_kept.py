"""The list of sealed secrets: complete, and enough to seal them all under another root key."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebscrypt.errors import KmsError
from ebscrypt.kms.embedded import secrets_kept
from ebscrypt.kms.embedded.root_key import Kind, Place, RootKey
from tests.unit.kms.embedded.importing import imported, parameters
from tests.unit.kms.embedded.speaking import Speaker

OTHER = RootKey(bytes(32), Place(Path("elsewhere"), Kind.FILE))


@pytest.fixture
def full(kms: Speaker) -> Speaker:
    """A KMS with secrets of every kind: rotated, imported, deleted and pending ones."""
    rotated, external, gone = kms.key(), kms.key(Origin="EXTERNAL"), kms.key(Origin="EXTERNAL")
    kms.say("RotateKeyOnDemand", KeyId=rotated)
    imported(kms, external, b"1" * 32)
    imported(kms, gone, b"2" * 32)
    kms.say("DeleteImportedKeyMaterial", KeyId=gone)
    parameters(kms, gone, b"3" * 32)
    return kms


def test_every_blob_of_the_store_is_listed(full: Speaker) -> None:
    """Every column of the tables that is called sealed is in the list, and every value in it is found."""
    with full.kms.open().read() as db:
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        columns = {
            (table, column["name"])
            for table in tables
            for column in db.execute(f"PRAGMA table_info({table})")
            if column["type"] == "BLOB"
        }
        found = secrets_kept.every(db)
        counts = [
            db.execute(f"SELECT count({kind.sealed_column}) FROM {kind.table}").fetchone()[0]  # noqa: S608 - ours
            for kind in secrets_kept.KINDS
        ]

    # The only other bytes are hashes of grant tokens.
    assert columns - {("grant_token", "hash")} == {(kind.table, kind.sealed_column) for kind in secrets_kept.KINDS}
    assert counts == [3, 3]
    assert len(found) == 6


def test_sealed_again(full: Speaker) -> None:
    """All secrets can be sealed under another root key, open under it to the same bytes, and not under the old one."""
    store = full.kms.open()
    with store.read() as db:
        before = {secret.identity: secret.opened(store.root) for secret in secrets_kept.every(db)}

    with store.write() as db:
        for secret in secrets_kept.every(db):
            secrets_kept.put(db, secret, secret.sealed_again(store.root, OTHER))

    with store.read() as db:
        after = secrets_kept.every(db)
        assert {secret.identity: secret.opened(OTHER) for secret in after} == before
        for secret in after:
            with pytest.raises(KmsError, match="corrupted or tampered with"):
                secret.opened(store.root)


def test_kinds_do_not_mix(full: Speaker) -> None:
    """What is sealed as one kind of secret does not open as another, in the same row of the same key."""
    store = full.kms.open()
    with store.read() as db:
        one, other = secrets_kept.KINDS
        secret = next(secret for secret in secrets_kept.every(db) if secret.kind == one)
        moved = secrets_kept.Secret(kind=other, identity=secret.identity, arn=secret.arn, sealed=secret.sealed)

        assert len(secret.opened(store.root)) == 32
        with pytest.raises(KmsError, match="corrupted or tampered with"):
            moved.opened(store.root)


def test_secrets_are_not_shown(full: Speaker) -> None:
    """The listing's own text shows no sealed bytes."""
    with full.kms.open().read() as db:
        for secret in secrets_kept.every(db):
            assert "sealed=" not in repr(secret)
