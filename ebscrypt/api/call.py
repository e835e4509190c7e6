"""`Call`: what every operation of the API is given beside its parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ebscrypt.api.errors import dry_run
from ebscrypt.control.site import Site
from ebscrypt.kms.names import partition_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request whose signature was right and whose parameters agree with the service model.

    ``site`` is opened for this request and closed after it. ``principal`` is the ARN of who signed. ``now`` is when the
    request came, with its zone.
    """

    site: Site
    account: str
    region: str
    request_id: str
    principal: str
    now: datetime

    def arn(self, service: str, resource: str) -> str:
        """The ARN of ``resource`` of ``service`` in this account and Region."""
        return f"arn:{partition_of(self.region)}:{service}:{self.region}:{self.account}:{resource}"

    def finish_dry_run(self, request: dict[str, Any]) -> None:
        """To be called when all checks are done and nothing has changed yet: a DryRun ends here.

        Raises `ApiError` DryRunOperation if the request is one.
        """
        if request.get("DryRun"):
            raise dry_run()


Operation = Callable[[Call, dict[str, Any]], dict[str, Any]]
"""A function that answers one API action. Request and answer have botocore's member names; blobs are bytes, times are
`datetime` with a zone. It raises `ApiError` or `EbscryptError`."""
