"""EmbeddedKms: target and JSON bytes in, status and JSON bytes out. Sockets are the business of http.py."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from ebscrypt.kms.embedded import (
    aliases,
    authority,
    data_keys,
    faults,
    grants,
    imports,
    keys,
    policies,
    rotation,
    tags,
    upkeep,
    wire,
)
from ebscrypt.kms.embedded.calls import Call
from ebscrypt.kms.embedded.faults import KmsFault
from ebscrypt.kms.embedded.rows import Scope
from ebscrypt.kms.embedded.store import Store, StoreBusy

if TYPE_CHECKING:
    from botocore.model import OperationModel, ServiceModel

    from ebscrypt.config import Settings

OPERATIONS: Final[dict[str, Callable[[Call], dict[str, Any]]]] = {
    "CreateKey": keys.create_key,
    "DescribeKey": keys.describe_key,
    "ListKeys": keys.list_keys,
    "EnableKey": keys.enable_key,
    "DisableKey": keys.disable_key,
    "ScheduleKeyDeletion": keys.schedule_key_deletion,
    "CancelKeyDeletion": keys.cancel_key_deletion,
    "CreateAlias": aliases.create_alias,
    "UpdateAlias": aliases.update_alias,
    "DeleteAlias": aliases.delete_alias,
    "ListAliases": aliases.list_aliases,
    "GenerateDataKey": data_keys.generate_data_key,
    "GenerateDataKeyWithoutPlaintext": data_keys.generate_data_key_without_plaintext,
    "Encrypt": data_keys.encrypt,
    "Decrypt": data_keys.decrypt,
    "ReEncrypt": data_keys.re_encrypt,
    "GenerateRandom": data_keys.generate_random,
    "UpdateKeyDescription": keys.update_key_description,
    "CreateGrant": grants.create_grant,
    "RetireGrant": grants.retire_grant,
    "RevokeGrant": grants.revoke_grant,
    "ListGrants": grants.list_grants,
    "ListRetirableGrants": grants.list_retirable_grants,
    "GetParametersForImport": imports.get_parameters_for_import,
    "ImportKeyMaterial": imports.import_key_material,
    "DeleteImportedKeyMaterial": imports.delete_imported_key_material,
    "GetKeyPolicy": policies.get_key_policy,
    "PutKeyPolicy": policies.put_key_policy,
    "ListKeyPolicies": policies.list_key_policies,
    "TagResource": tags.tag_resource,
    "UntagResource": tags.untag_resource,
    "ListResourceTags": tags.list_resource_tags,
    "EnableKeyRotation": rotation.enable_key_rotation,
    "DisableKeyRotation": rotation.disable_key_rotation,
    "GetKeyRotationStatus": rotation.get_key_rotation_status,
    "RotateKeyOnDemand": rotation.rotate_key_on_demand,
    "ListKeyRotations": rotation.list_key_rotations,
}
"""What this KMS can do, by API name."""


class EmbeddedKms:
    """The embedded KMS of one account and Region over the store in ``settings.kms_dir``, which it makes when missing.

    Any number of them, in any number of processes, may share a store; each may be used from several threads. ``now`` is
    the clock (seconds since 1970) by which keys are deleted and rotated, and imported material expires. The store is
    opened by the first request or by `open`.
    """

    def __init__(
        self, settings: Settings, service_model: ServiceModel | None = None, *, now: Callable[[], float] = time.time
    ) -> None:
        self._model = service_model or _load_model()
        self._scope = Scope(account=settings.kms.account, region=settings.kms.region)
        self._now = now
        self._settings = settings
        self._store: Store | None = None
        self._lock = threading.Lock()

    def open(self) -> Store:
        """The store, opened now if it was not. Raises what `Store` raises."""
        with self._lock:
            if self._store is None:
                self._store = Store(self._settings)
            return self._store

    def answer(self, target: str, body: bytes, *, principal: str | None = None) -> tuple[int, bytes]:
        """The answer to one request of the JSON 1.1 protocol: HTTP status and body. ``target`` is X-Amz-Target.

        ``principal`` is the IAM or STS ARN of who asks, and may do what a grant allows; None is the account's root.

        Raises an `EbscryptError` only when the store itself fails (missing root key, full disk, damage).
        """
        try:
            request = msgspec.json.decode(body or b"{}")
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            fault = KmsFault("SerializationException", "The request body is not JSON.")
            return fault.status, msgspec.json.encode(fault.body())
        status, answered = self.dispatch(target, request, principal=principal)
        return status, msgspec.json.encode(answered)

    def dispatch(self, target: str, request: Any, *, principal: str | None = None) -> tuple[int, dict[str, Any]]:
        """`answer` between values as JSON has them: blobs in base64, times in seconds since 1970."""
        try:
            return 200, self._perform(target, request, principal)
        except KmsFault as fault:
            return fault.status, fault.body()
        except StoreBusy:
            busy = faults.dependency_timeout()
            return busy.status, busy.body()

    def close(self) -> None:
        """Close the store; a later request opens it again. Idempotent."""
        with self._lock:
            if self._store is not None:
                self._store.close()
            self._store = None

    def _perform(self, target: str, request: Any, principal: str | None) -> dict[str, Any]:
        operation = self._operation(target)
        parameters = wire.read(operation.input_shape, request) if operation.input_shape else {}
        store = self.open()
        now = self._now()
        upkeep.do_what_is_due(store, now)
        call = Call(
            operation=operation.name,
            parameters=parameters,
            may_say_invalid_arn=any(shape.name == "InvalidArnException" for shape in operation.error_shapes),
            scope=self._scope,
            now=now,
            store=store,
            principal=principal,
        )
        _check_door(call)
        answered = OPERATIONS[operation.name](call)
        return dict(wire.write(operation.output_shape, answered)) if operation.output_shape else {}

    def _operation(self, target: str) -> OperationModel:
        service, _, name = target.partition(".")
        if service != self._model.metadata["targetPrefix"] or name not in self._model.operation_names:
            raise KmsFault("UnknownOperationException", f"There is no operation {target[:80]!r}.")
        if name not in OPERATIONS:
            raise faults.unsupported(f"{name} is not supported by the embedded KMS")
        return self._model.operation_model(name)


def _check_door(call: Call) -> None:
    """What holds for every operation: only the root does what no grant can allow, and shown grant tokens are right."""
    if call.principal is not None and call.operation not in authority.GRANTABLE:
        raise authority.denied(call.principal, call.operation, on=call.shown_resource)
    if call.asker.tokens:
        with call.store.read() as db:
            authority.check_tokens(db, call.asker)


def _load_model() -> ServiceModel:
    import botocore.session  # noqa: PLC0415 - only the HTTP server has no client whose model it could share

    return botocore.session.Session().get_service_model("kms")
