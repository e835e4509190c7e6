"""Signatures, with botocore's signer as the oracle."""

from __future__ import annotations

import dataclasses
import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import botocore.session
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebscrypt.api import services, signature
from ebscrypt.api.errors import ApiError
from ebscrypt.api.protocol.http import HttpRequest
from ebscrypt.api.protocol.service import RestService
from tests.unit.api.signing import NOW, SECRET, signed

FORM = b"Action=DescribeVolumes&Version=2016-11-15"
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)


def check(request: HttpRequest, secret: str | None = SECRET, now: datetime = NOW, *, unsigned: bool = False) -> None:
    signature.check(request, signature.read(request), secret, now, may_be_unsigned=unsigned)


def refused(request: HttpRequest, secret: str | None = SECRET, now: datetime = NOW, *, unsigned: bool = False) -> str:
    with pytest.raises(ApiError) as caught:
        check(request, secret, now, unsigned=unsigned)
    return caught.value.code


def changed(request: HttpRequest, **headers: str) -> HttpRequest:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return dataclasses.replace(request, headers=request.headers | more)


@given(
    st.lists(WORDS.filter(lambda part: part not in ("", ".", "..")), max_size=4),
    st.lists(st.tuples(WORDS.filter(bool), WORDS), max_size=5),
    st.binary(max_size=200),
    st.text(string.printable.strip() + " ", max_size=30),
    st.none() | st.integers(1, 3600),
)
def test_what_botocore_signs_is_accepted(
    path: list[str], query: list[tuple[str, str]], body: bytes, value: str, expires: int | None
) -> None:
    """Any path, query string, header and body that botocore signs, in either form, verifies, by its secret only."""
    target = "/" + "/".join(quote(part, safe="~") for part in path)
    target += "?" + "&".join(f"{quote(n, safe='-_.~')}={quote(v, safe='-_.~')}" for n, v in query) if query else ""
    headers = {} if expires else {"X-Amz-Meta": value}
    request = signed(target=target, body=b"" if expires else body, headers=headers, expires=expires)
    check(request)
    assert refused(request, SECRET + "x") == "SignatureDoesNotMatch"


TAMPERED: dict[str, Callable[[HttpRequest], HttpRequest]] = {
    "method": lambda r: dataclasses.replace(r, method="PUT"),
    "path": lambda r: dataclasses.replace(r, path="/snapshots/snap-2/blocks"),
    "path case": lambda r: dataclasses.replace(r, path=r.path.upper()),
    "path with a dot": lambda r: dataclasses.replace(r, path="/./snapshots/snap-1/blocks"),
    "path with two dots": lambda r: dataclasses.replace(r, path="/x/../snapshots/snap-1/blocks"),
    "path with two slashes": lambda r: dataclasses.replace(r, path="//snapshots/snap-1/blocks"),
    "absolute path": lambda r: dataclasses.replace(r, path="http://127.0.0.1:4580/snapshots/snap-1/blocks"),
    "query gone": lambda r: dataclasses.replace(r, query=""),
    "query more": lambda r: dataclasses.replace(r, query=r.query + "&maxResults=1"),
    "query twice": lambda r: dataclasses.replace(r, query=r.query + "&" + r.query),
    "plus for %2B": lambda r: dataclasses.replace(r, query=r.query.replace("%2B", "+")),
    "body": lambda r: dataclasses.replace(r, body=r.body + b"x"),
    "no body": lambda r: dataclasses.replace(r, body=b""),
    "host": lambda r: changed(r, host="ec2.amazonaws.com"),
    "date": lambda r: changed(r, x_amz_date="20240229T235508Z"),
    "another header": lambda r: changed(r, x_amz_target="TrentService.ScheduleKeyDeletion"),
    "a header twice": lambda r: changed(r, x_amz_meta=r.headers["x-amz-meta"] * 2),
    "region": lambda r: changed(r, authorization=r.headers["authorization"].replace("us-east-1", "us-east-2")),
    "service": lambda r: changed(r, authorization=r.headers["authorization"].replace("/ec2/", "/ebs/")),
    "one digit": lambda r: changed(
        r, authorization=r.headers["authorization"][:-1] + ("0" if r.headers["authorization"][-1] != "0" else "1")
    ),
    "fewer headers": lambda r: changed(r, authorization=r.headers["authorization"].replace("host;", "")),
}


@pytest.mark.parametrize("what", sorted(TAMPERED))
def test_tampering_is_refused(what: str) -> None:
    """Whatever is changed in a request after it was signed, it is refused as one whose signature does not match."""
    request = signed(
        target="/snapshots/snap-1/blocks?pageToken=a%2Bb%2F", body=FORM, headers={"X-Amz-Meta": "two  words"}
    )
    check(request)
    tampered = TAMPERED[what](request)
    assert tampered != request
    assert refused(tampered) == "SignatureDoesNotMatch"


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Basic YTpi",
        "AWS4-HMAC-SHA256",
        "AWS4-HMAC-SHA256 Credential=a",
        "AWS4-HMAC-SHA256 Credential={c}, SignedHeaders=host, Signature=",
        "AWS4-HMAC-SHA256 Credential={c}, SignedHeaders=host, Signature=é" + "0" * 63,
        "AWS4-HMAC-SHA256 Credential={c}, SignedHeaders=host, Signature={s}, Signature={s}",
        "AWS4-HMAC-SHA256 Credential={c}, SignedHeaders=host;host;x-amz-date, Signature={s}",
        "AWS4-HMAC-SHA256 Credential={c}, SignedHeaders=x-amz-date;host, Signature={s}",
        "AWS4-HMAC-SHA256 Credential={c}/x, SignedHeaders=host;x-amz-date, Signature={s}",
        "AWS4-ECDSA-P256-SHA256 Credential={c}, SignedHeaders=host;x-amz-date, Signature={s}",
        ",".join(["AWS4-HMAC-SHA256 Credential={c}, SignedHeaders=host;x-amz-date, Signature={s}"] * 2),
    ],
)
def test_what_is_no_signature_is_incomplete(authorization: str) -> None:
    """An Authorization header that is none, has a part twice or in another form is refused."""
    text = authorization.format(c="AKIA/20240229/us-east-1/ec2/aws4_request", s="0" * 64)
    assert refused(changed(signed(body=FORM), authorization=text)) == "IncompleteSignature"


def test_without_a_signature() -> None:
    """A request without any signature says so; one with two is refused."""
    request = signed(body=FORM)
    bare = {name: value for name, value in request.headers.items() if name != "authorization"}
    assert refused(dataclasses.replace(request, headers=bare)) == "MissingAuthenticationToken"
    both = dataclasses.replace(request, query="X-Amz-Signature=" + "0" * 64)
    assert refused(both) == "IncompleteSignature"


def test_the_clock_may_differ_by_a_quarter_of_an_hour() -> None:
    """15 minutes either way are accepted to the second; a wrong signature hears nothing."""
    request, quarter, second = signed(body=FORM), timedelta(minutes=15), timedelta(seconds=1)
    check(request, now=NOW + quarter)
    check(request, now=NOW - quarter)
    assert refused(request, now=NOW + quarter + second) == "RequestExpired"
    assert refused(request, now=NOW - quarter - second) == "SignatureDoesNotMatch"
    assert refused(request, "another", now=NOW + quarter + second) == "SignatureDoesNotMatch"


def test_a_signed_url_is_good_for_as_long_as_it_says() -> None:
    """A signature in the query string ends when it says to, at most after an hour, and not twice said."""
    request = signed("GET", "/?Action=DescribeVolumes", expires=600)
    check(request, now=NOW + timedelta(seconds=600))
    assert refused(request, now=NOW + timedelta(seconds=601)) == "RequestExpired"
    assert refused(dataclasses.replace(request, query=request.query.replace("=600", "=601"))) == "SignatureDoesNotMatch"
    assert refused(signed("GET", "/", expires=3601)) == "IncompleteSignature"
    assert refused(dataclasses.replace(request, query=request.query + "&X-Amz-Expires=9")) == "IncompleteSignature"
    assert refused(changed(request, x_amz_target="TrentService.Encrypt")) == "SignatureDoesNotMatch"
    assert refused(dataclasses.replace(request, body=b"x")) == "SignatureDoesNotMatch"


@pytest.mark.parametrize("when", ["", "20240229", "2024022T235507Z", "20240229T235507", "99999999T999999Z", "٢" * 8])
def test_a_date_in_another_form_is_refused(when: str) -> None:
    """The time is in one form only; what no calendar has is refused, not raised."""
    assert refused(changed(signed(body=FORM), x_amz_date=when)) == "IncompleteSignature"


def test_the_day_of_the_scope_is_the_day_of_the_request() -> None:
    """A key derived for one day signs nothing of another."""
    request = changed(signed(body=FORM), x_amz_date="20240301T000001Z")
    assert refused(request, now=datetime(2024, 3, 1, tzinfo=UTC)) == "SignatureDoesNotMatch"


def test_an_unsigned_body_only_where_it_is_allowed() -> None:
    """UNSIGNED-PAYLOAD is accepted for an operation that allows it, and its other headers are covered still."""
    request = signed("PUT", "/snapshots/snap-1/blocks/0", b"data", {"x-amz-Checksum": "abc"}, covers_body=False)
    check(request, unsigned=True)
    assert refused(request) == "SignatureDoesNotMatch"
    assert refused(changed(request, x_amz_checksum="abd"), unsigned=True) == "SignatureDoesNotMatch"
    assert refused(changed(request, x_amz_content_sha256="UNSIGNED"), unsigned=True) == "SignatureDoesNotMatch"


def test_the_digest_that_is_signed_is_the_bodys() -> None:
    """A body is compared with the digest that the signature covers, not only the digest with the signature."""
    request = signed(body=FORM, headers={"X-Amz-Content-SHA256": "0" * 64})
    assert refused(request) == "SignatureDoesNotMatch"


def test_which_operations_need_not_sign_their_body() -> None:
    """Of all operations that are served PutSnapshotBlock alone."""
    session = botocore.session.Session()
    ebs = RestService("ebs", session.get_service_model("ebs"), {})
    assert ebs.may_be_unsigned(HttpRequest(method="PUT", path="/snapshots/snap-1/blocks/0"))
    assert not ebs.may_be_unsigned(HttpRequest(method="POST", path="/snapshots/completion/snap-1"))
    assert not ebs.may_be_unsigned(HttpRequest(method="GET", path="/snapshots/snap-1/blocks/0"))
    assert set(services.REST_SERVICES) == {"ebs"}


def test_session_tokens_and_unknown_keys_are_refused() -> None:
    """A token would be ignored otherwise; a key that nobody has is told by its own code, whatever the signature."""
    request = signed(body=FORM, headers={"X-Amz-Security-Token": "t"})
    assert refused(request) == "InvalidClientTokenId"
    assert refused(signed(body=FORM), None) == "InvalidClientTokenId"


@given(
    st.dictionaries(
        st.sampled_from(["authorization", "x-amz-date", "host", "x-amz-content-sha256"]),
        st.text(st.characters(max_codepoint=255), max_size=300)
        | st.from_regex(r"AWS4-HMAC-SHA256 Credential=[^,]*, ?SignedHeaders=[^,]*, ?Signature=[^,]*", fullmatch=True),
    ),
    st.text(max_size=100) | st.from_regex(r"(X-Amz-(Algorithm|Date|Expires|Signature)=[^&]{0,20}&){1,6}"),
)
def test_nothing_but_refusals(headers: dict[str, str], query: str) -> None:
    """No header and no query string makes the check raise anything else than its refusal."""
    request = HttpRequest(method="GET", path="/", query=query, headers=headers)
    with pytest.raises(ApiError):
        check(request)
