"""The types of resources that a stack can have, by CloudFormation's names."""

from __future__ import annotations

from typing import Final

from ebscrypt.control.stacks.kinds.alias import AliasKind
from ebscrypt.control.stacks.kinds.attachment import AttachmentKind
from ebscrypt.control.stacks.kinds.key import KeyKind
from ebscrypt.control.stacks.kinds.kind import Kind
from ebscrypt.control.stacks.kinds.volume import VolumeKind

KINDS: Final[dict[str, Kind]] = {kind.name: kind for kind in (VolumeKind(), AttachmentKind(), KeyKind(), AliasKind())}
