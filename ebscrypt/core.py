"""The one importer of the compiled core: what the rest of ebscrypt may use of it, under one name."""

from ebscrypt._core import (
    Device,
    Extent,
    NbdServer,
    OperationStatistics,
    SecretMemory,
    SnapshotView,
    Tracking,
    __version__,
    drop_privileges,
    harden_process,
)

__all__ = [
    "Device",
    "Extent",
    "NbdServer",
    "OperationStatistics",
    "SecretMemory",
    "SnapshotView",
    "Tracking",
    "__version__",
    "drop_privileges",
    "harden_process",
]
