"""Bad input to `ebscrypt kms`: refused with the name of what is wrong, shortly, with the next thing to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.cli.kms_table import OPERATIONS
from ebscrypt.cli.kms_words import KeyArgument

Run = Callable[..., Any]
LONG = "x" * 10_000
NO_KEYS = (LONG, "arn:aws:kms:nowhere", "arn:aws:kms:us-east-1:0:key/1", "", "key with blanks", "\x00", "alias/ä")
WITH_KEY = [one.name for one in OPERATIONS if one.key is not KeyArgument.NONE]
REST = {
    "update-key-description": ["--description", "x"],
    "create-grant": ["--grantee-principal", "arn:aws:iam::000000000000:root", "--operations", "Decrypt"],
    "revoke-grant": ["--grant-id", "0" * 64],
    "put-key-policy": ["--policy", "{}"],
    "tag-resource": ["--tags", "a=b"],
    "untag-resource": ["--tag-keys", "a"],
}


@pytest.mark.parametrize("word", [*WITH_KEY, "import-key-material"])
def test_what_is_no_key(word: str, run: Run) -> None:
    """Every command that takes a KEY refuses what cannot be one, by that name, and quotes little of it."""
    for given in NO_KEYS if word == "describe-key" else NO_KEYS[:2]:
        for words, name in (([given], "KEY"), (["--key-id", given], "--key-id")):
            ran = run("kms", word, *words, *REST.get(word, []))
            assert ran.status == 2, (given[:20], ran)
            assert f"error: {name} " in ran.err
            assert len(ran.err) < 500


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("describe-key",), "name one KEY"),
        (("create-key", "--tags", "a"), "--tags 'a' has no ="),
        (("create-key", "--tags", "a=b", "a=c"), "--tags has 'a' twice"),
        (("create-key", "--tags", LONG), "--tags 'xxx"),
        (("create-key", "--policy", "/nonexistent"), "--policy: cannot read '/nonexistent': No such file"),
        (("create-key", "--policy", "file:///nonexistent"), "--policy: cannot read"),
        (("create-key", "--policy", "/proc/self/mem"), "--policy: cannot read"),
        (("create-key", "--policy", "/"), "--policy: cannot read '/': Is a directory"),
        (("create-key", "--policy", LONG), "--policy: cannot read 'xxx"),
        (("create-key", "--policy", "a\x00b"), "--policy: cannot read"),
        (("create-key", "--policy", "{"), "--policy is not JSON"),
        (("create-key", "--policy", "{" + '"a":[' * 100_000), "--policy is not JSON"),
        (("create-key", "--policy", "/dev/zero"), "--policy: '/dev/zero' has more than"),
        (("create-key", "--origin", "MOON"), "--origin"),
        (("create-key", "--key-spec", "MOON"), "keySpec"),
        (("create-alias", "--alias-name", LONG, "--target-key-id", "alias/x"), "--alias-name"),
        (("create-alias", "--alias-name", "alias/x", "--target-key-id", LONG), "--target-key-id"),
        (("create-alias", "--alias-name", "alias/x"), "--target-key-id"),
        (("delete-alias", "--alias-name", "arn:aws:x"), "--alias-name"),
        (("retire-grant",), "either a grant token, or a key ARN and a grant ID"),
        (("retire-grant", "--grant-token", LONG), "--grant-token 'xxx"),
        (("revoke-grant", "alias/aws/ebs", "--grant-id", LONG), "--grant-id 'xxx"),
        (("untag-resource", "alias/aws/ebs", "--tag-keys", "a", LONG), "--tag-keys 'xxx"),
        (("create-key", "--description", LONG), "--description 'xxx"),
        (("create-key", "--key-spec", LONG), "--key-spec 'xxx"),
        (("schedule-key-deletion", "alias/x", "--pending-window-in-days", "many"), "--pending-window-in-days"),
        (("create-grant", "alias/x", "--operations", "Decrypt"), "--grantee-principal"),
        (("list-retirable-grants", "--retiring-principal", LONG), "--retiring-principal 'xxx"),
        (("import-key-material", "alias/aws/ebs"), "--key-material"),
        (("import-key-material", "alias/aws/ebs", "--key-material", "/nonexistent"), "--key-material: cannot read"),
        (("import-key-material", "alias/aws/ebs", "--key-material", "/dev/zero"), "--key-material"),
        (("import-key-material", "alias/aws/ebs", "--key-material", "/etc/hostname"), "--key-material has"),
        (("import-key-material", "alias/aws/ebs", "--key-material", "x", "--import-token", "x"), "excludes"),
        (("import-key-material", "alias/aws/ebs", "--encrypted-key-material", "x"), "--import-token"),
        (("import-key-material", "alias/aws/ebs", "--key-material", "x", "--expires", LONG), "--valid-to 'xxx"),
        (("import-key-material", "alias/aws/ebs", "--key-material", "x", "--valid-to", "soon"), "--valid-to 'soon'"),
        (("root-key", "burn"), "action"),
        (("root-key", "seal", "--with-key", "moon"), "--with-key"),
        (("root-key", "seal", "--tpm2-pcrs", "24"), "--tpm2-pcrs '24'"),
        (("root-key", "seal", "--tpm2-pcrs", LONG), "--tpm2-pcrs 'xxx"),
        (("root-key", "seal", "--tpm2-pcrs", ""), "--tpm2-pcrs ''"),
        (("root-key", "unseal", "--with-key", "host"), "--with-key"),
        (("root-key", "--tpm2-pcrs", "7"), "show excludes"),
        (("rotate-root", "--with-key", "host"), "in clear"),
        (("export", "/nonexistent/x", "--passphrase-file", "/etc/hostname"), "/nonexistent/x"),
        (("export", "x", "--passphrase-file", "/nonexistent"), "--passphrase-file: cannot read"),
        (("export", "x", "--passphrase-file", "/dev/null"), "the passphrase is empty"),
        (("export", "x", "--passphrase-file", "/dev/zero"), "--passphrase-file: '/dev/zero' has more than"),
        (("export", "x"), "no terminal"),
        (("import", "/nonexistent", "--passphrase-file", "/etc/hostname"), "FILE: cannot read"),
        (("import", "/etc/hostname", "--passphrase-file", "/etc/hostname"), "no backup of an embedded KMS"),
        (("import", "/etc/hostname"), "no terminal"),
        (("import", "-"), "--passphrase-file"),
    ],
)
def test_what_is_wrong_is_named(
    words: tuple[str, ...], named: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One error line that names the option or field, a status of refusal, and no traceback."""
    monkeypatch.chdir(tmp_path)
    if "alias/aws/ebs" in words or words[0] in ("rotate-root", "export"):
        run("kms", "describe-key", "alias/aws/ebs")

    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        ran = run("kms", *words)

    assert ran.status in (1, 2), ran
    assert named in ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert len(ran.err) < 1000
    assert list(tmp_path.glob("x*")) == []


@pytest.mark.parametrize("words", [("root-key",), ("rotate-root",), ("export", "x"), ("import", "x"), ("serve",)])
def test_only_the_embedded_kms_has_a_store(words: tuple[str, ...], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With AWS as KMS these commands are refused; nothing is asked of AWS."""
    monkeypatch.setenv("EBSCRYPT_KMS", "aws")

    ran = run("kms", *words)

    assert ran.status == 2
    assert "embedded KMS only" in ran.err


@pytest.mark.parametrize(
    "words", [("root-key",), ("rotate-root",), ("export", "x", "--passphrase-file", "/etc/hostname")]
)
def test_where_there_is_no_store_none_is_made(words: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    """Commands about a store that nobody has made say so."""
    ran = run("kms", *words)

    assert ran.status == 1
    assert "no embedded KMS" in ran.err
    assert not (tmp_path / "state" / "kms").exists()
