"""KmsClient: the one way to KMS. Typed calls over boto3, one error of ours per cause, one layer of retries.

    kms = KmsClient(config.load())
    key = kms.resolve_key(None)                                            # alias/aws/ebs, made on first use
    wrapped = kms.generate_data_key_without_plaintext(key.arn, encryption_context(volume_id))
    grant = kms.create_grant(key.arn, encryption_context(volume_id), name=…)            # at each attachment

AWS, the embedded KMS and any other endpoint answer the same requests with the same errors; see endpoint.py. Each call
carries the parameters that EBS's own carries (facts §1.3), and leaves a record of itself; see audit.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.errors import InvalidParameter, KmsError, KmsIncorrectKey, KmsInvalidKeyUsage, KmsKeyNotFound
from ebscrypt.kms import results
from ebscrypt.kms.audit import Trail, failed
from ebscrypt.kms.audit_record import Exchange
from ebscrypt.kms.context import check_context
from ebscrypt.kms.names import MANAGED_ALIAS, is_key_arn, parse_key_name
from ebscrypt.model import DATA_KEY_SIZE

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient as BotoClient

    from ebscrypt.config import Settings
    from ebscrypt.kms.failures import Call, Failure
    from ebscrypt.kms.results import DataKey, Grant, KeyDescription, WrappedKey
    from ebscrypt.kms.retry import Retry

DRY_RUN_SUCCESS: Final = "DryRunOperationException"
"""The error by which KMS says that a request would have succeeded (facts §5.2)."""
_GONE: Final = "InvalidGrantIdException"


class KmsClient:
    """KMS as ``settings.kms`` names it. Cheap to make: boto3 is imported, and the endpoint chosen, on the first call.

    ``principal`` is the ARN of whom the embedded KMS takes this client for, the account itself by default. ``notes``
    gets what the user should know although nothing failed; without it that is logged.

    Safe to use from several threads. Every method raises one of the `KmsError` family, `ConfigError` when the settings
    cannot work, or `InvalidParameter`, before anything is sent, when the arguments cannot.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        retry: Retry | None = None,
        principal: str | None = None,
        notes: list[str] | None = None,
    ) -> None:
        self._settings = settings
        self._trail = Trail(settings, notes)
        self._retry = retry
        self._principal = principal
        self._client: BotoClient | None = None
        self._lock = threading.Lock()

    @property
    def region(self) -> str:
        """The Region whose keys these are."""
        return self._settings.kms.region

    def describe_key(self, key_id: str) -> KeyDescription:
        """The key behind an id, ARN, alias or alias ARN, in whatever state it is (facts §5.2)."""
        self._check_name(key_id, "KeyId")
        return results.key_description(self.call("DescribeKey", KeyId=key_id), key_id)

    def resolve_key(self, key_id: str | None) -> KeyDescription:
        """The key that a volume would use, with its full ARN. ``key_id`` has any of the four forms; None: the default.

        Refuses by name what EBS cannot use (facts §1.5): keys of another Region, asymmetric and HMAC keys, keys of
        another usage. The key's state is not judged here: the call that needs it says precisely what is wrong.
        """
        named = MANAGED_ALIAS if key_id is None else key_id
        self._check_name(named, "KmsKeyId")
        key = self.describe_key(named)
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
        self._check_name(key_id, "KeyId")
        request = {"KeyId": key_id, "NumberOfBytes": number_of_bytes, "EncryptionContext": check_context(context)}
        return results.wrapped_key(self._send(operation, key_id, request), operation, key_id)

    def create_grant(self, key_arn: str, context: Mapping[str, str], *, name: str) -> Grant:
        """A grant to Decrypt with ``key_arn`` what is bound to ``context``, for one attachment (facts §1.3 b).

        The principals are those of principals.py. The same request with the same ``name`` gives the same grant again.
        """
        from ebscrypt.kms import principals  # noqa: PLC0415 - few processes make grants

        self._check_arn(key_arn)
        checked = check_context(context)
        grantee, retiring = principals.parties(self._settings)
        request = {
            "KeyId": key_arn,
            "GranteePrincipal": grantee,
            "RetiringPrincipal": retiring,
            "Operations": ["Decrypt"],
            "Constraints": {"EncryptionContextSubset": checked},
            "Name": name,
        }
        return results.grant(self._send("CreateGrant", key_arn, request), key_arn)

    def retire_grant(self, key_arn: str, grant_id: str) -> None:
        """End a grant. One that is gone already, or whose key is, is a success."""
        self._check_arn(key_arn)
        try:
            self._send("RetireGrant", key_arn, {"KeyId": key_arn, "GrantId": grant_id})
        except KmsKeyNotFound:
            return
        except KmsError as error:
            if error.kms_code != _GONE:
                raise

    def decrypt(
        self,
        blob: bytes,
        context: Mapping[str, str],
        *,
        key_id: str | None = None,
        expected_key_arn: str | None = None,
        size: int = DATA_KEY_SIZE,
        grant_token: str | None = None,
    ) -> DataKey:
        """The plaintext of a wrapped key: exactly ``size`` bytes. For the unwrap process and tests only (law 3).

        EBS sends no KeyId (facts §1.3 b); ``key_id`` does, and KMS then refuses a blob of another key.
        ``expected_key_arn`` is compared with the answer, and named in errors.
        """
        request = _decryption(blob, context, grant_token)
        if key_id is not None:
            self._check_name(key_id, "KeyId")
            request["KeyId"] = key_id
        asked = expected_key_arn or key_id
        key = results.data_key(self._send("Decrypt", asked, request), "Decrypt", asked, size)
        if expected_key_arn is not None and key.key_arn != expected_key_arn:
            raise KmsIncorrectKey(
                f"the wrapped key is of KMS key {key.key_arn}, not of {expected_key_arn}",
                hint="the volume's header and its wrapped key do not belong together: see `ebscrypt check`",
                key_arn=expected_key_arn,
            )
        return key

    def check_decrypt(
        self, blob: bytes, context: Mapping[str, str], *, key_arn: str, grant_token: str | None = None
    ) -> None:
        """Raise what `decrypt` would, without decrypting: by KMS's DryRun. ``key_arn`` is named in errors.

        An endpoint that does not know DryRun decrypts; its answer is dropped unread.
        """
        self.dry_run("Decrypt", key_arn, **_decryption(blob, context, grant_token))

    def encrypt(self, key_id: str, plaintext: bytes, context: Mapping[str, str]) -> WrappedKey:
        """``plaintext`` (1 to 4096 bytes) wrapped by ``key_id`` and bound to ``context``."""
        self._check_name(key_id, "KeyId")
        request = {"KeyId": key_id, "Plaintext": plaintext, "EncryptionContext": check_context(context)}
        return results.wrapped_key(self._send("Encrypt", key_id, request), "Encrypt", key_id)

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
        self._check_name(destination_key_id, "DestinationKeyId")
        request: dict[str, Any] = {
            "CiphertextBlob": blob,
            "SourceEncryptionContext": check_context(source_context),
            "DestinationKeyId": destination_key_id,
            "DestinationEncryptionContext": check_context(destination_context),
        }
        if source_key_id is not None:
            self._check_name(source_key_id, "SourceKeyId")
            request["SourceKeyId"] = source_key_id
        answer = self._send("ReEncrypt", destination_key_id, request)
        return results.wrapped_key(answer, "ReEncrypt", destination_key_id)

    def dry_run(self, operation: str, key: str | None, /, **parameters: Any) -> bool:
        """Whether ``operation`` would succeed: raises what it would raise. ``key`` is named in errors.

        False says that the endpoint does not know DryRun: it has carried the request out, and the answer is dropped.
        """
        try:
            self._send(operation, key, parameters | {"DryRun": True})
        except KmsError as error:
            if error.kms_code != DRY_RUN_SUCCESS:
                raise
            return True
        return False

    def call(self, operation: str, /, **parameters: Any) -> dict[str, Any]:
        """Any operation of KMS by its API name, with boto3's parameters and answer (without ``ResponseMetadata``)."""
        key = parameters.get("KeyId") or parameters.get("DestinationKeyId") or parameters.get("TargetKeyId")
        answer = self._send(operation, key if isinstance(key, str) else None, parameters)
        return {name: value for name, value in answer.items() if name != "ResponseMetadata"}

    def _check_name(self, text: str, field: str) -> None:
        """Refuse a key of another Region, and in the embedded KMS of another account: neither can be found here."""
        name = parse_key_name(text, field)
        kms = self._settings.kms
        if name.region not in (None, kms.region):
            raise InvalidParameter(
                f"{field} {text} is in Region {name.region}, and volumes here are in {kms.region}",
                hint="name a key of the same Region, or set EBSCRYPT_REGION",
            )
        if kms.endpoint == "embedded" and name.account not in (None, kms.account):
            raise InvalidParameter(
                f"{field} {text} is of account {name.account}, and the embedded KMS has keys of {kms.account} only",
                hint="name a key of this account: see `ebscrypt kms list-keys`",
            )

    def _check_arn(self, text: str) -> None:
        """Grants are made and ended by full key ARN (facts §5.2)."""
        self._check_name(text, "KeyId")
        if not is_key_arn(text):
            raise InvalidParameter(f"KeyId {text} is not a full key ARN", hint="`ebscrypt show VOL` has it: KMS key")

    def _send(self, operation: str, key: str | None, parameters: Mapping[str, Any]) -> dict[str, Any]:
        # boto3 is slow to import: on the first call, and outside of the deadline, since that is not KMS being slow.
        from ebscrypt.kms import endpoint, failures, retry  # noqa: F401, PLC0415

        kms = self._settings.kms
        asked = failures.Call(
            operation=operation,
            key=key,
            endpoint=kms.endpoint,
            region=kms.region,
            granted=bool(parameters.get("GrantTokens")),
        )
        return (self._retry or retry.Retry.of(kms)).run(lambda seconds: self._attempt(asked, parameters, seconds))

    def _attempt(self, asked: Call, parameters: Mapping[str, Any], seconds: float) -> dict[str, Any] | Failure:
        from ebscrypt.kms import failures, retry  # noqa: PLC0415 - see _send

        def work() -> dict[str, Any]:
            return self._method(asked.operation)(**parameters)

        exchange = Exchange(operation=asked.operation, parameters=parameters, key=asked.key, principal=self._principal)
        try:
            # There is nothing to wait for in the embedded KMS but SQLite, which has a timeout of its own.
            answer = work() if asked.endpoint == "embedded" else retry.within(seconds, work)
        except Exception as error:  # noqa: BLE001 - every kind becomes one of ours, or BadAnswer
            raised = error
        else:
            request_id = answer.get("ResponseMetadata", {}).get("RequestId")
            self._trail.record(replace(exchange, answer=answer, request_id=request_id))
            return answer
        # Outside of the except block, so that the new error carries no context that could hold an answer.
        failure = failures.translate(raised, asked)
        if failure.sent:
            self._trail.record(failed(exchange, failure.error))
        return failure

    def _method(self, operation: str) -> Callable[..., dict[str, Any]]:
        from ebscrypt.kms.endpoint import connect  # noqa: PLC0415 - see _send

        with self._lock:
            if self._client is None:
                self._client = connect(self._settings, self._principal)
            client = self._client
        for method, name in client.meta.method_to_api_mapping.items():
            if name == operation:
                return getattr(client, method)  # type: ignore[no-any-return]
        raise InvalidParameter(f"KMS has no operation {operation[:80]!r}", hint="`aws kms help` lists them")


def _decryption(blob: bytes, context: Mapping[str, str], grant_token: str | None) -> dict[str, Any]:
    """Decrypt's parameters as EBS sends them."""
    request: dict[str, Any] = {
        "CiphertextBlob": blob,
        "EncryptionContext": check_context(context),
        "EncryptionAlgorithm": "SYMMETRIC_DEFAULT",
    }
    if grant_token is not None:
        request["GrantTokens"] = [grant_token]
    return request
