"""Other Regions: each is an installation of its own on this machine, with its catalog, its KMS and its stores.

What goes from one to another (`copy_snapshot`) works on two sites: it reads at the source and makes at the destination.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ebscrypt import config
from ebscrypt.control.site import Site
from ebscrypt.errors import ConfigError, InvalidParameter


@contextmanager
def site_of(site: Site, region: str) -> Iterator[Site]:
    """The site of a Region: ``site`` itself where it is that one's, else what ``regions.files`` names; same notes.

    Raises `InvalidParameter` for a Region that no setting names, `ConfigError` where its settings are another's.
    """
    if region == site.settings.kms.region:
        yield site
        return
    with Site(_settings(site, region)) as other:
        other.notes = site.notes
        yield other


def _settings(site: Site, region: str) -> config.Settings:
    file = site.settings.regions.files.get(region)
    if file is None:
        known = ", ".join(sorted({site.settings.kms.region, *site.settings.regions.files}))
        raise InvalidParameter(
            f"nothing is known here of the Region {region[:40]!r}",
            hint=f"name its settings file in [regions] files; there are {known}",
        )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("EBSCRYPT_")}
    # A Region that is in the environment is this site's.
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        environ.pop(name, None)
    settings = config.load(environ | {"EBSCRYPT_CONFIG": file})
    if settings.kms.region != region:
        raise ConfigError(
            f"{file} is for the Region {settings.kms.region}, but regions.files names it for {region}",
            hint="set kms.region there",
        )
    if settings.paths.state == site.settings.paths.state:
        raise ConfigError(
            f"{file} has the state directory of {site.settings.kms.region}: {settings.paths.state}",
            hint="each Region has a state directory of its own: set paths.state there",
        )
    return settings
