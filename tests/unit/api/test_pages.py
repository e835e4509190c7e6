"""Pages: together they are the listing, whatever comes and goes meanwhile, and a token fits its own listing only."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebscrypt.api import pages
from ebscrypt.api.errors import ApiError


def page(items: list[str], **request: Any) -> tuple[list[str], str | None]:
    return pages.page("DescribeVolumes", request, items, str)


@given(items=st.sets(st.text("abc", max_size=4)), size=st.integers(5, 1500))
def test_the_pages_together_are_the_listing(items: set[str], size: int) -> None:
    """Each item once, in order, on pages of the size that was asked for."""
    found, token = page(list(items), MaxResults=size)
    while token:
        assert len(found) % size == 0
        more, token = page(list(items), MaxResults=size, NextToken=token)
        assert more
        found += more
    assert found == sorted(items)


def test_what_comes_and_goes_moves_no_other_item() -> None:
    """The last item shown may be gone, and new ones before it there: the next page goes on behind it."""
    items = [f"vol-{number:02}" for number in range(20)]
    shown, token = page(items, MaxResults=5)
    rest, _ = page(["vol-000", *items[5:]], NextToken=token)
    assert (shown, rest) == (items[:5], items[5:])


def test_a_token_is_for_its_own_listing() -> None:
    """With other filters it is refused; another page size is no other listing."""
    items = [f"vol-{number:02}" for number in range(20)]
    _, token = page(items, MaxResults=5, VolumeIds=["a"])
    page(items, MaxResults=7, VolumeIds=["a"], NextToken=token)
    with pytest.raises(ApiError) as refused:
        page(items, MaxResults=5, VolumeIds=["b"], NextToken=token)
    assert refused.value.code == "InvalidNextToken"


@given(
    token=st.text(min_size=1, max_size=30)
    | st.binary(min_size=1, max_size=20).map(lambda raw: base64.urlsafe_b64encode(raw).decode())
)
def test_no_text_makes_anything_but_a_refusal(token: str) -> None:
    """Whatever is sent for a token, the answer is InvalidNextToken."""
    with pytest.raises(ApiError) as refused:
        page(["a"], NextToken=token)
    assert refused.value.code == "InvalidNextToken"


@pytest.mark.parametrize("limit", [4, 0, -1])
def test_a_page_has_five_items_at_least(limit: int) -> None:
    """EC2's smallest page."""
    with pytest.raises(ApiError) as refused:
        page(["a"], MaxResults=limit)
    assert refused.value.code == "InvalidParameterValue"
