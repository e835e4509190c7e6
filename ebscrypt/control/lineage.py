"""The data key of what is made from a snapshot: the snapshot's own, wrapped anew, or another, and every block turned.

    same KMS key        the same lineage: ReEncrypt binds the data key to the new id; no block changes  (facts §1.3 d)
    another KMS key     a lineage of its own: a new data key, and each block turned to it               (facts §1.3 e)
    plain source        the same, but there is nothing to decipher                                      (facts §1.3 f)

Whoever is locked out by a new KMS key is locked out for good only in the second case: where the data key stays, an old
wrapped key still opens it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

from ebscrypt.control import data_key, faultpoints
from ebscrypt.control.turning import Turning, turning
from ebscrypt.model import encryption_context, new_data_encryption_key_id
from ebscrypt.stores.manifest import Header, Wrapping

if TYPE_CHECKING:
    from ebscrypt import luks2
    from ebscrypt.control.site import Site


class Keying(NamedTuple):
    """``wrapping`` is the data key of what is being made; with ``turning`` each block must be turned to it.

    ``digest`` is the data key's, where it was unwrapped anyway: what a sealed LUKS2 header has.
    """

    wrapping: Wrapping
    turning: Turning | None = None
    digest: luks2.Digest | None = None


@contextmanager
def keyed(
    site: Site,
    header: Header,
    owner: str,
    kms_key_id: str | None,
    sector_size: int,
    *,
    source_site: Site | None = None,
) -> Iterator[Keying]:
    """The data key of ``owner``, a volume or copy made from the snapshot of ``header`` under a KMS key.

    ``kms_key_id`` has any of the four forms, None is the AWS managed key. ``source_site`` is that of the snapshot where
    it is in another Region, whose KMS then unwraps its data key. Raises `KmsError`; `InvalidParameter` and
    `KmsInvalidKeyUsage` for a key that nothing here may have; `NotPermitted` where no memory can be locked.
    """
    source = header.encryption
    key = site.kms.resolve_key(kms_key_id)
    context = encryption_context(owner)
    if source is not None and source.kms_key_arn == key.arn:
        yield Keying(_wrapped_anew(site, source, context))
        return
    wrapped = site.kms.generate_data_key_without_plaintext(key.arn, context)
    wrapping = Wrapping(
        kms_key_arn=wrapped.key_arn,
        wrapped_key=wrapped.blob,
        encryption_context=context,
        data_encryption_key_id=new_data_encryption_key_id(),
    )
    faultpoints.reach("lineage.wrapped")
    with ExitStack() as stack:
        with data_key.unwrapped(site, wrapping) as new, ExitStack() as old:
            digest = data_key.digest_of(new)
            source_key = None if source is None else old.enter_context(data_key.unwrapped(source_site or site, source))
            turns = turning(size=header.volume_size, sector_size=sector_size, target_key=new, source_key=source_key)
            turned = stack.enter_context(turns)
        # The keys themselves are wiped by now: the round keys are in the core.
        yield Keying(wrapping, turned, digest)


def _wrapped_anew(site: Site, source: Wrapping, context: dict[str, str]) -> Wrapping:
    """The same data key, bound to another context; it never leaves KMS for that."""
    wrapped = data_key.wrapped_anew(site, source, source.kms_key_arn, context)
    return Wrapping(
        kms_key_arn=wrapped.key_arn,
        wrapped_key=wrapped.blob,
        encryption_context=context,
        data_encryption_key_id=source.data_encryption_key_id,
    )
