"""EventBridge's event patterns: which events a rule wants.

    >>> wanted = Pattern.compile('{"detail": {"event": ["attachVolume"], "cause": [{"suffix": "is disabled."}]}}')
    >>> wanted.matches({"detail": {"event": "attachVolume", "cause": "arn:aws:kms:… is disabled."}})
    True

``grammar`` reads the text and refuses what EventBridge would refuse, ``operators`` reads what stands in one field's
list, ``comparisons`` says yes or no to one value, ``matching`` walks an event. Where AWS's guide and AWS's own engine
differ, docs/decisions/0003-event-patterns.md says what was decided.
"""

from ebscrypt.events.patterns.grammar import MAX_COMBINATIONS, MAX_DEPTH, MAX_FIELDS, MAX_LENGTH
from ebscrypt.events.patterns.pattern import Pattern

__all__ = ["MAX_COMBINATIONS", "MAX_DEPTH", "MAX_FIELDS", "MAX_LENGTH", "Pattern"]
