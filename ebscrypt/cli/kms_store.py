"""Commands on the embedded KMS itself: `root-key`, `rotate-root`, `export` and `import`; `serve` is in kms_serve.py."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.cli import arguments, output
from ebscrypt.cli.kms_words import content, shortened
from ebscrypt.errors import InvalidCombination, InvalidParameter, MissingDependency, NotPermitted, StateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ebscrypt.config import Settings
    from ebscrypt.control.site import Site
    from ebscrypt.kms.embedded.root_change import Changed, Sealing

_LONGEST_PASSPHRASE: Final = 64 * 1024
_WITH_KEYS: Final = ("tpm2", "host", "host+tpm2", "auto")
_ACTIONS: Final = ("show", "seal", "unseal")
_PROTECTS: Final = {
    "file": "a file in clear, for its owner only. It keeps volumes, disks and snapshots that get lost without it. "
    "Whoever reads this machine's disk, or a backup with both this file and keys.db, can open every volume that he has",
    "credential": "systemd opened it for this process; what it opens with is systemd's business",
    "host": "it opens with this system's host key, /var/lib/systemd/credential.secret: a copy of the KMS's directory "
    "is of no use elsewhere, a copy of the whole disk is",
    "tpm2": "it opens in this machine's TPM only, while the firmware measures what it did at sealing (--tpm2-pcrs; "
    "systemd 252 takes PCR 7, Secure Boot's): stolen disks and backups are of no use. Nor are they to you when TPM or "
    "mainboard are gone or Secure Boot's keys change: keep an `ebscrypt kms export`",
}


def configure(add: Callable[..., Any]) -> None:
    root_key = add("root-key", _root_key, "the key over all keys of the embedded KMS: where it is, and what that means")
    root_key.add_argument(
        "action",
        nargs="?",
        choices=_ACTIONS,
        default="show",
        help="show where it is; seal it into an encrypted credential of systemd; unseal it into a file again (show)",
    )
    _add_sealing(root_key)
    rotate = add("rotate-root", _rotate_root, "a new root key; everything under the old one is sealed anew")
    _add_sealing(rotate)
    export = add("export", _export, "write all keys into a backup file, under a passphrase")
    export.add_argument("file", metavar="FILE", help="where to; - is stdout")
    export.add_argument("--force", action="store_true", help="overwrite a file that is there")
    restore = add("import", _import, "take the keys of a backup in; what is here stays")
    restore.add_argument("file", metavar="FILE", help="what export has written; - is stdin")
    restore.add_argument(
        "--restore-deleted", action="store_true", help="bring back keys and key material that were deleted here since"
    )
    for command in (export, restore):
        command.add_argument(
            "--passphrase-file", metavar="FILE", help="its first line is the passphrase; without, the terminal is asked"
        )


def _add_sealing(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--with-key", choices=_WITH_KEYS, help="what a sealed one opens with: auto takes a TPM if there is one"
    )
    parser.add_argument("--tpm2-pcrs", metavar="PCRS", help="registers of the TPM that must not change: 7, or 0+7")


def _root_key(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.kms.embedded import root_change  # noqa: PLC0415 - not for --help

    settings = embedded(site)
    if parsed.action != "seal" and (parsed.with_key or parsed.tpm2_pcrs):
        raise InvalidCombination(f"{parsed.action} excludes --with-key and --tpm2-pcrs: they say how to seal")
    if parsed.action == "show":
        _show_root_key(settings, parsed)
        return
    if parsed.action == "unseal":
        changed = root_change.unseal(settings)
        _print_changed(changed, parsed)
        arguments.say("the root key is in clear now: `ebscrypt kms root-key` says what that means", parsed)
    else:
        changed = root_change.seal(settings, _sealing(parsed))
        _print_changed(changed, parsed)
        _say_drop_in(changed, parsed)


def _show_root_key(settings: Settings, parsed: argparse.Namespace) -> None:
    from ebscrypt.kms.embedded import root_change  # noqa: PLC0415 - not for --help

    status = root_change.status(settings)
    if parsed.output == "json":
        output.print_json(
            {
                "RootKey": str(status.place.path),
                "Kind": status.place.kind,
                "SealedWith": status.sealed_with,
                "Fingerprint": status.fingerprint,
                "Copies": [str(path) for path in status.copies],
            }
        )
        return
    means = _PROTECTS.get((status.sealed_with or "").split("+")[-1] or status.place.kind.value)
    output.print_fields(
        {
            "root key": str(status.place.path),
            "kept as": status.place.kind.value + (f", opens with {status.sealed_with}" if status.sealed_with else ""),
            "means": means,
            "copies": ", ".join(map(str, status.copies)) or None,
            "fingerprint": status.fingerprint,
        }
    )


def _rotate_root(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.kms.embedded import root_change  # noqa: PLC0415 - not for --help

    changed = root_change.rotate(embedded(site), _sealing(parsed))
    _print_changed(changed, parsed)
    arguments.say(
        f"secrets sealed anew: {changed.resealed}; older copies of keys.db need the older root key: make a new backup",
        parsed,
    )


def _sealing(parsed: argparse.Namespace) -> Sealing:
    from ebscrypt.kms.embedded.root_change import Sealing  # noqa: PLC0415 - not for --help

    pcrs = parsed.tpm2_pcrs
    if pcrs is not None and not all(part.isdecimal() and int(part) < 24 for part in pcrs[:80].split("+")):
        raise InvalidParameter(f"--tpm2-pcrs {shortened(pcrs)} is no list of registers", hint="0 to 23, as in 0+7")
    return Sealing(parsed.with_key, pcrs)


def _print_changed(changed: Changed, parsed: argparse.Namespace) -> None:
    from ebscrypt.kms.embedded.root_key import is_sealed_name  # noqa: PLC0415 - not for --help

    for note in changed.notes:
        arguments.say(f"systemd-creds: {note}", parsed, prefix="note: ")
    for path in changed.erased:
        doubt = (
            ""
            if is_sealed_name(path)
            else (
                "; flash, copy-on-write file systems and backups may have it still: "
                "`ebscrypt kms rotate-root` makes it worthless"
            )
        )
        arguments.say(f"{path} was overwritten and removed{doubt}", parsed)
    if parsed.output == "json":
        output.print_json({"RootKey": str(changed.place.path), "Fingerprint": changed.fingerprint})
    else:
        print(changed.place.path)


def _say_drop_in(changed: Changed, parsed: argparse.Namespace) -> None:
    arguments.say(
        "commands open it by systemd-creds; for units, put this into "
        "/etc/systemd/system/ebscrypt@.service.d/root-key.conf:\n"
        f"[Service]\nLoadCredentialEncrypted=ebscrypt-kms-root:{changed.place.path}\n"
        "and keep an `ebscrypt kms export`: without what it opens with, every volume under these keys is lost",
        parsed,
    )


def _export(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt import durable  # noqa: PLC0415 - not for --help
    from ebscrypt.kms.embedded import backup, root_change  # noqa: PLC0415 - the same

    settings, path = embedded(site), Path(parsed.file)
    if parsed.file == "-" and sys.stdout.isatty():
        raise InvalidParameter("a backup is no text for a terminal", hint="name a FILE, or send stdout elsewhere")
    if parsed.file != "-" and path.exists() and not parsed.force:
        raise StateError(f"{path} is there already", hint="--force overwrites it")
    with contextlib.closing(root_change.opened(settings)) as store:
        exported = backup.export(store, _passphrase(parsed, new=True))
    if parsed.file == "-":
        sys.stdout.buffer.write(exported.file)
        sys.stdout.buffer.flush()
    else:
        try:
            if not parsed.force and not durable.create_file(path, exported.file, 0o600):
                raise StateError(f"{path} is there already", hint="--force overwrites it")
            if parsed.force:
                durable.write_file(path, exported.file, 0o600)
        except OSError as error:
            raise NotPermitted(f"cannot write {shortened(parsed.file)}: {error.strerror}") from None
    what = {"Keys": exported.keys, "Aliases": exported.aliases}
    if parsed.output == "json" and parsed.file != "-":
        output.print_json({"File": parsed.file} | what)
    else:
        arguments.say(f"keys: {exported.keys}, aliases: {exported.aliases}; keep the passphrase elsewhere", parsed)


def _import(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.kms.embedded import backup, backup_file  # noqa: PLC0415 - not for --help
    from ebscrypt.kms.embedded.store import Store  # noqa: PLC0415 - the same

    settings = embedded(site)
    if parsed.file == "-" and not parsed.passphrase_file:
        raise MissingDependency("a backup from stdin needs --passphrase-file", hint="or name a FILE")
    file = content(parsed.file, "FILE", backup_file.LARGEST)
    passphrase = _passphrase(parsed, new=False)
    with contextlib.closing(Store(settings)) as store:
        done = backup.restore(store, file, passphrase, restore_deleted=parsed.restore_deleted)
    site.notes += done.notes
    if parsed.output == "json":
        output.print_json(
            {
                "Added": done.added,
                "Restored": done.restored,
                "Unchanged": done.unchanged,
                "LeftOut": done.left_out,
            }
        )
    else:
        counts = (len(done.added), len(done.restored), len(done.unchanged), len(done.left_out))
        arguments.say("keys added: {}, brought back: {}, here already: {}, left out: {}".format(*counts), parsed)


def _passphrase(parsed: argparse.Namespace, *, new: bool) -> bytes:
    """The passphrase, from the file's first line or the terminal; a new one is asked for twice."""
    if parsed.passphrase_file is not None:
        lines = content(parsed.passphrase_file, "--passphrase-file", _LONGEST_PASSPHRASE).split(b"\n", 1)
        passphrase = lines[0].removesuffix(b"\r")
    else:
        if not sys.stdin.isatty():
            raise MissingDependency(
                "there is no terminal to ask for the passphrase", hint="--passphrase-file FILE, whose first line it is"
            )
        passphrase = _asked("passphrase: ")
        if new and passphrase != _asked("the same again: "):
            raise InvalidParameter("the two passphrases differ")
    if not passphrase:
        raise InvalidParameter("the passphrase is empty", hint="the backup would open for everyone")
    return passphrase


def _asked(prompt: str) -> bytes:
    import getpass  # noqa: PLC0415 - rarely needed

    return getpass.getpass(prompt, stream=sys.stderr).encode()


def embedded(site: Site) -> Settings:
    """The settings, if it is the embedded KMS that they name."""
    if site.settings.kms.endpoint != "embedded":
        raise InvalidParameter(
            f"kms.endpoint is {site.settings.kms.endpoint}: this concerns the embedded KMS only",
            hint="set EBSCRYPT_KMS=embedded for this command",
        )
    return site.settings
