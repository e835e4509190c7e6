"""Whom the daemon is to become: asked of the accounts and id maps that a test lays out."""

from __future__ import annotations

import os
import pwd
from types import SimpleNamespace

import pytest

from ebscrypt.daemon import privileges
from ebscrypt.daemon.privileges import Identity, target

ACCOUNTS = {"ebscrypt": SimpleNamespace(pw_uid=990, pw_gid=991), "nobody": SimpleNamespace(pw_uid=65534, pw_gid=65533)}


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root on a machine where all ids exist."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "getegid", lambda: 0)
    monkeypatch.setattr(privileges, "_is_mapped", lambda _table, _number: True)


def accounts(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(pwd, "getpwnam", {name: ACCOUNTS[name] for name in names}.__getitem__)


@pytest.mark.usefixtures("root")
def test_the_account_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root becomes the user that the settings name."""
    accounts(monkeypatch, "ebscrypt", "nobody")
    assert target("ebscrypt") == Identity(990, 991, early=False)


@pytest.mark.usefixtures("root")
def test_nobody_without_that_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no such account root becomes nobody, rather than stay."""
    accounts(monkeypatch, "nobody")
    assert target("ebscrypt") == Identity(65534, 65533, early=False)


@pytest.mark.usefixtures("root")
def test_early_without_any_account(monkeypatch: pytest.MonkeyPatch) -> None:
    """With nobody to become, the capabilities must go before the first thread."""
    accounts(monkeypatch)
    assert target("ebscrypt") == Identity(0, 0, early=True)


@pytest.mark.usefixtures("root")
def test_early_where_the_ids_do_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """An account whose ids are not mapped into the user namespace cannot be become."""
    accounts(monkeypatch, "ebscrypt", "nobody")
    monkeypatch.setattr(
        privileges, "_is_mapped", lambda table, number: (table, number) != ("gid_map", 991) and number < 1000
    )
    assert target("ebscrypt") == Identity(0, 0, early=True)


def test_a_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is not root has nobody else to become."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1001)
    assert target("ebscrypt") == Identity(1000, 1001, early=False)


def test_own_ids_are_mapped() -> None:
    """The real tables of this process have its own ids."""
    assert privileges._is_mapped("uid_map", os.geteuid())
    assert privileges._is_mapped("gid_map", os.getegid())
    assert not privileges._is_mapped("uid_map", 2**32)
