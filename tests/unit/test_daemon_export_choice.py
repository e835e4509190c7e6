"""Which export is prepared: the wish, or for ``auto`` the best that works, and what is said of those that did not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ebscrypt.config import AttachSettings
from ebscrypt.daemon.exports import start
from ebscrypt.daemon.exports.base import Setting
from ebscrypt.daemon.exports.socket import uri
from ebscrypt.daemon.runtime import RuntimeDirectory
from ebscrypt.errors import ExportUnavailable
from ebscrypt.model import AttachmentSpec, BackingKind, ExportKind

VOLUME_ID = "vol-0123456789abcdef0"
NBD, FUSE, SOCKET, AUTO = ExportKind.NBD, ExportKind.FUSE, ExportKind.SOCKET, ExportKind.AUTO


class Export:
    """An export that works, or does not."""

    def __init__(self, kind: ExportKind, works: bool) -> None:  # noqa: FBT001
        self.kind = kind
        self._works = works

    def prepare(self) -> None:
        if not self._works:
            raise ExportUnavailable(f"no {self.kind} today", hint="another")


def choose(
    monkeypatch: pytest.MonkeyPatch,
    wish: ExportKind,
    *,
    likely: set[ExportKind],
    working: set[ExportKind],
    nbd_index: int | None = None,
) -> tuple[ExportKind, list[str]]:
    """What is chosen on such a machine, and the notes."""
    monkeypatch.setattr(start, "_is_likely", lambda kind: kind in likely)
    monkeypatch.setattr(start, "_make", lambda kind, _setting: Export(kind, kind in working))
    spec = AttachmentSpec(
        volume_id=VOLUME_ID,
        backing="/x",
        backing_kind=BackingKind.FILE,
        encrypted=True,
        size=4096,
        export=wish,
        nbd_index=nbd_index,
    )
    volume: Any = None
    notes: list[str] = []
    runtime = RuntimeDirectory(Path("/run") / VOLUME_ID)
    setting = Setting(volume=volume, spec=spec, attach=AttachSettings(), runtime=runtime, notes=notes)
    return start.prepare_export(setting).kind, notes


@pytest.mark.parametrize(
    ("likely", "working", "chosen"),
    [
        ({NBD, FUSE}, {NBD, FUSE, SOCKET}, NBD),
        ({FUSE}, {FUSE, SOCKET}, FUSE),
        (set(), {SOCKET}, SOCKET),
        ({NBD, FUSE}, {FUSE, SOCKET}, FUSE),
        ({NBD, FUSE}, {SOCKET}, SOCKET),
    ],
)
def test_auto_takes_the_best(
    monkeypatch: pytest.MonkeyPatch, likely: set[ExportKind], working: set[ExportKind], chosen: ExportKind
) -> None:
    """The order is nbd, fuse, socket; what looked likely and did not work is told, with the reason."""
    kind, notes = choose(monkeypatch, AUTO, likely=likely, working=working)
    assert kind is chosen
    assert notes == [
        f"the {kind} export did not work: no {kind} today" for kind in (NBD, FUSE) if kind in likely - working
    ]


@pytest.mark.parametrize("wish", [NBD, FUSE, SOCKET])
def test_a_wish_is_not_replaced(monkeypatch: pytest.MonkeyPatch, wish: ExportKind) -> None:
    """Who asks for one export gets that one, or the reason why not; never another."""
    assert choose(monkeypatch, wish, likely=set(), working={wish})[0] is wish
    with pytest.raises(ExportUnavailable, match=f"no {wish} today"):
        choose(monkeypatch, wish, likely=set(), working=set())


def test_a_device_to_be_taken_up_leaves_no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an nbd index from before a crash only nbd will do: a file system waits on that device."""
    assert choose(monkeypatch, AUTO, likely=set(), working={NBD, SOCKET}, nbd_index=3)[0] is NBD
    with pytest.raises(ExportUnavailable):
        choose(monkeypatch, AUTO, likely=set(), working={SOCKET}, nbd_index=3)


@pytest.mark.parametrize(
    ("path", "encoded"),
    [
        ("/run/ebscrypt/nbd.sock", "/run/ebscrypt/nbd.sock"),
        ("/a b/%/ü&x=1#?.sock", "/a%20b/%25/%C3%BC%26x%3D1%23%3F.sock"),
    ],
)
def test_uri_is_percent_encoded(path: str, encoded: str) -> None:
    """Whatever the path holds, the URI's query has it as one value."""
    assert uri(VOLUME_ID, Path(path)) == f"nbd+unix:///{VOLUME_ID}?socket={encoded}"
