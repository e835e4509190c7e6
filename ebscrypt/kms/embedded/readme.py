"""The README that the embedded KMS puts beside its files: in plain words, for whoever finds them."""

from typing import Final

README: Final = """\
This directory is the embedded KMS of ebscrypt: the keys that wrap the data keys of encrypted volumes.

  keys.db (and -wal, -shm)   KMS keys, their material sealed by AES-256-GCM under the root key; aliases, grants, tags
  root.key                   the root key, in clear, unless ebscrypt was told to keep it elsewhere
  root.cred                  or: the root key as an encrypted credential of systemd, which only this machine opens

`ebscrypt kms root-key` says where the root key is and what that means, `ebscrypt kms export FILE` makes a backup under
a passphrase that depends on no root key. Without the root key and without such a backup, or without keys.db, every
volume under these keys is lost for ever. Whoever has root.key and keys.db can open every such volume that comes into
their hands.

What this protects against
  - a volume, disk or snapshot that is lost, stolen, copied or thrown away without this directory
  - use of a key that was disabled or deleted: a volume then cannot be attached again
  - a wrapped key moved to another volume, or changed: it does not open
  - keys.db without the root key (kept as a systemd credential, for example): it reveals ids, states, descriptions and
    aliases, but no key

What this does not protect against
  - anyone who can read this directory as its owner or as root, on this machine or in a backup that has root.key too
  - an old root key that somebody has: `ebscrypt kms rotate-root` makes it worthless, but not for an old keys.db
  - root on this machine while a volume is attached
  - an old copy of this directory: a key deleted here is still in it
  - anyone who can write here: that does not reveal keys, but deletes them, enables disabled ones, brings old ones back

If that is not enough, let ebscrypt use AWS KMS (kms.endpoint = "aws"), or keep the root key out of this directory
(`ebscrypt kms root-key seal`, kms.root_key, or a systemd credential called ebscrypt-kms-root).
"""
