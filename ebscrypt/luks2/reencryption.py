"""A re-encryption under way, as the header tells of it: both wrapped keys, and a requirement that nobody may overlook.

While it lasts, a part of the volume has the new data key and the rest the old one; how large the part is, the journal
has (journal.py). ``config.requirements`` names what only ebscrypt can do, so stock cryptsetup refuses to open the
volume instead of showing noise. Segment, digest and the token's own fields are the old data key's until the end; what
the token will be then is in its field ``reencryption``. The end is one update of the header, like any other.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any, Final

import msgspec

from ebscrypt.errors import HeaderDamaged, HeaderUnsupported, StateError
from ebscrypt.luks2 import metadata as fields
from ebscrypt.luks2.header import Header
from ebscrypt.luks2.metadata import REENCRYPTION_REQUIREMENT, Digest
from ebscrypt.luks2.token import MAX_WRAPPED_KEY, KmsToken

ID_SIZE: Final = 16
"""Bytes of the number by which a journal is known to be this re-encryption's."""
FIELD: Final = "reencryption"
VERSION: Final = 1


class Reencryption(msgspec.Struct, frozen=True, kw_only=True):
    """What a volume is on the way to. ``id`` was drawn for it.

    ``token`` and ``digest`` are those that the header has in the end, of the new data key.
    """

    id: bytes
    token: KmsToken
    digest: Digest


class _Fields(msgspec.Struct):
    version: int
    id: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
    kms_key_arn: Annotated[str, msgspec.Meta(pattern=r"\Aarn:[!-~]+\Z", max_length=2048)]
    wrapped_key: Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_WRAPPED_KEY)]
    region: Annotated[str, msgspec.Meta(pattern=r"\A[!-~]+\Z", max_length=2048)]
    data_encryption_key_id: Annotated[str, msgspec.Meta(pattern=r"\A[!-~]{1,128}\Z")]
    salt: Annotated[bytes, msgspec.Meta(min_length=1)]
    digest: Annotated[bytes, msgspec.Meta(min_length=1)]
    iterations: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    hash: str


def begun(header: Header, wanted: Reencryption) -> Header:
    """``header`` with a re-encryption to ``wanted`` under way. Raises `StateError` where it may not be.

    The header must be sealed, for its digest proves the old data key to the end, and have no keyslot: what opens the
    old data key would open nothing afterwards.
    """
    header.check()
    token = header.token()
    if not token.sealed:
        raise StateError(f"the header of volume {token.volume_id} is not sealed: the old data key could not be proven")
    if header.metadata["keyslots"]:
        raise StateError(
            f"volume {token.volume_id} has keyslots, which hold the old data key and would open nothing afterwards",
            hint=f"`ebscrypt recovery ls {token.volume_id}` shows them; remove them, and add new ones in the end",
        )
    config = header.metadata["config"] | {"requirements": {"mandatory": [REENCRYPTION_REQUIREMENT]}}
    marked = msgspec.structs.replace(header, metadata=header.metadata | {"config": config})
    return marked.with_token_field(FIELD, _to_json(wanted))


def find(header: Header) -> Reencryption | None:
    """What a header is on the way to; None where no re-encryption is under way. Raises `HeaderError`."""
    if not _is_marked(header):
        return None
    raw = header.token_field(FIELD)
    version = raw.get("version") if isinstance(raw, dict) else None
    if type(version) is int and version > VERSION:
        raise HeaderUnsupported(
            f"the volume is being re-encrypted by version {version} of the procedure: this ebscrypt knows {VERSION}",
            hint="go on with the ebscrypt that began it, or a later one",
        )
    try:
        found = msgspec.convert(raw, _Fields)
    except msgspec.ValidationError as error:
        raise HeaderDamaged(f"the header's re-encryption is corrupted or tampered with: {error}") from None
    token = msgspec.structs.replace(
        header.token(),
        kms_key_arn=found.kms_key_arn,
        wrapped_key=found.wrapped_key,
        region=found.region,
        data_encryption_key_id=found.data_encryption_key_id,
        sealed=True,
    )
    digest = Digest(salt=found.salt, digest=found.digest, iterations=found.iterations, hash_name=found.hash)
    return Reencryption(id=bytes.fromhex(found.id), token=token, digest=digest)


def before(header: Header) -> Header:
    """The header without the mark: of a volume that has the old data key. What can be served is to be read of this."""
    if not _is_marked(header):
        return header
    config = {name: value for name, value in header.metadata["config"].items() if name != "requirements"}
    unmarked = msgspec.structs.replace(header, metadata=header.metadata | {"config": config})
    return unmarked.with_token_field(FIELD, None)


def ended(header: Header) -> Header:
    """The header once every sector has the new data key; nothing in it is the old one's. Raises `StateError`."""
    wanted = find(header)
    if wanted is None:
        raise StateError("no re-encryption of this volume is under way")
    return before(header).with_replaced_digest(wanted.digest).with_token(wanted.token)


def journal_area(header: Header) -> tuple[int, int]:
    """Offset and length in bytes of where the journal lies: LUKS2's keyslots area, in which no keyslot is."""
    start = 2 * header.copy_size
    return start, fields.check_config(before(header).metadata, header.copy_size) - start


def _is_marked(header: Header) -> bool:
    """Whether this is required of who opens the volume, and nothing else: what else there may be nobody here can do."""
    config = header.metadata.get("config")
    requirements = config.get("requirements") if isinstance(config, dict) else None
    return isinstance(requirements, dict) and requirements.get("mandatory") == [REENCRYPTION_REQUIREMENT]


def _to_json(wanted: Reencryption) -> dict[str, Any]:
    token, digest = wanted.token, wanted.digest
    return {
        "version": VERSION,
        "id": wanted.id.hex(),
        "kms_key_arn": token.kms_key_arn,
        "wrapped_key": base64.b64encode(token.wrapped_key).decode("ascii"),
        "region": token.region,
        "data_encryption_key_id": token.data_encryption_key_id,
        "salt": base64.b64encode(digest.salt).decode("ascii"),
        "digest": base64.b64encode(digest.digest).decode("ascii"),
        "iterations": digest.iterations,
        "hash": digest.hash_name,
    }
