"""What is kept of a volume while its blocks still come: three files in the state directory, which outlive any process.

fills/vol-….fill        which blocks are missing; the core's (docs/formats/fill-file.md)
fills/vol-….manifest    the snapshot's manifest, which may be deleted meanwhile; a pin keeps its blocks
fills/vol-….json        the rest: made last, removed last. Where it is, the volume is not whole, or nobody said so yet
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from ebscrypt import durable
from ebscrypt.control import locks
from ebscrypt.errors import EbscryptError, StateError

if TYPE_CHECKING:
    from ebscrypt.config import Settings
    from ebscrypt.control.site import Site
    from ebscrypt.model import Volume
    from ebscrypt.stores.manifest import Manifest

_BITS_AT: Final = 4096
_PIECE: Final = 1 << 20


class FillJob(msgspec.Struct, frozen=True, kw_only=True):
    """How a volume is filled. ``digest`` (hex) is that of the manifest; ``turned``: to a data key of the volume's own.

    ``blocks`` is how many had to come. ``finishing``: all have, and the rest of the end is under way.
    """

    snapshot_id: str
    store: str
    digest: str
    blocks: int
    turned: bool
    finishing: bool = False


class Progress(NamedTuple):
    """How far a volume is filled, in blocks that would outlive a crash."""

    done: int
    blocks: int

    @property
    def percent(self) -> int:
        """Rounded down: 100 is whole."""
        return 100 if self.blocks == 0 else 100 * self.done // self.blocks


def fill_path(settings: Settings, volume_id: str) -> Path:
    return _path(settings, volume_id, "fill")


def manifest_path(settings: Settings, volume_id: str) -> Path:
    return _path(settings, volume_id, "manifest")


def _path(settings: Settings, volume_id: str, suffix: str) -> Path:
    return Path(settings.paths.state) / "fills" / f"{volume_id}.{suffix}"


def lock_name(volume_id: str) -> str:
    """What the filler of a volume locks: not the volume, on which commands go on."""
    return f"{volume_id}.fill"


def begin(settings: Settings, volume: Volume, manifest: Manifest, raw: bytes, job: FillJob) -> None:
    """Note, durably, that every block of ``manifest`` is still to come. Raises OSError."""
    from ebscrypt.core import create_fill_file  # noqa: PLC0415 - the compiled core, which few commands need

    path = fill_path(settings, volume.volume_id)
    durable.make_directory(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        create_fill_file(descriptor, volume.size, list(manifest.blocks.runs()))
    finally:
        os.close(descriptor)
    durable.write_file(manifest_path(settings, volume.volume_id), raw)
    save(settings, volume.volume_id, job)


def save(settings: Settings, volume_id: str, job: FillJob) -> None:
    durable.write_file(_path(settings, volume_id, "json"), msgspec.json.encode(job) + b"\n")


def load(settings: Settings, volume_id: str) -> FillJob | None:
    """The job of a volume whose blocks still come, None of any other. Raises `StateError` for one that is damaged."""
    try:
        return msgspec.json.decode(_path(settings, volume_id, "json").read_bytes(), type=FillJob)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StateError(
            f"what is known of how {volume_id} is filled is damaged: {error}",
            hint="make another volume from the snapshot, and delete this one",
        ) from error


def is_filling(settings: Settings, volume_id: str) -> bool:
    """Whether blocks of the volume are still to come, as far as anybody knows."""
    return _path(settings, volume_id, "json").exists()


def unfinished(settings: Settings) -> list[str]:
    """The volumes whose blocks still come."""
    folder = Path(settings.paths.state) / "fills"
    return sorted(path.stem for path in folder.glob("vol-*.json"))


def progress(settings: Settings, volume_id: str) -> Progress | None:
    """How far a volume is filled; None where that is over."""
    if (job := load(settings, volume_id)) is None:
        return None
    missing = 0
    try:
        with fill_path(settings, volume_id).open("rb") as file:
            file.seek(_BITS_AT)
            while piece := file.read(_PIECE):
                missing += int.from_bytes(piece).bit_count()
    except FileNotFoundError:
        missing = 0
    return Progress(max(0, job.blocks - missing), job.blocks)


def forget(settings: Settings, volume_id: str) -> None:
    """Remove the files, durably; the job itself last. Safe to repeat."""
    for suffix in ("fill", "manifest", "json"):
        path = _path(settings, volume_id, suffix)
        if path.exists():
            durable.remove_file(path)


def abandon(site: Site, volume_id: str) -> None:
    """Forget a fill that is not to be, and let its blocks go: the volume is deleted, or its creation failed."""
    if (job := load(site.settings, volume_id)) is not None:
        release(site, volume_id, job)
    forget(site.settings, volume_id)
    locks.forget(site.settings, lock_name(volume_id))


def release(site: Site, volume_id: str, job: FillJob) -> None:
    """Let the snapshot's blocks go, which were kept for the volume. A store that is away becomes a note."""
    from ebscrypt.stores.addresses import open_store  # noqa: PLC0415 - most volumes are not being filled
    from ebscrypt.stores.publish import release_pins  # noqa: PLC0415 - the same

    try:
        with closing(open_store(site.settings, job.store, create=False)) as store:
            release_pins(store, volume_id)
    except EbscryptError as error:
        site.notes.append(f"the blocks that {volume_id} needed stay pinned in the store {job.store}: {error.message}")


def refuse_while_filling(site: Site, volume_id: str, wanted: str) -> None:
    """Raise `StateError` while blocks of the volume are still to come: it cannot be ``wanted`` before it is whole."""
    found = progress(site.settings, volume_id)
    if found is not None:
        raise StateError(
            f"volume {volume_id} cannot be {wanted}: it has {found.percent} % of its snapshot's blocks",
            hint=f"wait until it is whole: `ebscrypt show {volume_id}`",
        )
