"""Every error that ebscrypt raises on purpose, in one tree.

    EbscryptError
    ├── UsageError                      what was asked makes no sense (exit 2)
    │   ├── InvalidParameter            one value is wrong
    │   │   └── InvalidBlockRequest     what EBS direct calls invalid, with the reason in its words
    │   ├── InvalidCombination          two values exclude each other
    │   ├── MissingDependency           one value needs another
    │   ├── ConfigError                 a setting is unknown or wrong
    │   ├── InvalidEventPattern         not a pattern that EventBridge would take; names the path in it
    │   └── InvalidTemplate             no template of CloudFormation, or one that needs more than we have
    ├── NotFound                        what was named does not exist
    │   ├── VolumeNotFound
    │   ├── SnapshotNotFound            also: a store has no such manifest
    │   ├── RuleNotFound                a rule of events
    │   ├── StackNotFound
    │   └── ChangeSetNotFound
    ├── StateError                      it exists, but not in a state that allows this
    │   ├── VolumeInUse                 attached, mounted or open; says by whom
    │   ├── SnapshotLimit               the volume has a snapshot under way already
    │   ├── CopyLimit                   as many copies are under way as may be
    │   ├── ClientTokenReused           an earlier request, which asked for something else, had it
    │   ├── StackStateError             the stack is in a state that allows no such operation
    │   │   └── InvalidChangeSet        it cannot be executed, or not any more
    │   └── StackFailed                 an operation on a stack failed, and was rolled back as far as it says
    ├── BackingError                    the file or block device under a volume
    │   ├── BackingInUse                another process has it
    │   ├── BackingNotEmpty             it holds data that we would overwrite
    │   ├── BackingMissing              it is not there
    │   └── OutOfSpace                  its file system is full
    ├── NotPermitted                    the operating system said no
    ├── CatalogError                    the catalog cannot be read or written
    │   └── CatalogDamaged              its file is no database, or a damaged one
    ├── HeaderError                     the LUKS2 header of a volume
    │   ├── HeaderDamaged               corrupted or tampered with
    │   ├── HeaderUnsupported           sound, but not one that we serve
    │   └── KeyMismatch                 the unwrapped key is not this volume's
    ├── KmsError                        KMS refused or did not answer
    │   ├── KmsKeyUnusable              the key exists, but cannot be used now
    │   │   ├── KmsKeyDisabled
    │   │   └── KmsKeyInvalidState      pending deletion, pending import, unavailable, creating
    │   ├── KmsKeyNotFound
    │   ├── KmsInvalidKeyUsage          asymmetric, HMAC or wrong usage
    │   ├── KmsAccessDenied
    │   ├── KmsInvalidCiphertext        wrong context, or a damaged or foreign wrapped key
    │   ├── KmsIncorrectKey
    │   ├── KmsInvalidRequest           KMS calls the request malformed
    │   ├── KmsThrottled
    │   ├── KmsUnreachable              no answer before the deadline
    │   └── KmsBadAnswer                an answer that cannot be one
    ├── StoreError                      where snapshots lie
    │   ├── StoreUnreachable            no answer, or not in time
    │   ├── StoreSlowDown               it asks for fewer requests
    │   ├── StoreAccessDenied
    │   ├── StoreNotFound               no such bucket or directory, or no store in it
    │   ├── StoreUnsupported            sound, but not one that we read
    │   ├── StoreFull                   no room, or the quota is used up
    │   ├── BlockMissing                names the block
    │   ├── BlockDamaged                names the block: corrupted or tampered with
    │   ├── ManifestDamaged             corrupted or tampered with
    │   ├── ManifestNotAuthentic        sound, but nothing vouches for it
    │   ├── ManifestExists              a snapshot's manifest is never replaced
    │   ├── TransferCancelled           stopped because someone asked for it
    │   └── SweepLost                   a sweep took too long and must not delete any more
    └── DaemonError                     the process that serves a volume
        ├── ExportUnavailable           this machine cannot export that way
        └── DaemonLost                  it died or does not answer

A message is lower case, names the value and why; ``hint`` is the next thing to do, on a line of its own. Neither ever
holds a key, a wrapped key, a grant token or the value of an encryption context.
"""

from __future__ import annotations

import errno
from typing import Any, ClassVar


class EbscryptError(Exception):
    """Root of the tree: ``message`` says what, with which value and why; ``hint`` says what to do next.

    ``api_code`` is the EC2 error code that an API answers with, ``errno`` what a file operation would give,
    ``exit_status`` how a command ends (1 refused or failed, 2 usage).
    """

    api_code: ClassVar[str] = "InternalError"
    errno: ClassVar[int] = errno.EIO
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def record(self) -> dict[str, Any]:
        """The error as plain values, for a JSON answer or a pipe; `from_record` is the way back."""
        return {"Error": type(self).__name__, "Code": self.api_code, "Message": self.message, "Hint": self.hint}


class UsageError(EbscryptError):
    api_code = "InvalidParameterValue"
    errno = errno.EINVAL
    exit_status = 2


class InvalidParameter(UsageError):
    api_code = "InvalidParameterValue"


class InvalidBlockRequest(InvalidParameter):
    """``reason`` is one of those that EBS direct has for a ValidationException (facts §6.7)."""

    api_code = "ValidationException"

    def __init__(self, message: str, *, hint: str | None = None, reason: str = "INVALID_PARAMETER_VALUE") -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


class InvalidCombination(UsageError):
    api_code = "InvalidParameterCombination"


class MissingDependency(UsageError):
    api_code = "InvalidParameterDependency"


class ConfigError(UsageError):
    api_code = "InvalidParameter"


class InvalidEventPattern(UsageError):
    api_code = "InvalidEventPatternException"


class InvalidTemplate(UsageError):
    api_code = "ValidationError"


class NotFound(EbscryptError):
    api_code = "InvalidParameterValue"
    errno = errno.ENOENT


class VolumeNotFound(NotFound):
    api_code = "InvalidVolume.NotFound"


class SnapshotNotFound(NotFound):
    api_code = "InvalidSnapshot.NotFound"


class RuleNotFound(NotFound):
    api_code = "ResourceNotFoundException"


class StackNotFound(NotFound):
    api_code = "ValidationError"


class ChangeSetNotFound(NotFound):
    api_code = "ChangeSetNotFound"


class StateError(EbscryptError):
    api_code = "IncorrectState"
    errno = errno.EBUSY


class VolumeInUse(StateError):
    api_code = "VolumeInUse"


class SnapshotLimit(StateError):
    api_code = "ConcurrentSnapshotLimitExceeded"


class CopyLimit(StateError):
    api_code = "ResourceLimitExceeded"


class ClientTokenReused(StateError):
    api_code = "ConflictException"


class StackStateError(StateError):
    api_code = "ValidationError"


class InvalidChangeSet(StackStateError):
    api_code = "InvalidChangeSetStatus"


class StackFailed(StateError):
    api_code = "ValidationError"


class BackingError(EbscryptError):
    api_code = "InvalidParameterValue"


class BackingInUse(BackingError):
    errno = errno.EBUSY


class BackingNotEmpty(BackingError):
    errno = errno.EEXIST


class BackingMissing(BackingError):
    errno = errno.ENOENT


class OutOfSpace(BackingError):
    api_code = "InsufficientVolumeCapacity"
    errno = errno.ENOSPC


class NotPermitted(EbscryptError):
    api_code = "UnauthorizedOperation"
    errno = errno.EACCES


class CatalogError(EbscryptError):
    pass


class CatalogDamaged(CatalogError):
    pass


class HeaderError(EbscryptError):
    api_code = "InternalError"


class HeaderDamaged(HeaderError):
    pass


class HeaderUnsupported(HeaderError):
    api_code = "UnsupportedOperation"
    errno = errno.EOPNOTSUPP


class KeyMismatch(HeaderError):
    errno = errno.EKEYREJECTED


class KmsError(EbscryptError):
    """KMS refused or did not answer.

    ``kms_code`` and ``kms_text`` are KMS's own ``__type`` and message where it answered, ``key_arn`` the key concerned
    where known, ``request_id`` what CloudTrail has of the call, ``retryable`` whether the same call may succeed later.
    """

    api_code = "CustomerKeyHasBeenRevoked"
    errno = errno.EKEYREJECTED
    retryable: ClassVar[bool] = False

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        kms_code: str | None = None,
        kms_text: str | None = None,
        key_arn: str | None = None,
        request_id: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.kms_code = kms_code
        self.kms_text = kms_text
        self.key_arn = key_arn
        self.request_id = request_id

    def record(self) -> dict[str, Any]:
        return super().record() | {
            "KmsCode": self.kms_code,
            "KmsText": self.kms_text,
            "KmsKeyId": self.key_arn,
            "RequestId": self.request_id,
        }


class KmsKeyUnusable(KmsError):
    errno = errno.EKEYREVOKED


class KmsKeyDisabled(KmsKeyUnusable):
    pass


class KmsKeyInvalidState(KmsKeyUnusable):
    pass


class KmsKeyNotFound(KmsError):
    errno = errno.ENOKEY


class KmsInvalidKeyUsage(KmsError):
    pass


class KmsAccessDenied(KmsError):
    errno = errno.EACCES


class KmsInvalidCiphertext(KmsError):
    pass


class KmsIncorrectKey(KmsError):
    pass


class KmsInvalidRequest(KmsError):
    api_code = "InvalidParameterValue"
    errno = errno.EINVAL


class KmsThrottled(KmsError):
    api_code = "RequestLimitExceeded"
    errno = errno.EAGAIN
    retryable = True


class KmsUnreachable(KmsError):
    api_code = "ServiceUnavailable"
    errno = errno.ETIMEDOUT
    retryable = True


class KmsBadAnswer(KmsError):
    api_code = "InternalError"
    errno = errno.EPROTO


class StoreError(EbscryptError):
    """A store of snapshots. ``retryable`` says whether the same request may succeed later."""

    retryable: ClassVar[bool] = False


class StoreUnreachable(StoreError):
    api_code = "ServiceUnavailable"
    errno = errno.ETIMEDOUT
    retryable = True


class StoreSlowDown(StoreError):
    api_code = "RequestLimitExceeded"
    errno = errno.EAGAIN
    retryable = True


class StoreAccessDenied(StoreError):
    api_code = "UnauthorizedOperation"
    errno = errno.EACCES


class StoreNotFound(StoreError):
    errno = errno.ENOENT


class StoreUnsupported(StoreError):
    api_code = "UnsupportedOperation"
    errno = errno.EOPNOTSUPP


class StoreFull(StoreError):
    api_code = "InsufficientVolumeCapacity"
    errno = errno.ENOSPC


class BlockMissing(StoreError):
    errno = errno.ENODATA


class BlockDamaged(StoreError):
    errno = errno.EBADMSG


class ManifestDamaged(StoreError):
    errno = errno.EBADMSG


class ManifestNotAuthentic(StoreError):
    errno = errno.EKEYREJECTED


class ManifestExists(StoreError):
    errno = errno.EEXIST


class TransferCancelled(StoreError):
    errno = errno.ECANCELED


class SweepLost(StoreError):
    errno = errno.ESTALE


class DaemonError(EbscryptError):
    api_code = "InternalError"


class ExportUnavailable(DaemonError):
    api_code = "UnsupportedOperation"
    errno = errno.EOPNOTSUPP


class DaemonLost(DaemonError):
    errno = errno.EPIPE


def _family(root: type[EbscryptError]) -> dict[str, type[EbscryptError]]:
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= _family(child)
    return found


def from_record(record: dict[str, Any]) -> EbscryptError:
    """The error that `EbscryptError.record` wrote, after a pipe or a socket; an unknown name gives the root class."""
    message, hint = str(record.get("Message", "unknown error")), record.get("Hint")
    kind = _family(EbscryptError).get(str(record.get("Error")), EbscryptError)
    if issubclass(kind, KmsError):
        return kind(
            message,
            hint=hint,
            kms_code=record.get("KmsCode"),
            kms_text=record.get("KmsText"),
            key_arn=record.get("KmsKeyId"),
            request_id=record.get("RequestId"),
        )
    return kind(message, hint=hint)
