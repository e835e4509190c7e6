"""Which volumes can have an ``on_key_unusable`` at all: the one rule that `create` and `modify` share."""

from __future__ import annotations

from ebscrypt.errors import MissingDependency
from ebscrypt.model import OnKeyUnusable


def allowed_mode(mode: OnKeyUnusable, *, encrypted: bool) -> OnKeyUnusable:
    """``mode``, if a volume can have it. Raises `MissingDependency` for a plain one that is to be watched."""
    if not encrypted and mode is not OnKeyUnusable.IGNORE:
        raise MissingDependency(
            f"on-key-unusable {mode} needs an encrypted volume: a plain one has no KMS key that could become unusable",
            hint="leave it out, or encrypt the volume",
        )
    return mode
