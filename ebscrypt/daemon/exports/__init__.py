"""How an attachment is reached: ``nbd``, ``fuse`` (with a loop device as root) or ``socket``.

Two sides meet here. The daemon *starts* an export while it still has its privileges, and serves it afterwards without
any (base.py, start.py, and a file for each kind). Whoever has the privileges of the attachment's owner, as a rule root
running `ebscrypt detach`, *takes down* what is left in the kernel: the functions below work from an `Attachment` alone,
whether its daemon lives or not.

    netlink, loop, mount    the kernel's interfaces, one each
    base                    what every export is
    nbd, fuse, socket       the exports
    start                   which one, and what to try next
    teardown                flush, grow and take down, from outside
"""

from ebscrypt.daemon.exports.teardown import flush, grow, is_gone, teardown

__all__ = ["flush", "grow", "is_gone", "teardown"]
