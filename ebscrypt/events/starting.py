"""Seeing to it, at the end of a command, that what it leaves behind is delivered."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ebscrypt.config import Settings
from ebscrypt.events.turn import wake

if TYPE_CHECKING:
    from ebscrypt.catalog.catalog import Catalog


def is_deliverer_wanted(catalog: Catalog, settings: Settings) -> bool:
    """Whether something is to be delivered and nobody is at it. A deliverer that sleeps is woken instead.

    One query, of milliseconds, is all that it costs where there is nothing to deliver.
    """
    return catalog.rules.is_work_left() and not wake(settings)


def start_deliverer(environment: Mapping[str, str]) -> None:
    """Start a deliverer that this process need not wait for, now or ever: it becomes a child of init at once."""
    subprocess.run(
        ["setsid", "--fork", sys.executable, "-m", "ebscrypt.events.deliver"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=dict(environment),
        check=True,
    )
