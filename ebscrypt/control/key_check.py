"""`check_key`: whether KMS would still unwrap the data key of an attached volume, by a Decrypt that is a dry run.

It runs in a process of its own that ends right after: boto3's memory is gone then, and so is what an endpoint that does
not know DryRun answers, which is the plaintext.

Only a verdict about the key counts as *unusable*, given twice: KMS says that it is disabled, in a state that forbids
its use, not there, or that this caller may not use it. Where KMS is silent, throttles, fails or calls the request
wrong, where credentials are missing or expired, where the header cannot be read, nothing is known of the key, and
nothing is done.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final, NamedTuple

from ebscrypt import luks2
from ebscrypt.control import headers
from ebscrypt.control.causes import event_cause
from ebscrypt.control.site import Site
from ebscrypt.errors import (
    EbscryptError,
    KeyMismatch,
    KmsAccessDenied,
    KmsKeyDisabled,
    KmsKeyInvalidState,
    KmsKeyNotFound,
)
from ebscrypt.model import AttachmentSpec, utc_now

_DENIED: Final = "AccessDeniedException"
"""KMS's own refusal; other codes of the same family are about credentials (facts §5.3)."""
_CONFIRM: Final = 1.0
"""Seconds between the two answers: what a volume's users lose should not hang on a single one."""
_TOKEN_LIFE: Final = timedelta(minutes=5)
"""How long a grant's token may be needed (facts §5.2, CreateGrant). Later it would only hide that the grant is gone."""


class Verdict(NamedTuple):
    """What KMS says of the key: usable, unusable with KMS's words in ``cause``, or (None) nothing certain."""

    usable: bool | None
    cause: str = ""


def check_key(site: Site, spec: AttachmentSpec, *, doubt: bool) -> Verdict:
    """Ask KMS. With ``doubt`` a key is unusable only if KMS says so twice."""
    first = _ask(site, spec)
    if first.usable is not False or not doubt:
        return first
    time.sleep(_CONFIRM)
    second = _ask(site, spec)
    if second.usable is True:
        return Verdict(None, f"KMS contradicts itself: first it said {first.cause}")
    return second


def is_unusable(error: EbscryptError) -> bool:
    """Whether an error is KMS's verdict that the key cannot be used."""
    if isinstance(error, KmsAccessDenied):
        return error.kms_code == _DENIED
    return isinstance(error, (KmsKeyDisabled, KmsKeyInvalidState, KmsKeyNotFound))


def read_token(site: Site, spec: AttachmentSpec) -> luks2.KmsToken:
    """The wrapped key as the header has it now: a rewrap changes it under an attached volume.

    Raises `KeyMismatch` where the header names a KMS key or a context that is not the volume's: who can write to the
    backing must not choose the key, nor keep a revoked one alive by another.
    """
    token = headers.read(spec).header.token()
    named = spec.kms_key_arn
    if token.kms_key_arn != named:  # a rewrap changes header and catalog before the spec
        named = site.catalog.volume(spec.volume_id).kms_key_arn
    token.check_binding(spec.volume_id, named)
    return token


def _ask(site: Site, spec: AttachmentSpec) -> Verdict:
    try:
        token = read_token(site, spec)
        _dry_run(site, spec, token)
    except EbscryptError as error:
        known = not isinstance(error, KeyMismatch) and is_unusable(error)
        return Verdict(False if known else None, event_cause(error))
    return Verdict(usable=True)


def _dry_run(site: Site, spec: AttachmentSpec, token: luks2.KmsToken) -> None:
    from ebscrypt.kms.client import KmsClient  # noqa: PLC0415 - only where KMS is asked
    from ebscrypt.kms.principals import grantee  # noqa: PLC0415 - the same

    settings = site.settings
    # While a rewrap is under way the spec has the grant on the old key, and the caller's own permissions count.
    granted = spec.grant_token is not None and token.kms_key_arn == spec.kms_key_arn
    principal = grantee(settings) if granted and settings.kms.endpoint == "embedded" else None
    KmsClient(settings, principal=principal).check_decrypt(
        token.wrapped_key,
        token.encryption_context,
        key_arn=token.kms_key_arn,
        grant_token=spec.grant_token if granted and _is_new(site, token) else None,
    )


def _is_new(site: Site, token: luks2.KmsToken) -> bool:
    """Whether the grant was made so lately, by `attach` or by `rewrap`, that KMS may not know it without its token."""
    rows = site.catalog.keys.grants(token.volume_id)
    made = [row.create_time for row in rows if row.kms_key_arn == token.kms_key_arn]
    return bool(made) and utc_now() - max(made) < _TOKEN_LIFE
