"""{plain, key A, key B} x {create, copy, restore} x {same key, other key, none}: contents, keys, contexts, lineages."""

from __future__ import annotations

import itertools
from typing import Final

import pytest

from ebscrypt.control import headers
from ebscrypt.control.copy_snapshot import CopyRequest, copy_snapshot
from ebscrypt.control.create import VolumeRequest, create_volume
from ebscrypt.control.site import Site
from ebscrypt.errors import KmsInvalidCiphertext
from ebscrypt.kms.client import KmsClient
from ebscrypt.model import Snapshot, Volume, encryption_context
from tests.unit.control.from_snapshots import contents

pytestmark = pytest.mark.usefixtures("unwraps_here")

KEYS: Final = ("none", "A", "B")
COPY_OF: Final = {("plain", "none"): "plain", ("A", "none"): "default", ("B", "none"): "default"}
"""Facts §1.7, encryption by default off: a copy never keeps its source's key by itself. A named key is always had."""
RESTORED_FROM: Final = {
    ("plain", "none"): "plain",
    ("A", "none"): "A",
    ("B", "none"): "B",
    ("default", "none"): "default",
}
"""Facts §1.6, own snapshots: a volume keeps its snapshot's key unless another is named."""


class Keys:
    """Key A, key B and the default key by their names, and back."""

    def __init__(self, site: Site) -> None:
        made = (str(site.kms.call("CreateKey")["KeyMetadata"]["Arn"]) for _ in "AB")
        self._arns = dict(zip("AB", made, strict=True)) | {"default": site.kms.resolve_key(None).arn}

    def arn(self, name: str) -> str | None:
        return self._arns.get(name)


@pytest.fixture
def keys(site: Site) -> Keys:
    return Keys(site)


def expect_bound(site: Site, wrapped: bytes, bound_to: str, *, not_to: str) -> None:
    """KMS opens the wrapped key for the one id, and for the other it does not."""
    kms = KmsClient(site.settings)
    kms.decrypt(wrapped, encryption_context(bound_to))
    with pytest.raises(KmsInvalidCiphertext):
        kms.decrypt(wrapped, encryption_context(not_to))


def expect_snapshot(site: Site, snapshot: Snapshot, key_arn: str | None, bound_to: str, *, not_to: str) -> None:
    """Row and manifest agree on the key; the context is as specified; the content is what was written."""
    wrapping = contents.manifest_of(site, snapshot).header.encryption
    assert snapshot.encrypted is (key_arn is not None)
    assert snapshot.kms_key_arn == (None if wrapping is None else wrapping.kms_key_arn) == key_arn
    assert snapshot.data_encryption_key_id == (None if wrapping is None else wrapping.data_encryption_key_id)
    if wrapping is not None:
        assert wrapping.encryption_context == encryption_context(bound_to)
        expect_bound(site, wrapping.wrapped_key, bound_to, not_to=not_to)
    assert contents.read_snapshot(site, snapshot) == contents.expected()


def expect_volume(site: Site, volume: Volume, key_arn: str | None, *, source: str) -> str | None:
    """Row and header agree on the key, which is bound to the volume's own id. The id of its data key."""
    assert volume.encrypted is (key_arn is not None)
    assert volume.kms_key_arn == key_arn
    assert contents.read(site, volume) == contents.expected()
    if key_arn is None:
        return None
    token = headers.read(volume).header.token()
    assert token.kms_key_arn == key_arn
    assert token.encryption_context == encryption_context(volume.volume_id)
    expect_bound(site, token.wrapped_key, volume.volume_id, not_to=source)
    return token.data_encryption_key_id


@pytest.mark.parametrize("copied_to", ["not copied", *KEYS], ids=lambda key: f"copy={key}")
@pytest.mark.parametrize("made_of", ["plain", "A", "B"], ids=lambda key: f"volume={key}")
def test_each_cell_has_the_content_the_key_and_the_context(
    site: Site, keys: Keys, made_of: str, copied_to: str
) -> None:
    """A volume, its snapshot, perhaps a copy under each key, and volumes of that under each key."""
    volume = contents.filled_volume(site, keys.arn(made_of))
    snapshot = contents.snapshot_of(site, volume)
    expect_snapshot(site, snapshot, keys.arn(made_of), volume.volume_id, not_to=snapshot.snapshot_id)
    held = made_of
    if copied_to != "not copied":
        source, held = snapshot, COPY_OF.get((made_of, copied_to), copied_to)
        named = keys.arn(copied_to)
        snapshot = copy_snapshot(
            site,
            CopyRequest(source_snapshot_id=source.snapshot_id, encrypted=named is not None or None, kms_key_id=named),
        )
        expect_snapshot(site, snapshot, keys.arn(held), snapshot.snapshot_id, not_to=volume.volume_id)
        same_lineage = snapshot.data_encryption_key_id == source.data_encryption_key_id
        assert same_lineage is (held == made_of)
    for restored_to in KEYS:
        named = keys.arn(restored_to)
        restored = create_volume(
            site,
            VolumeRequest(snapshot_id=snapshot.snapshot_id, encrypted=named is not None or None, kms_key_id=named),
        )
        expected = RESTORED_FROM.get((held, restored_to), restored_to)
        lineage = expect_volume(site, restored, keys.arn(expected), source=volume.volume_id)
        assert (lineage == snapshot.data_encryption_key_id) is (expected == held), restored_to


@pytest.mark.parametrize(("held", "wanted"), [*itertools.product(["plain", "A"], ["copy", "volume"])], ids=str)
def test_with_encryption_by_default_nothing_new_is_plain(site: Site, keys: Keys, held: str, wanted: str) -> None:
    """What names no key: a copy is under the default key, a volume of an encrypted snapshot keeps its own."""
    snapshot = contents.snapshot_of(site, contents.filled_volume(site, keys.arn(held)))
    account, region = site.settings.kms.account, site.settings.kms.region
    site.catalog.keys.change_defaults(account, region, enabled=True, kms_key_arn=keys.arn("B"))

    if wanted == "copy":
        made: Snapshot | Volume = copy_snapshot(site, CopyRequest(source_snapshot_id=snapshot.snapshot_id))
    else:
        made = create_volume(site, VolumeRequest(snapshot_id=snapshot.snapshot_id, encrypted=None))

    assert made.kms_key_arn == keys.arn("A" if (held, wanted) == ("A", "volume") else "B")
