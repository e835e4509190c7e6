"""Which export it will be: the one that was asked for, or for ``auto`` the first that works here."""

from __future__ import annotations

import os

from ebscrypt.daemon.exports.base import Export, Setting
from ebscrypt.errors import ExportUnavailable
from ebscrypt.model import ExportKind


def prepare_export(setting: Setting) -> Export:
    """The prepared export of ``setting.spec``. Raises `ExportUnavailable` with the cause and what to do.

    ``auto`` takes nbd, else fuse with a loop device, else socket. Without root only the last can work. Where a better
    one should have worked and did not, the notes say why. A device to be reconnected leaves no choice.
    """
    wish = ExportKind.NBD if setting.spec.nbd_index is not None else setting.spec.export
    if wish is not ExportKind.AUTO:
        return _prepare(wish, setting)
    for kind in (ExportKind.NBD, ExportKind.FUSE):
        if _is_likely(kind):
            try:
                return _prepare(kind, setting)
            except ExportUnavailable as error:
                setting.notes.append(f"the {kind} export did not work: {error.message}")
    return _prepare(ExportKind.SOCKET, setting)


def _is_likely(kind: ExportKind) -> bool:
    """Looked at before anything heavy is imported: pyfuse3 alone costs megabytes."""
    if os.geteuid() != 0:
        return False
    if kind is ExportKind.NBD:
        from ebscrypt.daemon.exports import nbd_device  # noqa: PLC0415

        return nbd_device.is_available()
    from ebscrypt.daemon.exports import loop, mount  # noqa: PLC0415

    return mount.FUSE_DEVICE.exists() and loop.CONTROL.exists()


def _prepare(kind: ExportKind, setting: Setting) -> Export:
    export = _make(kind, setting)
    export.prepare()
    return export


def _make(kind: ExportKind, setting: Setting) -> Export:
    """Imported when chosen: a daemon carries the code of its own export only."""
    if kind is ExportKind.NBD:
        from ebscrypt.daemon.exports.nbd import NbdExport  # noqa: PLC0415

        return NbdExport(setting)
    if kind is ExportKind.FUSE:
        return _make_fuse(setting)
    from ebscrypt.daemon.exports.socket import SocketExport  # noqa: PLC0415

    return SocketExport(setting)


def _make_fuse(setting: Setting) -> Export:
    try:
        from ebscrypt.daemon.exports.fuse import FuseExport  # noqa: PLC0415
    except ImportError as error:
        raise ExportUnavailable(f"pyfuse3 cannot be loaded: {error}", hint="install libfuse3-3 and pyfuse3") from error
    return FuseExport(setting)
