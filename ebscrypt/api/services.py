"""The services that the API has, each with its model and its operations."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

import botocore.session

from ebscrypt.api.kms import KmsService
from ebscrypt.api.protocol.service import FormService, RestService, Service

if TYPE_CHECKING:
    from ebscrypt.config import Settings

FORM_SERVICES: Final = {
    "ec2": "ebscrypt.api.ec2",
    "sts": "ebscrypt.api.sts",
    "cloudformation": "ebscrypt.api.cloudformation",
}
"""Services of the protocols ec2 and query, by the name that clients sign for: where their ``OPERATIONS`` are."""
REST_SERVICES: Final = {"ebs": "ebscrypt.api.ebs"}
"""The same for the protocol rest-json."""


def load(settings: Settings) -> dict[str, Service]:
    """All services, by the name that clients sign for."""
    session = botocore.session.Session()
    found: dict[str, Service] = {"kms": KmsService(settings, session.get_service_model("kms"))}
    for name, module in FORM_SERVICES.items():
        found[name] = FormService(name, session.get_service_model(name), import_module(module).OPERATIONS)
    for name, module in REST_SERVICES.items():
        found[name] = RestService(name, session.get_service_model(name), import_module(module).OPERATIONS)
    return found
