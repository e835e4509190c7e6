"""Tags and descriptions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.kms.embedded.speaking import Speaker


def tag(name: str, value: str = "") -> dict[str, str]:
    return {"TagKey": name, "TagValue": value}


def tags(kms: Speaker, key: str) -> dict[str, str]:
    """A key's tags."""
    return {entry["TagKey"]: entry["TagValue"] for entry in kms.say("ListResourceTags", KeyId=key)["Tags"]}


def test_tags_come_and_go(kms: Speaker) -> None:
    """Tags are set with the key and later, replaced by name, distinguished by case, and removed."""
    key, other = kms.key(Tags=[tag("team", "disks"), tag("Team")]), kms.key()

    kms.say("TagResource", KeyId=key, Tags=[tag("team", "storage"), tag("empty")])
    kms.say("UntagResource", KeyId=key, TagKeys=["Team", "never there"])

    assert tags(kms, key) == {"team": "storage", "empty": ""}
    assert tags(kms, other) == {}


@pytest.mark.parametrize(("limit", "sizes"), [(1, [1] * 5), (3, [3, 2]), (50, [5])])
def test_listed_in_pages(limit: int, sizes: list[int], kms: Speaker) -> None:
    """ListResourceTags comes in pages, complete and sorted."""
    key = kms.key(Tags=[tag(name) for name in "cabed"])

    pages: list[list[str]] = []
    more: dict[str, Any] = {}
    while len(pages) < 10:
        page = kms.say("ListResourceTags", KeyId=key, Limit=limit, **more)
        pages.append([entry["TagKey"] for entry in page["Tags"]])
        if not page["Truncated"]:
            break
        more = {"Marker": page["NextMarker"]}

    assert [len(page) for page in pages] == sizes
    assert [name for page in pages for name in page] == list("abcde")


@pytest.mark.parametrize(
    ("wanted", "kind"),
    [
        ([tag("a", "1"), tag("a", "2")], "TagException"),
        ([tag("aws:mine")], "TagException"),
        ([tag("AWS:mine")], "TagException"),
        ([tag("")], "ValidationException"),
        ([tag("a" * 129)], "ValidationException"),
        ([tag("a", "x" * 257)], "ValidationException"),
        ([tag(str(number)) for number in range(51)], "LimitExceededException"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.parametrize("operation", ["TagResource", "CreateKey"])
def test_tags_that_cannot_be(operation: str, wanted: list[dict[str, str]], kind: str, kms: Speaker) -> None:
    """Double, reserved, too long and too many tags are refused by their type; neither tag nor key is made."""
    key = kms.key(Tags=[tag("a", "0")])
    asked = {"KeyId": key} if operation == "TagResource" else {}

    assert kms.refusal(operation, Tags=wanted, **asked).kind == kind
    assert tags(kms, key) == {"a": "0"}
    assert len(kms.say("ListKeys")["Keys"]) == 1


def test_reserved_tags_are_not_removed(kms: Speaker) -> None:
    """Names that begin with aws: are refused when tags are removed, too."""
    assert kms.refusal("UntagResource", KeyId=kms.key(), TagKeys=["aws:mine"]).kind == "TagException"


def test_fifty_tags(kms: Speaker) -> None:
    """A key may have 50 tags; another value for one of them is no more."""
    key = kms.key(Tags=[tag(str(number)) for number in range(50)])

    kms.say("TagResource", KeyId=key, Tags=[tag("7", "other")])

    assert kms.refusal("TagResource", KeyId=key, Tags=[tag("x")]).kind == "LimitExceededException"
    assert tags(kms, key)["7"] == "other"


@pytest.mark.parametrize(
    ("operation", "asked"),
    [
        ("TagResource", {"Tags": [tag("a")]}),
        ("UntagResource", {"TagKeys": ["a"]}),
        ("UpdateKeyDescription", {"Description": "mine"}),
    ],
)
def test_managed_key(operation: str, asked: dict[str, Any], kms: Speaker) -> None:
    """The AWS managed key takes neither tags nor another description."""
    key = kms.say("DescribeKey", KeyId="alias/aws/ebs")["KeyMetadata"]["Arn"]

    assert kms.refusal(operation, KeyId=key, **asked).kind == "AccessDeniedException"


def test_description(kms: Speaker) -> None:
    """A description can be replaced, and be empty; 8192 characters is the most."""
    key = kms.key(Description="old")

    for text in ("new", "", "x" * 8192):
        kms.say("UpdateKeyDescription", KeyId=key, Description=text)
        assert kms.say("DescribeKey", KeyId=key)["KeyMetadata"]["Description"] == text
    assert kms.refusal("UpdateKeyDescription", KeyId=key, Description="x" * 8193).kind == "ValidationException"


def test_all_of_it_goes_with_the_key(kms: Speaker) -> None:
    """When a key is deleted, its description, policy and tags are in no table any more."""
    key = kms.key(Description="secret plans", Tags=[tag("a")], Policy='{"Statement":{"Effect":"Deny","Principal":"*"}}')
    kms.say("ScheduleKeyDeletion", KeyId=key, PendingWindowInDays=7)

    kms.now += 7 * 86_400
    kms.say("ListKeys")

    with kms.database() as database:
        assert database.execute("SELECT count(*) FROM tag").fetchone() == (0,)
        left = database.execute("SELECT state, description, policy, material_id FROM kms_key").fetchall()
    assert left == [("Deleted", "", None, None)]
