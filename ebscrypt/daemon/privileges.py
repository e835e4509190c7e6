"""Whom the daemon becomes once nothing needs root any more.

Root becomes ``attach.user``, or ``nobody`` where there is no such account. The C library changes the user in every
thread of a process, and with root's user id a thread loses its capabilities: so this can wait until everything is set
up. In a user namespace that has no other user, uid 0 can only give up its capabilities. Those belong to each thread,
and must be gone before the second one is started.
"""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import NamedTuple

from ebscrypt.core import drop_privileges


class Identity(NamedTuple):
    """A user to become; ``early`` says that it must be done while there is one thread only."""

    uid: int
    gid: int
    early: bool


def target(user: str) -> Identity:
    """Whom this process should become, given the setting ``attach.user``. Who is not root stays who they are."""
    uid, gid = os.geteuid(), os.getegid()
    if uid != 0:
        return Identity(uid, gid, early=False)
    for name in (user, "nobody"):
        try:
            account = pwd.getpwnam(name)
        except KeyError:
            continue
        if _is_mapped("uid_map", account.pw_uid) and _is_mapped("gid_map", account.pw_gid):
            return Identity(account.pw_uid, account.pw_gid, early=False)
    return Identity(uid, gid, early=True)


def become(identity: Identity) -> None:
    """Become ``identity``, without capabilities, supplementary groups and the way back. Raises OSError.

    The runtime directory stays root's, so whoever takes over the daemon can neither replace a record that control
    trusts nor the sockets, which are open already.
    """
    drop_privileges(identity.uid, identity.gid)


def _is_mapped(table: str, number: int) -> bool:
    """Whether a user or group id exists in this user namespace (user_namespaces(7))."""
    for line in (Path("/proc/self") / table).read_text().splitlines():
        first, _outside, count = map(int, line.split())
        if first <= number < first + count:
            return True
    return False
