"""Names of KMS keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebscrypt.errors import InvalidParameter
from ebscrypt.kms.names import arn, is_key_arn, is_loopback, parse_key_name

UUID = "1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.mark.parametrize(
    ("text", "kind", "name", "region"),
    [
        (UUID, "key", UUID, None),
        ("mrk-" + "a1" * 16, "key", "mrk-" + "a1" * 16, None),
        (f"arn:aws:kms:eu-central-1:111122223333:key/{UUID}", "key", UUID, "eu-central-1"),
        ("alias/aws/ebs", "alias", "alias/aws/ebs", None),
        ("arn:aws-cn:kms:cn-north-1:111122223333:alias/a_b-c/d", "alias", "alias/a_b-c/d", "cn-north-1"),
    ],
)
def test_the_four_forms(text: str, kind: str, name: str, region: str | None) -> None:
    """Key id, key ARN, alias and alias ARN are told apart."""
    parsed = parse_key_name(text)

    assert (parsed.kind, parsed.name, parsed.region) == (kind, name, region)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1234",
        UUID.upper(),
        f"{UUID}\n",
        "alias/",
        "alias/ä",
        "alias/" + "x" * 251,
        f"arn:aws:kms:eu-central-1:111122223333:{UUID}",
        "arn:aws:kms:eu-central-1:111122223333:key/alias/x",
        f"arn:aws:kms:eu-central-1:11112222333:key/{UUID}",
        f"arn:aws:s3:eu-central-1:111122223333:key/{UUID}",
        f"arn:aws:kms::111122223333:key/{UUID}",
        f"arn:aws:kms:eu-central-1:111122223333:key/{UUID}/x",
        "x" * 10_000,
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    """What has none of the forms is refused, in a message that names the field and stays short."""
    with pytest.raises(InvalidParameter, match="KmsKeyId") as caught:
        parse_key_name(text)

    assert len(caught.value.message) < 200


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    """Any text either parses or raises `InvalidParameter`."""
    try:
        assert parse_key_name(text).name in text
    except InvalidParameter:
        assert not is_key_arn(text)


def test_only_full_key_arns_are_key_arns() -> None:
    """Of the four forms, only the key ARN may be stored; and nothing that is not text."""
    full = arn("eu-central-1", "111122223333", f"key/{UUID}")

    assert is_key_arn(full)
    assert not any(is_key_arn(other) for other in (UUID, "alias/x", full.replace("key/", "alias/"), None, 7, b""))


@pytest.mark.parametrize(
    ("region", "partition"), [("us-east-1", "aws"), ("cn-north-1", "aws-cn"), ("us-gov-west-1", "aws-us-gov")]
)
def test_partition(region: str, partition: str) -> None:
    """ARNs carry the partition of their Region."""
    assert arn(region, "111122223333", f"key/{UUID}").startswith(f"arn:{partition}:kms:{region}:")


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("0.0.0.0", False),  # noqa: S104 - that is the point
        ("localhost.example.com", False),
        ("10.0.0.1", False),
        ("127.0.0.1.example.com", False),
        ("", False),
    ],
)
def test_loopback(host: str, *, own: bool) -> None:
    """Only addresses that can be nothing but this machine count as loopback."""
    assert is_loopback(host) is own
