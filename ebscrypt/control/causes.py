"""Why something failed, in the words that EBS's events use for it (facts §3.2): KMS's own text about the key."""

from __future__ import annotations

from ebscrypt.errors import EbscryptError, KmsError


def event_cause(error: BaseException) -> str:
    """The ``cause`` of an event: what KMS said where it did (``KEYARN is disabled.``), else our own message."""
    if not isinstance(error, EbscryptError):
        return "The operation was interrupted."
    text = error.message
    if isinstance(error, KmsError) and error.kms_text:
        text = error.kms_text
    return text if text.endswith((".", "…")) else f"{text}."


def failure_text(error: BaseException, interrupted: str) -> str:
    """The reason to keep with a volume, for `show`; ``interrupted`` where it was no error of ours."""
    return error.message if isinstance(error, EbscryptError) else interrupted
