"""The words of the control socket: a JSON object a line each way, strictly typed on both sides.

    → {"op": "grow", "parameters": {"size": 21474836480}}
    ← {"result": {"size": 21474836480}}
    → {"op": "shutdown"}
    ← {"error": {"Error": "VolumeInUse", "Message": "…", …}}

Operations:

    status                  {"attachment": Attachment, "connections": n, "state": "serving" | "ended" | "stopping",
                            "access": "read-write" | "read-only" | "suspended"}
    statistics              {"read": {"operations": n, "bytes": n, "errors": n, "latency": [40 counts]}, "write": …}
    flush                   {} when everything acknowledged so far is durable
    grow {size}             {"size": bytes} when the header has it and the device ends there
    set_access {access}     {"access": …} when no request goes on that this access (read-write, read-only) forbids
    suspend                 {"access": "suspended", "flushed": bool} when requests wait, and neither this process nor
                            systemd's store has the data key; "flushed": everything acknowledged is durable
    resume + descriptor     {"access": …} as before `suspend`, with the data key in the secret memory that the
                            descriptor (SCM_RIGHTS) leads to, which the daemon takes over
    abort                   {} when the requests that wait fail, and all to come will: then only `shutdown` is left
    tracking                {"base": snapshot since which changes are noted, "changed": blocks, "snapshot_id": the one
                            that is under way}; each may be null
    snapshot_begin {snapshot_id, since} + descriptor
                            {"size": bytes, "base": …} when the instant is fixed. The descriptor is the spool, an empty
                            file that takes what is overwritten. "base" is ``since`` where changes since are known, then
                            only these are in it, else empty. One at a time (SnapshotLimit)
    snapshot_status {snapshot_id}
                            {"size": bytes, "base": …, "done": blocks, "copies": blocks that had to be copied}
    snapshot_memory {snapshot_id} + descriptor
                            {"slots": n} of 512 KiB in the memfd, sealed against shrinking, into which blocks are read
    snapshot_blocks {snapshot_id, index}
                            {"ranges": [[first, count], …], "next": index or null}: what is to be stored
    snapshot_read {snapshot_id, slot, indexes}
                            {"digests": [SHA-256 in hexadecimal, null for zeros, …]} when the memory has them
    snapshot_done {snapshot_id, indexes}
                            {"done": blocks} that need not be kept any more, and cannot be read again
    snapshot_commit {snapshot_id}
                            {} when changes since this snapshot count. What is not done by then was holes
    snapshot_abort {snapshot_id}
                            {} when it is given up, or was not under way
    fill_begin + descriptor {"left": n} when the memory behind the descriptor (a memfd that cannot shrink) is shared;
                            refused (StateError) unless blocks of the volume are still to come
    fill {supply, offset, length, fail, settle, wait, after}
                            {"wanted": [blocks], "missing": [blocks], "left": n}: the block ``supply`` has the
                            ``length`` bytes at ``offset`` of the shared memory, and zeros behind; the block ``fail``
                            cannot be had; ``settle`` makes durable what came; ``wait`` for so many seconds until a
                            block is wanted; ``missing`` are some from ``after`` on; n are not durable yet
    shutdown {force}        {} when all is durable and the keys are wiped; the process ends right after. Without force
                            it is refused (VolumeInUse) while a client is connected or the file is open
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

MAX_REQUEST: Final = 4096
"""Bytes of a request line: the longest one that makes sense has under a hundred."""
MAX_ANSWER: Final = 1 << 20
"""Bytes of an answer line: a few kilobytes in practice, bounded all the same."""


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    op: str
    parameters: dict[str, Any] = {}


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """Exactly one of the two is set; an empty result is an empty object."""

    result: dict[str, Any] | None = None
    error: dict[str, Any] | None = None
