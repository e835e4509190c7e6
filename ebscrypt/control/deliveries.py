"""Handing what a command leaves behind to the deliverer, at the command's very end."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

from ebscrypt.control import process, systemd
from ebscrypt.errors import EbscryptError
from ebscrypt.events.starting import is_deliverer_wanted, start_deliverer

if TYPE_CHECKING:
    from ebscrypt.control.site import Site


def start_deliveries(site: Site) -> None:
    """See to it that a deliverer is at work if there is something for it to do. Never fails and never waits for one.

    What cannot be started now is started by the next command: the events are safe in the catalog.
    """
    with contextlib.suppress(EbscryptError, OSError, subprocess.SubprocessError):
        if not is_deliverer_wanted(site.catalog, site.settings):
            return
        # Under systemd it is a unit of its own: what the steps of ebscrypt@.service start is ended with them.
        if not (systemd.is_used(site.settings) and systemd.start_deliverer()):
            start_deliverer(process.environment(site.settings))
