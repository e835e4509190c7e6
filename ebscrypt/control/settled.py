"""`is_settled`: whether `recover` has anything to do, found out without what it would need to do it.

Every command asks this first, and nearly always the answer is yes. It may be no for nothing, never yes in spite of
something: a volume whose look needs more than its runtime directory counts as not settled.
"""

from __future__ import annotations

from ebscrypt.catalog.reading import CatalogReader
from ebscrypt.control import fill_job, runtime
from ebscrypt.control.site import Site
from ebscrypt.errors import CatalogError, EbscryptError
from ebscrypt.model import AttachmentState, OnKeyUnusable, Volume, VolumeState


def is_settled(site: Site) -> bool:
    """Whether no crash left anything to finish or undo, as far as a reader of the catalog can say."""
    if not isinstance(site.reading, CatalogReader) or fill_job.unfinished(site.settings):
        return False
    try:
        if site.reading.is_change_under_way():
            return False
        volumes = site.reading.volumes(VolumeState.CREATING, VolumeState.DELETING, VolumeState.IN_USE)
    except CatalogError:
        # `Catalog` meets the same trouble, and says what it is.
        return False
    return all(_is_in_use(site, volume) and is_watch_settled(site, volume) for volume in volumes)


def _is_in_use(site: Site, volume: Volume) -> bool:
    if volume.state is not VolumeState.IN_USE:
        return False
    return runtime.attachment_state(site.settings, volume.volume_id) is not None


def is_watch_settled(site: Site, volume: Volume) -> bool:
    """Whether an attached volume has its mode and its watch: a look at two small files where it is to be watched."""
    if volume.on_key_unusable is OnKeyUnusable.IGNORE or volume.state is not VolumeState.IN_USE:
        return True
    from ebscrypt.control import watch  # noqa: PLC0415 - rarely needed

    attached = runtime.attachment_state(site.settings, volume.volume_id)
    if attached is None or attached.state is not AttachmentState.ATTACHED:
        return True
    try:
        spec = runtime.directory(site.settings, volume.volume_id).read_spec()
    except EbscryptError:
        return True
    return spec.on_key_unusable is volume.on_key_unusable and watch.is_watched(site.settings, volume.volume_id)
