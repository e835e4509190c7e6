"""Calls EC2 actions as the gateway does, but for HTTP; request and answer are checked by botocore's model."""

from __future__ import annotations

from typing import Any, Final

import botocore.session
import pytest
from botocore.validate import ParamValidator

from ebscrypt.api.call import Call
from ebscrypt.api.ec2 import OPERATIONS
from ebscrypt.api.errors import ApiError, from_ebscrypt
from ebscrypt.control.site import Site
from ebscrypt.errors import EbscryptError
from ebscrypt.model import utc_now

MODEL: Final = botocore.session.Session().get_service_model("ec2")
NO_SNAPSHOT: Final = "snap-00000000000000000"


class Caller:
    """Somebody who may do everything on one site."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def __call__(self, action: str, **request: Any) -> dict[str, Any]:
        kms = self.site.settings.kms
        call = Call(
            site=self.site,
            account=kms.account,
            region=kms.region,
            request_id="r",
            principal=f"arn:aws:iam::{kms.account}:user/admin",
            now=utc_now(),
        )
        operation = MODEL.operation_model(action)
        self._check(request, operation.input_shape)
        try:
            answer = OPERATIONS[action](call, request)
        except EbscryptError as error:
            raise from_ebscrypt(error) from error
        if operation.output_shape is not None:
            self._check(answer, operation.output_shape)
        return answer

    def refused(self, action: str, **request: Any) -> tuple[str, str]:
        """Code and message of a refusal."""
        with pytest.raises(ApiError) as caught:
            self(action, **request)
        return caught.value.code, caught.value.message

    def code(self, action: str, **request: Any) -> str:
        return self.refused(action, **request)[0]

    def shown(self, snapshot_id: str) -> dict[str, Any]:
        snapshot: dict[str, Any] = self("DescribeSnapshots", SnapshotIds=[snapshot_id])["Snapshots"][0]
        return snapshot

    def _check(self, value: dict[str, Any], shape: Any) -> None:
        report = ParamValidator().validate(value, shape)
        assert not report.has_errors(), report.generate_report()
