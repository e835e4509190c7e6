"""The gateway and the application over it: no request gets a 500, none that is hostile gets far."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ebscrypt.api import server
from ebscrypt.api.gateway import SMALL_BODY, Gateway
from ebscrypt.api.metrics import Metrics
from ebscrypt.api.protocol.http import HttpAnswer, HttpRequest
from ebscrypt.config import PathSettings, Settings
from ebscrypt.model import utc_now
from tests.unit.api.signing import signed

VERSIONS = {"ec2": "2016-11-15", "sts": "2011-06-15", "cloudformation": "2010-05-15"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Place:
    """A gateway on a state directory of its own, with one access key."""

    def __init__(self, state: Path) -> None:
        self.runtime = tempfile.mkdtemp(prefix="ea-", dir="/tmp")
        self.settings = Settings(paths=PathSettings(state=str(state), runtime=self.runtime))
        self.metrics = Metrics()
        self.gateway = Gateway(self.settings, observe=self.metrics.observe)
        self.keys = self.gateway._keys
        self.key = self.keys.create("admin")

    @property
    def pair(self) -> tuple[str, str]:
        return self.key.access_key_id, self.key.secret_access_key

    @property
    def _usual(self) -> dict[str, Any]:
        return {"when": utc_now(), "key": self.pair}

    def signed(self, *arguments: Any, **more: Any) -> HttpRequest:
        return signed(*arguments, **self._usual | more)

    def form(self, service: str, **parameters: str) -> HttpRequest:
        body = urlencode({"Version": VERSIONS[service]} | parameters).encode()
        return self.signed(body=body, headers=FORM, service=service)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("state"))
    yield made
    made.gateway.close()
    shutil.rmtree(made.runtime)


def test_who_am_i(place: Place) -> None:
    """A request that is right is answered, by the name of who signed it."""
    answer = place.gateway.answer(place.form("sts", Action="GetCallerIdentity"))
    assert answer.status == 200
    assert b"arn:aws:iam::000000000000:user/admin" in answer.body


def test_a_removed_key_is_refused_at_once(place: Place) -> None:
    """The file of keys is read again when it has changed; a key that is gone opens nothing."""
    other = place.keys.create("other")
    pair = other.access_key_id, other.secret_access_key
    request = place.signed(body=b"Action=DescribeRegions&Version=2016-11-15", headers=FORM, key=pair)
    assert place.gateway.answer(request).status == 200
    place.keys.remove(other.access_key_id)
    assert place.gateway.answer(request).status == 401


@pytest.mark.parametrize(("service", "status"), [("ec2", 401), ("sts", 403), ("ebs", 403), ("kms", 403)])
def test_strangers_are_refused_in_the_form_of_each_service(place: Place, service: str, status: int) -> None:
    """A wrong secret, an unknown id, a clock that is wrong, another Region: none gets in, and the answer has an id."""
    for more in (
        {"key": (place.pair[0], "x" * 40)},
        {"key": ("AKIAAAAAAAAAAAAAAAAA", place.pair[1])},
        {"when": utc_now() + timedelta(hours=1)},
        {"region": "mars-north-1"} if service != "sts" else {"key": ("A", "b")},
    ):
        answer = place.gateway.answer(place.signed(service=service, **more))
        assert answer.status == status
        assert answer.headers["x-amzn-RequestId"]


def test_an_unknown_key_gets_no_room_for_a_body(place: Place) -> None:
    """Only whoever names a key that there is may send more than an error needs."""
    assert place.gateway.largest_body(place.signed(service="ebs")) == 1 << 20
    assert place.gateway.largest_body(place.signed(key=("AKIAAAAAAAAAAAAAAAAA", "s"))) == SMALL_BODY
    assert place.gateway.largest_body(HttpRequest(method="POST", path="/")) == SMALL_BODY


def test_a_damaged_file_of_keys_is_not_told_to_strangers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client hears that something is wrong, the log what."""
    place = Place(tmp_path)
    place.keys.path.chmod(0o644)
    with caplog.at_level(logging.WARNING, "ebscrypt"):
        answer = place.gateway.answer(place.form("ec2", Action="DescribeRegions"))
    assert answer.status == 500
    assert str(tmp_path).encode() not in answer.body
    assert "others can read" in caplog.text
    assert place.pair[1] not in caplog.text
    shutil.rmtree(place.runtime)


def test_what_nobody_expected_says_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operation that raises what it should not is a 500 without a word of it, and the counters have it."""

    def fail(*_: Any) -> dict[str, Any]:
        raise RuntimeError("hunter2")

    monkeypatch.setitem(place.gateway._services["sts"].operations, "GetCallerIdentity", fail)  # type: ignore[attr-defined]
    answer = place.gateway.answer(place.form("sts", Action="GetCallerIdentity"))
    assert answer.status == 500
    assert b"hunter2" not in answer.body
    assert b'action="GetCallerIdentity",code="InternalError",service="sts"' in place.metrics.page(place.gateway.shared)


NAMES = st.sampled_from(
    ["Action", "Version", "VolumeId.1", "Filter.1.Name", "Filter.1.Value.1", "MaxResults", "StackName"]
)
TEXT = st.text(max_size=30) | st.sampled_from(["-1", "99999999999", "true", "vol-1", "a" * 1000])
FORMS = st.dictionaries(
    NAMES | st.from_regex(r"[A-Za-z]{1,9}(\.[A-Za-z0-9]{0,5}){0,40}", fullmatch=True), TEXT, max_size=8
)
READING = [
    "DescribeRegions",
    "DescribeAvailabilityZones",
    "GetCallerIdentity",
    "DescribeStacks",
    "ListStacks",
    "ValidateTemplate",
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(VERSIONS)), st.sampled_from(READING), FORMS, st.binary(max_size=60))
def test_no_form_makes_a_500(place: Place, service: str, action: str, form: dict[str, str], tail: bytes) -> None:
    """Signed forms of any names and texts, with bytes behind them that are no form, are answered or refused."""
    encoded = urlencode({"Action": action, "Version": VERSIONS[service]} | form, errors="replace").encode()
    for body in (encoded, encoded + b"&" + tail):
        answer = place.gateway.answer(place.signed(body=body, headers=FORM, service=service))
        assert answer.status < 500, answer.body


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["GET", "POST", "PUT"]),
    st.sampled_from(["/", "/snapshots", "/snapshots/snap-0123456789abcdef0/blocks", "/snapshots/%FF/blocks/%2E%2E"])
    | st.from_regex(r"/[a-z0-9/%.-]{0,40}", fullmatch=True),
    st.from_regex(r"([a-zA-Z]{1,12}=[a-z0-9%+-]{0,12}&?){0,4}", fullmatch=True),
    st.binary(max_size=80) | st.sampled_from([b"{}", b"[]", b'{"VolumeSize": 1e400}', b"[" * 5000, b'{"Tags": [{}]}']),
    st.dictionaries(st.sampled_from(["x-amz-target", "x-amz-checksum", "x-amz-data-length", "content-type"]), TEXT),
)
@pytest.mark.parametrize("service", ["ebs", "kms"])
def test_no_other_request_makes_a_500(  # noqa: PLR0917 - one for each part of a request
    place: Place, service: str, method: str, path: str, query: str, body: bytes, headers: dict[str, str]
) -> None:
    """Signed requests of any method, path, query string, headers and body are answered or refused."""
    sent = {name: text.encode("ascii", "replace").decode() for name, text in headers.items()}
    sent = {name: "".join(filter(str.isprintable, text)) for name, text in sent.items()}
    request = place.signed(method, f"{path}?{query}", body, sent, service=service)
    assert place.gateway.answer(request).status < 500


def ask(place: Place, request: HttpRequest, body: Callable[[], Any] | None = None, more: int = 0) -> HttpAnswer:
    """The application's answer to a request, whose body `body` gives in parts."""
    said: list[dict[str, Any]] = []
    headers = [(name.encode(), value.encode("latin-1")) for name, value in request.headers.items()]
    scope = {
        "type": "http",
        "method": request.method,
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query.encode(),
        "headers": headers + [(b"x-more", b"x" * 100)] * more,
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> dict[str, Any]:
        if body is not None:
            return dict(await body())
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: Any) -> None:
        said.append(message)

    asyncio.run(server.application(place.gateway, place.metrics, 2)(scope, receive, send))
    content = b"".join(part.get("body", b"") for part in said)
    return HttpAnswer(status=said[0]["status"], body=content)


def test_bodies_are_bounded_in_size_and_time(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too long by its own word, too long when it comes, too slow, gone: refused each, without the whole of it."""
    request, taken = place.form("ec2", Action="DescribeRegions"), []

    async def endless() -> dict[str, Any]:
        taken.append(1)
        return {"type": "http.request", "body": b"x" * 65536, "more_body": True}

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def silent() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    assert ask(place, request).status == 200
    request.headers["content-length"] = str(1 << 40)
    assert ask(place, request, silent).status == 413
    request.headers["content-length"] = "9" * 5000
    assert ask(place, request, silent).status == 413
    del request.headers["content-length"]
    assert ask(place, request, endless).status == 413
    assert len(taken) == 33
    assert ask(place, request, gone).status == 400
    assert ask(place, request, more=1000).status == 431
    monkeypatch.setattr(server, "BODY_TIMEOUT", 0.01)
    assert ask(place, request, silent).status == 408


def test_duplicate_headers_are_joined_before_they_are_judged(place: Place) -> None:
    """A second Authorization, or a second date, does not replace the first: the request is refused."""
    request = place.form("ec2", Action="DescribeRegions")
    for name in ("authorization", "x-amz-date", "x-amz-content-sha256"):
        twice = dict(request.headers) | {name: ",".join([request.headers.get(name, "0")] * 2)}
        changed = HttpRequest(method="POST", path="/", headers=twice, body=request.body)
        assert ask(place, changed).status in {400, 401}


def test_health_and_metrics_need_no_signature(place: Place) -> None:
    """Both answer whoever asks, with counts and nothing else."""
    assert ask(place, HttpRequest(method="GET", path="/health")).body == b"ok\n"
    page = ask(place, HttpRequest(method="GET", path="/metrics"))
    assert page.status == 200
    assert b'ebscrypt_volumes{state="available"} 0.0' in page.body
    assert b"admin" not in page.body


def test_who_is_not_well_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the catalog cannot be read, health and metrics are 503 and say nothing of this machine."""
    place = Place(tmp_path)
    (tmp_path / "catalog.db").mkdir()
    for path in ("/health", "/metrics"):
        answer = ask(place, HttpRequest(method="GET", path=path))
        assert (answer.status, answer.body) == (503, b"the catalog cannot be read\n")
    assert "cannot be read" in caplog.text
    shutil.rmtree(place.runtime)


def test_the_log_has_who_and_what_and_no_secrets(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    """A line for each request: id, service, action, user, code; no parameter, signature or secret."""
    request = place.form("ec2", Action="DescribeRegions", **{"RegionName.1": "hunter2"})
    with caplog.at_level(logging.INFO, "ebscrypt"):
        place.gateway.answer(request)
    fields = caplog.records[-1].fields  # type: ignore[attr-defined]  # ours
    assert (fields["service"], fields["action"], fields["user"]) == ("ec2", "DescribeRegions", "admin")
    assert fields["code"] == "InvalidParameterValue"
    assert not any(text in json.dumps(fields) for text in ("hunter2", place.pair[1], request.headers["authorization"]))
