"""The LUKS2 header of a volume and the KMS token in it: bytes ↔ values, and the update that survives a crash.

General layout, each file on those before it:

    json_area   the JSON area, strictly
    metadata    segment and digest: what of the JSON we read, and what we refuse
    token       the token of type ebscrypt-kms
    header      a header as a value: made, checked, changed
    binary      one copy of it as bytes
    reading     which of the two copies counts
    lock        the lock that cryptsetup takes
    direct      reads and writes of a file or block device
    reencryption  a volume on its way from one data key to another
    journal     how far that is
    update      headers on a file or block device

docs/formats/luks2.md draws the format and says what stays as it is. A key is never here: the digest of one is
computed by the core and passed in.
"""

from ebscrypt.luks2 import journal, reencryption
from ebscrypt.luks2.header import COPY_SIZE, COPY_SIZES, DATA_OFFSET, Header, create_header
from ebscrypt.luks2.lock import header_lock
from ebscrypt.luks2.metadata import (
    CIPHER,
    DIGEST_HASH,
    DIGEST_ITERATIONS,
    DIGEST_SIZE,
    Digest,
    Segment,
    new_digest_salt,
)
from ebscrypt.luks2.reading import Reading, parse
from ebscrypt.luks2.reencryption import Reencryption
from ebscrypt.luks2.token import MAX_WRAPPED_KEY, TOKEN_TYPE, TOKEN_VERSION, KmsToken
from ebscrypt.luks2.update import backing_size, format_header, is_luks, read_header, repair_header, write_header

__all__ = [
    "CIPHER",
    "COPY_SIZE",
    "COPY_SIZES",
    "DATA_OFFSET",
    "DIGEST_HASH",
    "DIGEST_ITERATIONS",
    "DIGEST_SIZE",
    "MAX_WRAPPED_KEY",
    "TOKEN_TYPE",
    "TOKEN_VERSION",
    "Digest",
    "Header",
    "KmsToken",
    "Reading",
    "Reencryption",
    "Segment",
    "backing_size",
    "create_header",
    "format_header",
    "header_lock",
    "is_luks",
    "journal",
    "new_digest_salt",
    "parse",
    "read_header",
    "reencryption",
    "repair_header",
    "write_header",
]
