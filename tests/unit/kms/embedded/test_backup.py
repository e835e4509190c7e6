"""Backup and import: everything comes back, what is here stays, and what was deleted stays deleted if nobody asks."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest

from ebscrypt.errors import KmsError
from ebscrypt.kms.embedded import backup, backup_file, schema
from ebscrypt.kms.embedded.backup import Imported
from tests.unit.kms.embedded.backing_up import PASSPHRASE, export, external, gone, restore
from tests.unit.kms.embedded.speaking import CONTEXT, DAY, Speaker

GRANTEE = "arn:aws:iam::111122223333:role/reader"


pytestmark = pytest.mark.usefixtures("quick_passphrases")


def test_everything_comes_back(kms: Speaker, elsewhere: Callable[[], Speaker]) -> None:
    """In an empty place: keys, states, descriptions, aliases, tags, policy, grants, and what they wrapped opens."""
    key = kms.key(Description="of the test", Tags=[{"TagKey": "a", "TagValue": "ü"}])
    kms.say("CreateAlias", AliasName="alias/mine", TargetKeyId=key)
    grant = kms.say("CreateGrant", KeyId=key, GranteePrincipal=GRANTEE, Operations=["Decrypt"], Name="n")
    policy = json.loads(kms.say("GetKeyPolicy", KeyId=key)["Policy"])
    kms.say("PutKeyPolicy", KeyId=key, Policy=json.dumps(policy | {"Id": "other"}))
    old = kms.wrapped(key)
    kms.say("RotateKeyOnDemand", KeyId=key)
    blobs = [old, kms.wrapped(key), kms.wrapped(external(kms, b"m" * 32))]
    disabled = kms.key()
    kms.say("DisableKey", KeyId=disabled)
    there = elsewhere()

    done = restore(there, export(kms))

    assert sorted(done.added) == sorted(entry["KeyArn"] for entry in kms.say("ListKeys")["Keys"])
    assert (done.restored, done.unchanged, done.left_out, done.notes) == ([], [], [], [])
    for entry in kms.say("ListKeys")["Keys"]:
        assert there.say("DescribeKey", KeyId=entry["KeyId"]) == kms.say("DescribeKey", KeyId=entry["KeyId"])
    for operation in ("ListResourceTags", "ListGrants", "GetKeyPolicy", "GetKeyRotationStatus", "ListKeyRotations"):
        assert there.say(operation, KeyId=key) == kms.say(operation, KeyId=key)
    assert there.say("ListAliases") == kms.say("ListAliases")
    assert [there.opened(blob) for blob in blobs] == [kms.opened(blob) for blob in blobs]
    assert there.say("RetireGrant", GrantToken=grant["GrantToken"]) == {}


def test_the_backup_depends_on_no_root_key(kms: Speaker, elsewhere: Callable[[], Speaker]) -> None:
    """What is imported is sealed under the root key of the place that imports it."""
    blob = kms.wrapped(kms.key())
    there = elsewhere()

    restore(there, export(kms))

    assert there.kms.open().root.fingerprint != kms.kms.open().root.fingerprint
    there.close()
    assert len(there.opened(blob)) == 64


def test_twice_is_once(kms: Speaker) -> None:
    """What is here with the same material is left as it is, whatever has become of it since."""
    key = kms.key()
    file = export(kms)
    kms.say("DisableKey", KeyId=key)

    done = restore(kms, file)

    assert (done.added, done.unchanged) == ([], [key])
    assert kms.state(key) == "Disabled"


def test_a_newer_state_of_a_key_is_not_undone(kms: Speaker) -> None:
    """A key that was rotated since the backup keeps its newer material, and both open."""
    key = kms.key()
    first, file = kms.wrapped(key), export(kms)
    kms.say("RotateKeyOnDemand", KeyId=key)
    second = kms.wrapped(key)

    assert restore(kms, file).unchanged == [key]

    assert len(kms.opened(first)) == len(kms.opened(second)) == 64


def test_keys_of_other_accounts_and_regions_stay_theirs(kms: Speaker, elsewhere: Callable[[], Speaker]) -> None:
    """They keep their ARNs, and are seen by whoever asks for that account and Region."""
    key = kms.key()
    blob, file = kms.wrapped(key), export(kms)
    there = elsewhere()
    paths, other = there.settings.paths, msgspec.structs.replace(there.settings.kms, region="us-west-2")
    elsewhere_still = Speaker(msgspec.structs.replace(there.settings, paths=paths, kms=other))

    assert restore(elsewhere_still, file).added == [key]

    assert elsewhere_still.say("ListKeys")["Keys"] == []
    assert [entry["KeyArn"] for entry in there.say("ListKeys")["Keys"]] == [key]
    assert len(there.opened(blob)) == 64
    elsewhere_still.close()


def test_a_deleted_key_stays_deleted(kms: Speaker) -> None:
    """A key that was deleted since the backup is left out, and told; on request it comes back with its material."""
    key, other = kms.key(), kms.key()
    kms.say("CreateAlias", AliasName="alias/mine", TargetKeyId=key)
    blob, file = kms.wrapped(key), export(kms)
    gone(kms, key)

    done = restore(kms, file)

    assert (done.left_out, done.unchanged) == ([key], [other])
    assert key in done.notes[0]
    assert "--restore-deleted" in done.notes[0]
    assert kms.refusal("Decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT).kind == "NotFoundException"

    assert restore(kms, file, restore_deleted=True).restored == [key]

    assert kms.state("alias/mine") == "Enabled"
    assert len(kms.opened(blob)) == 64


def test_a_deleted_key_is_remembered_elsewhere(kms: Speaker, elsewhere: Callable[[], Speaker]) -> None:
    """The memory of a deleted key goes with the backup: its blobs are told from garbage there too."""
    key = kms.key()
    blob = kms.wrapped(key)
    gone(kms, key)
    there = elsewhere()

    assert restore(there, export(kms)) == Imported()

    refused = there.refusal("Decrypt", CiphertextBlob=blob, EncryptionContext=CONTEXT)
    assert (refused.kind, refused.message) == ("NotFoundException", f"Key '{key}' does not exist")


def test_a_key_whose_deletion_date_has_passed(kms: Speaker, elsewhere: Callable[[], Speaker]) -> None:
    """It is not brought in to be deleted by the next request: left out, or on request there, disabled."""
    key = kms.key()
    blob = kms.wrapped(key)
    kms.say("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)
    file = export(kms)
    there = elsewhere()
    there.now += 8 * DAY

    assert restore(there, file).left_out == [key]
    assert there.say("ListKeys")["Keys"] == []
    assert restore(there, file, restore_deleted=True).restored == [key]

    assert there.state(key) == "Disabled"
    there.say("EnableKey", KeyId=key)
    assert len(there.opened(blob)) == 64


def test_deleted_material_stays_deleted(kms: Speaker) -> None:
    """Imported material that was deleted since is not brought back unasked."""
    key = external(kms, b"m" * 32)
    blob, file = kms.wrapped(key), export(kms)
    kms.say("DeleteImportedKeyMaterial", KeyId=key)

    done = restore(kms, file)

    assert done.left_out == [key]
    assert kms.state(key) == "PendingImport"
    assert restore(kms, file, restore_deleted=True).restored == [key]
    assert kms.state(key) == "Enabled"
    assert len(kms.opened(blob)) == 64


def test_an_older_store_takes_the_newer_key(kms: Speaker, elsewhere: Callable[[], Speaker]) -> None:
    """A store that was put back to an older state gets, on request, the material that the backup has more."""
    key = kms.key()
    older = elsewhere()
    restore(older, export(kms))
    kms.say("RotateKeyOnDemand", KeyId=key)
    blob, newer = kms.wrapped(key), export(kms)

    assert restore(older, newer).left_out == [key]
    assert restore(older, newer, restore_deleted=True).restored == [key]

    assert len(older.opened(blob)) == 64


def test_other_material_under_the_same_id_is_refused(kms: Speaker, elsewhere: Callable[[], Speaker]) -> None:
    """Key histories that went apart are refused by the key's name, and nothing of the backup comes in."""
    key = kms.key()
    there = elsewhere()
    restore(there, export(kms))
    kms.say("RotateKeyOnDemand", KeyId=key)
    there.say("RotateKeyOnDemand", KeyId=key)
    kms.key()

    with pytest.raises(KmsError, match="each side has key material") as caught:
        restore(there, export(kms), restore_deleted=True)

    assert key in caught.value.message
    assert caught.value.key_arn == key
    assert [entry["KeyArn"] for entry in there.say("ListKeys")["Keys"]] == [key]


def test_changed_material_is_refused(kms: Speaker, elsewhere: Callable[[], Speaker]) -> None:
    """The same key and material id with other bytes is refused: one of the two would not open its blobs any more."""
    key = kms.key()
    file = export(kms)
    content = json.loads(backup_file.unseal(file, PASSPHRASE))
    there = elsewhere()
    restore(there, file)
    content["tables"]["material"][0]["secret"] = "A" * 43 + "="

    with pytest.raises(KmsError, match="other key material") as caught:
        restore(there, backup_file.seal(json.dumps(content).encode(), PASSPHRASE))

    assert caught.value.key_arn == key


def test_an_alias_that_is_taken_stays_where_it_is(kms: Speaker, elsewhere: Callable[[], Speaker]) -> None:
    """alias/aws/ebs of a used machine goes on naming its key; the other key comes in, and that is told."""
    kms.say("DescribeKey", KeyId="alias/aws/ebs")
    blob = kms.wrapped("alias/aws/ebs")
    there = elsewhere()
    here = there.say("DescribeKey", KeyId="alias/aws/ebs")["KeyMetadata"]["Arn"]

    done = restore(there, export(kms))

    assert there.say("DescribeKey", KeyId="alias/aws/ebs")["KeyMetadata"]["Arn"] == here
    assert "alias/aws/ebs" in done.notes[0]
    assert len(there.opened(blob)) == 64


def test_every_table_is_kept_or_left_out_on_purpose(kms: Speaker) -> None:
    """A table that is new in the store must be put into the one list or the other."""
    with kms.kms.open().read() as db:
        tables = {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}

    assert tables == set(backup.TABLES) | set(backup.NOT_KEPT)
    assert schema.VERSION == 2, "an import must then also know version 2"
