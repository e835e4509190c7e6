"""`default-encryption`: encryption by default and the default KMS key, of one account and Region (facts §2).

Neither has any effect on what exists. The default key is ``alias/aws/ebs``, which KMS makes on first use, until
another is set. EC2 checks that one only when it is used; here a key that can never work is refused at once, and one
that cannot be used now is taken with a note, since its state may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ebscrypt.catalog.keys import EncryptionDefaults
from ebscrypt.control.encryption import Outcome, volume_outcome
from ebscrypt.control.site import Site
from ebscrypt.errors import EbscryptError, InvalidCombination
from ebscrypt.model import DATA_KEY_SIZE, encryption_context

if TYPE_CHECKING:
    from ebscrypt.kms.results import KeyDescription

_NO_VOLUME: Final = "vol-00000000000000000"
"""The volume of the encryption context in a dry run."""


def get_ebs_encryption_by_default(site: Site) -> EncryptionDefaults:
    """Whether encryption by default is on, and the default key: None for the AWS managed one."""
    return site.catalog.keys.defaults(site.settings.kms.account, site.settings.kms.region)


def enable_ebs_encryption_by_default(site: Site, *, dry_run: bool = False) -> EncryptionDefaults:
    """From now on no new volume is plain. A default key that the caller cannot use becomes a note in ``site.notes``."""
    defaults = get_ebs_encryption_by_default(site)
    if (failure := _why_unusable(site, defaults.kms_key_arn)) is not None:
        hint = f" ({failure.hint})" if failure.hint else ""
        site.notes.append(f"no encrypted volume can be created under the default key yet: {failure.message}{hint}")
    return _changed(site, dry_run=dry_run, enabled=True)


def disable_ebs_encryption_by_default(site: Site, *, dry_run: bool = False) -> EncryptionDefaults:
    """From now on a volume is encrypted if that is asked for. Those that are stay so."""
    return _changed(site, dry_run=dry_run, enabled=False)


def modify_ebs_default_kms_key_id(site: Site, kms_key_id: str, *, dry_run: bool = False) -> EncryptionDefaults:
    """Let volumes that name no key be under this one, given in any of the four forms and kept as its ARN.

    Raises what `KmsClient.resolve_key` raises for a key that EBS cannot use. The key's present state is only told.
    """
    key = site.kms.resolve_key(kms_key_id)
    if key.state != "Enabled":
        site.notes.append(f"KMS key {key.arn} is {key.state}: no volume can be created under it until it is Enabled")
    return _changed(site, dry_run=dry_run, kms_key_arn=key.arn)


def reset_ebs_default_kms_key_id(site: Site, *, dry_run: bool = False) -> EncryptionDefaults:
    """Let the AWS managed key, ``alias/aws/ebs``, be the default again."""
    return _changed(site, dry_run=dry_run, kms_key_arn=None)


def decide_encryption(site: Site, *, encrypted: bool | None, kms_key_id: str | None) -> tuple[bool, str | None]:
    """Whether a new empty volume is encrypted, and the name of its key: None where that is the AWS managed one.

    Raises as `volume_outcome` does.
    """
    defaults = get_ebs_encryption_by_default(site)
    outcome = volume_outcome(by_default=defaults.enabled, encrypted=encrypted, key_given=kms_key_id is not None)
    if outcome is Outcome.PLAIN:
        return False, None
    return True, kms_key_id if outcome is Outcome.GIVEN_KEY else defaults.kms_key_arn


def refuse_plain(site: Site) -> None:
    """Raise `InvalidCombination` while encryption by default is on: for a command that says ``--no-encrypted``.

    EC2 would encrypt without a word. Whoever types that he wants a plain volume should learn that he cannot have one.
    """
    if get_ebs_encryption_by_default(site).enabled:
        raise InvalidCombination(
            f"encryption by default is on in {site.settings.kms.region}: no volume can be made with --no-encrypted",
            hint="leave out --no-encrypted, or turn it off first: `ebscrypt default-encryption disable`",
        )


def _changed(site: Site, *, dry_run: bool, **values: bool | str | None) -> EncryptionDefaults:
    kms = site.settings.kms
    if dry_run:
        site.notes.append("dry run: nothing was changed")
        return get_ebs_encryption_by_default(site)
    return site.catalog.keys.change_defaults(kms.account, kms.region, **values)


def _why_unusable(site: Site, key_arn: str | None) -> EbscryptError | None:
    """Why the caller cannot make a data key under the default key; None if he can."""
    try:
        key: KeyDescription = site.kms.resolve_key(key_arn)
        asked = {"KeyId": key.arn, "NumberOfBytes": DATA_KEY_SIZE, "EncryptionContext": encryption_context(_NO_VOLUME)}
        site.kms.dry_run("GenerateDataKeyWithoutPlaintext", key.arn, **asked)
    except EbscryptError as error:
        return error
    return None
