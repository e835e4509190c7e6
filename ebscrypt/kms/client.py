"""KmsClient: the one way to KMS. Typed calls over boto3, one error of ours per cause, one layer of retries.

    kms = KmsClient(config.load())
    key = kms.resolve_key(None)                                            # alias/aws/ebs, made on first use
    wrapped = kms.generate_data_key_without_plaintext(key.arn, encryption_context(volume_id))

AWS, the embedded KMS and any other endpoint answer the same requests with the same errors; see endpoint.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ebscrypt.errors import InvalidParameter, KmsIncorrectKey, KmsInvalidKeyUsage
from ebscrypt.kms import results
from ebscrypt.kms.context import check_context
from ebscrypt.kms.names import MANAGED_ALIAS, parse_key_name
from ebscrypt.model import DATA_KEY_SIZE

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient as BotoClient

    from ebscrypt.config import Settings
    from ebscrypt.kms.failures import Failure
    from ebscrypt.kms.results import DataKey, KeyDescription, WrappedKey
    from ebscrypt.kms.retry import Retry


class KmsClient:
    """KMS as ``settings.kms`` names it. Cheap to make: boto3 is imported, and the endpoint chosen, on the first call.

    Safe to use from several threads. Every method raises one of the `KmsError` family, `ConfigError` when the settings
    cannot work, or `InvalidParameter` when the arguments cannot.
    """

    def __init__(self, settings: Settings, *, retry: Retry | None = None) -> None:
        self._settings = settings
        self._retry = retry
        self._client: BotoClient | None = None
        self._lock = threading.Lock()

    @property
    def region(self) -> str:
        """The Region whose keys these are."""
        return self._settings.kms.region

    def describe_key(self, key_id: str) -> KeyDescription:
        """The key behind an id, ARN, alias or alias ARN, in whatever state it is (facts §5.2)."""
        return results.key_description(self.call("DescribeKey", KeyId=key_id))

    def resolve_key(self, key_id: str | None) -> KeyDescription:
        """The key that a volume would use, with its full ARN. ``key_id`` has any of the four forms; None: the default.

        Refuses by name what EBS cannot use (facts §1.5): keys of another Region, asymmetric and HMAC keys, keys of
        another usage. The key's state is not judged here: the call that needs it says precisely what is wrong.
        """
        name = parse_key_name(MANAGED_ALIAS if key_id is None else key_id)
        if name.region is not None and name.region != self.region:
            raise InvalidParameter(
                f"KMS key {key_id} is in Region {name.region}, and volumes here are in {self.region}",
                hint="name a key of the same Region, or set EBSCRYPT_REGION",
            )
        key = self.describe_key(MANAGED_ALIAS if key_id is None else key_id)
        if not key.encrypts_volumes:
            raise KmsInvalidKeyUsage(
                f"KMS key {key.arn} cannot encrypt volumes: its key spec is {key.spec}, its usage {key.usage}",
                hint="use a symmetric encryption key (SYMMETRIC_DEFAULT, ENCRYPT_DECRYPT): `ebscrypt kms create-key`",
                key_arn=key.arn,
            )
        return key

    def generate_data_key_without_plaintext(
        self, key_id: str, context: Mapping[str, str], number_of_bytes: int = DATA_KEY_SIZE
    ) -> WrappedKey:
        """A new data key that nobody has seen, wrapped by ``key_id`` and bound to ``context`` (facts §1.3 a)."""
        operation = "GenerateDataKeyWithoutPlaintext"
        answer = self._send(
            operation,
            key_id,
            {"KeyId": key_id, "NumberOfBytes": number_of_bytes, "EncryptionContext": check_context(context)},
        )
        return results.wrapped_key(answer, operation)

    def decrypt(
        self,
        blob: bytes,
        context: Mapping[str, str],
        *,
        key_id: str | None = None,
        expected_key_arn: str | None = None,
        size: int = DATA_KEY_SIZE,
    ) -> DataKey:
        """The plaintext of a wrapped key: exactly ``size`` bytes. For the unwrap process and tests only (law 3).

        EBS sends no KeyId (facts §1.3 b); ``key_id`` does, and KMS then refuses a blob of another key.
        ``expected_key_arn`` is compared with the answer, and named in errors.
        """
        request: dict[str, Any] = {
            "CiphertextBlob": blob,
            "EncryptionContext": check_context(context),
            "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
        }
        if key_id is not None:
            request["KeyId"] = key_id
        key = results.data_key(self._send("Decrypt", expected_key_arn or key_id, request), "Decrypt", size)
        if expected_key_arn is not None and key.key_arn != expected_key_arn:
            raise KmsIncorrectKey(
                f"the wrapped key is of KMS key {key.key_arn}, not of {expected_key_arn}",
                hint="the volume's header and its wrapped key do not belong together: see `ebscrypt check`",
                key_arn=expected_key_arn,
            )
        return key

    def encrypt(self, key_id: str, plaintext: bytes, context: Mapping[str, str]) -> WrappedKey:
        """``plaintext`` (1 to 4096 bytes) wrapped by ``key_id`` and bound to ``context``."""
        answer = self._send(
            "Encrypt", key_id, {"KeyId": key_id, "Plaintext": plaintext, "EncryptionContext": check_context(context)}
        )
        return results.wrapped_key(answer, "Encrypt")

    def re_encrypt(
        self,
        blob: bytes,
        source_context: Mapping[str, str],
        destination_key_id: str,
        destination_context: Mapping[str, str],
        *,
        source_key_id: str | None = None,
    ) -> WrappedKey:
        """The same plaintext under another key or context; it never leaves KMS (facts §1.3 d)."""
        request: dict[str, Any] = {
            "CiphertextBlob": blob,
            "SourceEncryptionContext": check_context(source_context),
            "DestinationKeyId": destination_key_id,
            "DestinationEncryptionContext": check_context(destination_context),
        }
        if source_key_id is not None:
            request["SourceKeyId"] = source_key_id
        return results.wrapped_key(self._send("ReEncrypt", destination_key_id, request), "ReEncrypt")

    def call(self, operation: str, /, **parameters: Any) -> dict[str, Any]:
        """Any operation of KMS by its API name, with boto3's parameters and answer (without ``ResponseMetadata``)."""
        key = parameters.get("KeyId") or parameters.get("DestinationKeyId") or parameters.get("TargetKeyId")
        answer = self._send(operation, key if isinstance(key, str) else None, parameters)
        return {name: value for name, value in answer.items() if name != "ResponseMetadata"}

    def _send(self, operation: str, key: str | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
        # boto3 is slow to import: on the first call, and outside of the deadline, since that is not KMS being slow.
        from ebscrypt.kms import endpoint, failures, retry  # noqa: F401, PLC0415

        kms = self._settings.kms
        asked = failures.Call(operation=operation, key=key, endpoint=kms.endpoint, region=kms.region)

        def attempt(seconds: float) -> dict[str, Any] | Failure:
            try:
                return self._attempt(operation, parameters, seconds)
            except Exception as error:  # noqa: BLE001 - every kind becomes one of ours, or BadAnswer
                raised = error
            # Outside of the except block, so that the new error carries no context that could hold an answer.
            return failures.translate(raised, asked)

        return (self._retry or retry.Retry.of(kms)).run(attempt)

    def _attempt(self, operation: str, parameters: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        from ebscrypt.kms import retry  # noqa: PLC0415 - see _send

        def work() -> dict[str, Any]:
            return self._method(operation)(**parameters)

        if self._settings.kms.endpoint == "embedded":
            return work()  # nothing to wait for but SQLite, which has a timeout of its own
        return retry.within(seconds, work)

    def _method(self, operation: str) -> Callable[..., dict[str, Any]]:
        from ebscrypt.kms.endpoint import connect  # noqa: PLC0415 - see _send

        with self._lock:
            if self._client is None:
                self._client = connect(self._settings)
            client = self._client
        for method, name in client.meta.method_to_api_mapping.items():
            if name == operation:
                return getattr(client, method)  # type: ignore[no-any-return]
        raise InvalidParameter(f"KMS has no operation {operation[:80]!r}", hint="`aws kms help` lists them")
