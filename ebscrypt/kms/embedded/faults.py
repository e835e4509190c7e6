"""The errors that a client of the embedded KMS sees: AWS's types and, where one is known, AWS's text.

Sources: facts §5.3, §5.4; recordings of AWS of 2023 and 2024, which LocalStack publishes with its tests.

The HTTP status is 400 for everything that is the client's doing, which is what AWS sends over the wire (facts §5.3).
"""

from __future__ import annotations


class KmsFault(Exception):
    """An answer that is an error: ``kind`` becomes ``__type``."""

    def __init__(self, kind: str, message: str = "", *, status: int = 400) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.status = status

    def body(self) -> dict[str, str]:
        """The JSON body; AWS leaves out a message that is empty."""
        return {"__type": self.kind} | ({"message": self.message} if self.message else {})


def validation(message: str) -> KmsFault:
    return KmsFault("ValidationException", message)


def unsupported(message: str) -> KmsFault:
    return KmsFault("UnsupportedOperationException", message)


def key_not_found(arn: str) -> KmsFault:
    return KmsFault("NotFoundException", f"Key '{arn}' does not exist")


def alias_not_found(arn: str) -> KmsFault:
    return KmsFault("NotFoundException", f"Alias {arn} is not found.")


def invalid_ciphertext() -> KmsFault:
    """One fault for wrong context, damaged and foreign blobs: telling which would help whoever is guessing."""
    return KmsFault("InvalidCiphertextException")


def incorrect_key() -> KmsFault:
    return KmsFault(
        "IncorrectKeyException", "The key ID in the request does not identify a CMK that can perform this operation."
    )


def internal() -> KmsFault:
    return KmsFault("KMSInternalException", "The embedded KMS cannot answer; its log says why.", status=500)


def dependency_timeout() -> KmsFault:
    return KmsFault("DependencyTimeoutException", "The store of the embedded KMS is busy.", status=503)
