"""The one importer of the compiled core: what the rest of ebscrypt may use of it, under one name."""

from ebscrypt._core import (
    Device,
    Extent,
    Filling,
    NbdServer,
    OperationStatistics,
    SecretMemory,
    SnapshotView,
    Tracking,
    __version__,
    create_fill_file,
    drop_privileges,
    harden_process,
)

__all__ = [
    "Device",
    "Extent",
    "Filling",
    "NbdServer",
    "OperationStatistics",
    "SecretMemory",
    "SnapshotView",
    "Tracking",
    "__version__",
    "create_fill_file",
    "drop_privileges",
    "harden_process",
]
