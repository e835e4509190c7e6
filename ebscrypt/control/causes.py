"""Why something failed, in the words that EBS's events use for it (facts §3.2): KMS's own text about the key."""

from __future__ import annotations

import re
from typing import Final

from ebscrypt.errors import EbscryptError, KmsError

_KEY_STATE: Final = re.compile(
    r"(?P<arn>arn:[\w-]+:kms:[\w-]+:\d{12}:key/[\w-]+)?.*?"
    r"\b(?P<state>is (?:disabled|pending (?:replica )?deletion|pending import|unavailable|creating|updating))\b"
)
"""The texts of facts §5.4: ``KEYARN is disabled.`` and the like, wherever a message quotes one."""


def event_cause(error: BaseException) -> str:
    """The ``cause`` of an event: ``KEYARN is disabled.`` where the key's state is to blame, else the message."""
    if not isinstance(error, EbscryptError):
        return "The operation was interrupted."
    if isinstance(error, KmsError) and (match := _KEY_STATE.search(error.message)):
        arn = match["arn"] or error.key_arn
        if arn is not None:
            return f"{arn} {match['state']}."
    return f"{error.message}."


def event_key_arn(error: BaseException) -> str | None:
    """The KMS key that an error is about."""
    return error.key_arn if isinstance(error, KmsError) else None
