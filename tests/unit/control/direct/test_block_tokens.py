"""Tokens: what they are bound to, and that nobody else can make them."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ebscrypt.control.block_tokens import LIFETIME, Listing, Tokens, new_listing
from ebscrypt.errors import InvalidBlockRequest, NotPermitted

SNAPSHOT, OTHER = "snap-0123456789abcdef0", "snap-0123456789abcdef1"
NAME = bytes(range(32))
FORM = re.compile(r"[A-Za-z0-9+/=]{1,256}")


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "direct.key")


def reason_of(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidBlockRequest) as caught:
        call()
    return caught.value.reason


def test_a_token_has_ebs_form_and_opens_to_its_block(tokens: Tokens, tmp_path: Path) -> None:
    """At most 256 characters of EBS's alphabet; good in another process, too, which has the same key."""
    token = tokens.block(new_listing(), SNAPSHOT, (1 << 27) - 1, NAME)
    page = tokens.page(new_listing(), OTHER, SNAPSHOT, 1 << 27)
    assert FORM.fullmatch(token)
    assert FORM.fullmatch(page)
    again = Tokens(tmp_path / "direct.key")
    assert again.open_block(token, SNAPSHOT, (1 << 27) - 1) == NAME
    assert again.open_page(page, OTHER, SNAPSHOT) == 1 << 27
    assert (tmp_path / "direct.key").stat().st_mode & 0o777 == 0o600


def test_two_listings_have_no_token_in_common(tokens: Tokens) -> None:
    """Even at the same moment."""
    first, second = new_listing(), new_listing()
    assert tokens.block(first, SNAPSHOT, 0, NAME) != tokens.block(
        second._replace(expiry=first.expiry), SNAPSHOT, 0, NAME
    )


def test_a_block_token_is_bound_to_snapshot_and_block(tokens: Tokens) -> None:
    """One of another snapshot or block opens nothing."""
    token = tokens.block(new_listing(), SNAPSHOT, 5, NAME)
    assert reason_of(lambda: tokens.open_block(token, OTHER, 5)) == "INVALID_BLOCK_TOKEN"
    assert reason_of(lambda: tokens.open_block(token, SNAPSHOT, 6)) == "INVALID_BLOCK_TOKEN"


@pytest.mark.parametrize(("first", "second"), [(None, SNAPSHOT), (SNAPSHOT, OTHER), (OTHER, OTHER)])
def test_a_page_token_is_bound_to_its_listing(tokens: Tokens, first: str | None, second: str) -> None:
    """One of a listing goes on with no other."""
    page = tokens.page(new_listing(), OTHER, SNAPSHOT, 5)
    assert reason_of(lambda: tokens.open_page(page, first, second)) == "INVALID_PAGE_TOKEN"


def test_one_kind_of_token_is_not_the_other(tokens: Tokens) -> None:
    """A page's opens no block, a block's no page."""
    listing = new_listing()
    page = tokens.page(listing, None, SNAPSHOT, 5)
    block = tokens.block(listing, SNAPSHOT, 5, NAME)
    assert reason_of(lambda: tokens.open_block(page, SNAPSHOT, 5)) == "INVALID_BLOCK_TOKEN"
    assert reason_of(lambda: tokens.open_page(block, None, SNAPSHOT)) == "INVALID_PAGE_TOKEN"


def test_an_expired_token_is_refused(tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """Good until the moment that the listing told, and no longer."""
    listing = new_listing()
    block, page = tokens.block(listing, SNAPSHOT, 5, NAME), tokens.page(listing, None, SNAPSHOT, 5)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + LIFETIME - 60)
    tokens.open_block(block, SNAPSHOT, 5)
    monkeypatch.setattr(time, "time", lambda: now + LIFETIME + 1)
    assert reason_of(lambda: tokens.open_block(block, SNAPSHOT, 5)) == "INVALID_BLOCK_TOKEN"
    assert reason_of(lambda: tokens.open_page(page, None, SNAPSHOT)) == "INVALID_PAGE_TOKEN"


def test_no_changed_bit_is_taken(tokens: Tokens) -> None:
    """A flip anywhere, expiry and tag included, makes it none of ours."""
    raw = base64.b64decode(tokens.block(new_listing(), SNAPSHOT, 5, NAME))
    for bit in range(len(raw) * 8):
        forged = bytearray(raw)
        forged[bit // 8] ^= 1 << bit % 8
        token = base64.b64encode(forged).decode()
        assert reason_of(lambda token=token: tokens.open_block(token, SNAPSHOT, 5)) == "INVALID_BLOCK_TOKEN"  # type: ignore[misc]


@pytest.mark.parametrize("text", ["", "=", "A", "AAAA", "A" * 256, "é" * 8, "a b", "-_-_"])
def test_what_was_never_a_token_is_refused(tokens: Tokens, text: str) -> None:
    """Whatever a client sends."""
    assert reason_of(lambda: tokens.open_block(text, SNAPSHOT, 5)) == "INVALID_BLOCK_TOKEN"
    assert reason_of(lambda: tokens.open_page(text, None, SNAPSHOT)) == "INVALID_PAGE_TOKEN"


def test_a_token_of_another_installation_is_refused(tokens: Tokens, tmp_path: Path) -> None:
    """Its key is another one."""
    foreign = Tokens(tmp_path / "foreign.key").block(Listing(bytes(8), new_listing().expiry), SNAPSHOT, 5, NAME)
    assert reason_of(lambda: tokens.open_block(foreign, SNAPSHOT, 5)) == "INVALID_BLOCK_TOKEN"


def test_a_damaged_key_is_told(tmp_path: Path) -> None:
    """Rather than tokens be made with an empty one."""
    (tmp_path / "direct.key").touch()
    with pytest.raises(NotPermitted, match="0 bytes"):
        Tokens(tmp_path / "direct.key")
