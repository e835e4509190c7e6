"""A volume's header and data key, as tests of what changes them look at them."""

from __future__ import annotations

import msgspec

from ebscrypt import luks2
from ebscrypt.control import data_key, headers
from ebscrypt.control.check import Result, check_volume
from ebscrypt.control.site import Site
from ebscrypt.model import Volume


def seal(site: Site, volume: Volume) -> luks2.Header:
    """Give the header the digest of its key, as the first attachment does."""
    with headers.writable(volume) as descriptor:
        header = luks2.read_header(descriptor, volume_id=volume.volume_id).header
        with data_key.unwrapped(site, header.token()) as key:
            return luks2.write_header(descriptor, header.with_digest(data_key.digest_of(key)))


def token_of(volume: Volume) -> luks2.KmsToken:
    return headers.read(volume).header.token()


def write_token(volume: Volume, **changes: object) -> None:
    """Change the KMS token in the header."""
    with headers.writable(volume) as descriptor:
        header = luks2.read_header(descriptor).header
        luks2.write_header(descriptor, header.with_token(msgspec.structs.replace(header.token(), **changes)))


def expect_key(site: Site, volume: Volume, key_arn: str | None) -> None:
    """Header and catalog have this key, no rewrap is under way, and KMS opens the wrapped key."""
    assert token_of(volume).kms_key_arn == key_arn
    assert site.catalog.volume(volume.volume_id).kms_key_arn == key_arn
    assert site.catalog.keys.rewraps() == {}
    findings = check_volume(site, volume.volume_id, unwrap=True)
    assert {finding.result for finding in findings} == {Result.OK}, findings
