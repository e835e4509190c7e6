"""A daemon's start as far as KMS is concerned, in this process: what the unwrap process asks, as the spec says."""

from __future__ import annotations

import sqlite3

import pytest

from ebscrypt.config import Settings
from ebscrypt.control import links, process, runtime
from ebscrypt.control.site import Site
from ebscrypt.kms.client import KmsClient
from ebscrypt.kms.principals import grantee
from ebscrypt.model import Attachment, AttachmentSpec, ExportKind, utc_now
from tests.unit.control.disks import header_of


class FakeDaemons:
    """Stands in for `process.start`: asks KMS as the unwrap process does, and then says that the volume is served."""

    def __init__(self, site: Site, patch: pytest.MonkeyPatch) -> None:
        self.specs: list[AttachmentSpec] = []
        self.ended: list[Attachment] = []
        self.end_daemon = process.end_daemon
        self._site = site
        patch.setattr(process, "start", self.serve)
        patch.setattr(runtime, "is_process", lambda pid, start: pid == start == 1)
        patch.setattr(process, "end_daemon", self.ended.append)
        patch.setattr(links, "make_link", lambda _: None)

    def serve(self, settings: Settings, volume_id: str) -> None:
        spec = runtime.directory(settings, volume_id).read_spec()
        self.specs.append(spec)
        if spec.encrypted:
            self._unwrap(settings, spec)
        attachment = Attachment(
            volume_id=volume_id,
            pid=1,
            pid_start=1,
            export=ExportKind.SOCKET,
            device="nbd+unix:///?socket=/nowhere",
            backing=spec.backing,
            size=spec.size,
            read_only=spec.read_only,
            key_memory="memfd_secret" if spec.encrypted else None,
            attach_time=utc_now(),
        )
        runtime.write_attachment(settings, attachment)

    def _unwrap(self, settings: Settings, spec: AttachmentSpec) -> None:
        token = header_of(spec.backing).token()
        kms = self._site.kms
        if spec.grant_token is not None and settings.kms.endpoint == "embedded":
            kms = KmsClient(settings, principal=grantee(settings))
        kms.decrypt(
            token.wrapped_key,
            token.encryption_context,
            expected_key_arn=token.kms_key_arn,
            grant_token=spec.grant_token,
        )

    def die(self, volume_id: str) -> None:
        """The newest daemon of this volume is no more; its records are still there."""
        attachment = runtime.read_attachment(self._site.settings, volume_id)
        assert attachment is not None
        dead = {field: getattr(attachment, field) for field in attachment.__struct_fields__} | {"pid": 2**22 - 1}
        runtime.write_attachment(self._site.settings, Attachment(**dead))


def put_in_state(settings: Settings, key_arn: str, state: str) -> None:
    """A key of the embedded KMS in a state that nothing but a custom key store or a lost material brings about."""
    with sqlite3.connect(settings.kms_dir / "keys.db") as store:
        changed = store.execute("UPDATE kms_key SET state = ? WHERE arn = ?", (state, key_arn))
        assert changed.rowcount == 1
    store.close()


def grants_of(settings: Settings, key_arn: str) -> list[dict[str, object]]:
    """The grants that the embedded KMS has on a key."""
    grants: list[dict[str, object]] = KmsClient(settings).call("ListGrants", KeyId=key_arn)["Grants"]
    return grants
