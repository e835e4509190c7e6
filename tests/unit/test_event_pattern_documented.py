"""What AWS's documents show, restated: the EventBridge guide on event patterns, and the README of aws/event-ruler."""

from typing import Any

import pytest

from ebscrypt.events.patterns import Pattern

INSTANCE = {
    "version": "0",
    "id": "6a7e8feb-b491-4cf7-a9f1-bf3703467718",
    "detail-type": "EC2 Instance State-change Notification",
    "source": "aws.ec2",
    "account": "123456789012",
    "time": "2017-10-02T16:24:49Z",
    "region": "us-east-1",
    "resources": ["arn:aws:ec2:us-east-1:123456789012:instance/i-000000aaaaaa00000"],
    "detail": {"c-count": 5, "d-count": 3, "x-limit": 301.8, "source-ip": "10.0.0.33", "state": "running"},
}
LAUNCH = {"source": "aws.autoscaling", "resources": [], "detail": {"eventVersion": "", "responseElements": None}}
PEOPLE = {
    "employees": [
        {"firstName": "John", "lastName": "Doe"},
        {"firstName": "Anna", "lastName": "Smith"},
        {"firstName": "Peter", "lastName": "Jones"},
    ]
}
PEOPLE_IN_GROUPS = {"employees": [PEOPLE["employees"][:2], PEOPLE["employees"][2:]]}
COUNT_BELOW = {"detail": {"state": "running", "c-count": {"c1": 100}}}


def detail(**fields: Any) -> dict[str, Any]:
    return {"detail": {name.replace("_", "-"): value for name, value in fields.items()}}


def check(pattern: str | dict[str, Any], event: dict[str, Any], *, wanted: bool) -> None:
    assert Pattern.compile(pattern).matches(event) is wanted


@pytest.mark.parametrize(
    ("pattern", "event", "wanted"),
    [
        ({"source": ["aws.ec2"], "detail": {"state": ["running"]}}, INSTANCE, True),
        ({"source": ["aws.ec2", "aws.fargate"]}, INSTANCE, True),
        ({"source": ["aws.ec2"], "detail": {"state": ["terminated"]}}, INSTANCE, False),
        ({"source": ["aws.ec2"], "detail": {"reason": ["x"]}}, INSTANCE, False),
        ({"Source": ["aws.ec2"]}, INSTANCE, False),
        ({"source": ["AWS.EC2"]}, INSTANCE, False),
        ({"detail": {"responseElements": [None]}}, LAUNCH, True),
        ({"detail": {"eventVersion": [""]}}, LAUNCH, True),
        ({"detail": {"eventVersion": [None]}}, LAUNCH, False),
        ({"detail": {"responseElements": [""]}}, LAUNCH, False),
        ({"resources": [None]}, LAUNCH, False),
        ({"detail": {"risk-score": [80], "trigger": {"risk": [8]}}}, detail(risk_score=80, trigger={"risk": 8}), True),
        ({"detail": {"on": [True]}}, detail(on=True), True),
        ({"detail": {"on": [True]}}, detail(on="true"), False),
        ({"detail": {"on": [1]}}, detail(on=True), False),
    ],
)
def test_fields_are_and_and_lists_are_or(pattern: dict[str, Any], event: dict[str, Any], *, wanted: bool) -> None:
    """Every field named must hold, by one of its values, exactly; null, "", true and 1 are four different things."""
    check(pattern, event, wanted=wanted)


@pytest.mark.parametrize(
    ("wanted_resources", "wanted"),
    [(["i-1", "i-2", "i-3"], True), (["i-2"], True), (["i-1", "i-3"], False)],
)
def test_a_list_in_the_event_matches_by_what_both_lists_share(wanted_resources: list[str], *, wanted: bool) -> None:
    """The intersection of the event's list and the pattern's must not be empty."""
    check({"resources": wanted_resources}, {"resources": ["group/ASGTerminate", "i-2"]}, wanted=wanted)


@pytest.mark.parametrize(
    ("alternative", "yes", "no"),
    [
        ({"prefix": "2017-10-02"}, ["2017-10-02T18:43:48Z"], ["2017-10-03", "x2017-10-02", 20171002]),
        ({"prefix": {"equals-ignore-case": "EventB"}}, ["EventBridge", "EVENTBRIDGE", "eventb"], ["event", "xeventb"]),
        ({"suffix": ".png"}, ["a.png", ".png"], ["a.PNG", "a.png.gz", None]),
        ({"suffix": {"equals-ignore-case": ".png"}}, ["a.PNG", "a.pNg"], ["a.pn", "a.png "]),
        ({"anything-but": "initializing"}, ["running", "", 5, None, True], ["initializing"]),
        ({"anything-but": 123}, [124, "123", 123.5], [123, 123.0]),
        ({"anything-but": ["stopped", "overloaded"]}, ["running"], ["stopped", "overloaded"]),
        ({"anything-but": [100, 200, 300]}, [150], [100, 200, 300]),
        ({"anything-but": {"equals-ignore-case": "initializing"}}, ["running", None], ["INITIALIZING", "initializing"]),
        ({"anything-but": {"equals-ignore-case": ["initializing", "stopped"]}}, ["running"], ["STOPPED"]),
        ({"anything-but": {"prefix": "init"}}, ["running", 7], ["initializing", "init"]),
        ({"anything-but": {"prefix": ["init", "error"]}}, ["running"], ["initializing", "error 5"]),
        ({"anything-but": {"suffix": ".txt"}}, ["a.png"], ["a.txt"]),
        ({"anything-but": {"suffix": [".txt", ".rtf"]}}, ["a.png"], ["a.txt", "a.rtf"]),
        ({"anything-but": {"wildcard": "*/lib/*"}}, ["/usr/bin/x"], ["/usr/lib/x", "/lib/"]),
        ({"anything-but": {"wildcard": ["*/lib/*", "*/bin/*"]}}, ["/etc/x"], ["/usr/bin/x", "/usr/lib/x"]),
        ({"numeric": [">", 0, "<=", 5]}, [5, 0.1], [0, 5.1, "5", None]),
        ({"numeric": ["<", 10]}, [3, -5e9], [10]),
        ({"numeric": ["=", 3.018e2]}, [301.8], [301.80001]),
        ({"numeric": [">=", 200, "<", 500]}, [200, 499.999999], [500, 199]),
        ({"cidr": "10.0.0.0/24"}, ["10.0.0.0", "10.0.0.255"], ["10.0.1.0", "10.0.0", "x", 10]),
        ({"cidr": "2001:db8:1234:1a00::/64"}, ["2001:db8:1234:1a00::7", "2001:DB8:1234:1A00::"], ["2001:db8::1"]),
        ({"equals-ignore-case": "alice"}, ["Alice", "ALICE"], ["Alice ", "Bob", None]),
        ({"wildcard": "dir/*.png"}, ["dir/a.png", "dir/.png", "dir/a/b.png"], ["dir/a.PNG", "xdir/a.png", "dir/png"]),
        ({"wildcard": "Simple*Service"}, ["SimpleQueueService", "SimpleService"], ["SimpleServic", "Simple"]),
        ({"wildcard": r"\*\\*"}, ["*\\", "*\\x"], ["x\\", "*"]),
        ({"exists": True}, ["x", "", None, 0, False], []),
    ],
    ids=str,
)
def test_an_operator_takes_and_leaves_what_the_guide_says(alternative: Any, yes: list[Any], no: list[Any]) -> None:
    """Each operator of the guide, on values of its examples and on values just beside them."""
    pattern = Pattern.compile({"detail": {"field": [alternative]}})
    assert [value for value in yes if not pattern.matches({"detail": {"field": value}})] == []
    assert [value for value in no if pattern.matches({"detail": {"field": value}})] == []


@pytest.mark.parametrize(
    ("exists", "event", "wanted"),
    [
        (True, INSTANCE, True),
        (False, INSTANCE, False),
        (True, detail(state="running"), False),
        (False, detail(state="running"), True),
        (False, COUNT_BELOW, True),
        (True, COUNT_BELOW, False),
        (False, {}, True),
        (True, detail(c_count=[]), False),
        (False, detail(c_count=[]), True),
        (True, detail(c_count=[{"c1": 1}, None]), True),
    ],
)
def test_exists_looks_at_leaves_only(event: dict[str, Any], *, exists: bool, wanted: bool) -> None:
    """A name that leads only to an object or to an empty list counts as not there."""
    check({"detail": {"c-count": [{"exists": exists}]}}, event, wanted=wanted)


def test_the_guide_s_pattern_of_many_operators() -> None:
    """The complex example, on its event and on the same event with one field off."""
    pattern = {
        "time": [{"prefix": "2017-10-02"}],
        "detail": {
            "state": [{"anything-but": "initializing"}],
            "c-count": [{"numeric": [">", 0, "<=", 5]}],
            "d-count": [{"numeric": ["<", 10]}],
            "x-limit": [{"anything-but": [100, 200, 300]}],
            "source-ip": [{"cidr": "10.0.0.0/8"}],
        },
    }
    check(pattern, INSTANCE, wanted=True)
    for name, value in {
        "state": "initializing",
        "c-count": 6,
        "d-count": 10,
        "x-limit": 200,
        "source-ip": "11.0.0.1",
    }.items():
        check(pattern, INSTANCE | {"detail": INSTANCE["detail"] | {name: value}}, wanted=False)  # type: ignore[operator]


def test_of_a_name_written_twice_the_last_counts() -> None:
    """The guide's example of two conditions on one key: only the second is in force."""
    pattern = '{"detail": {"location": [{"prefix": "us-"}], "location": [{"anything-but": "us-east"}]}}'
    check(pattern, detail(location="eu-west"), wanted=True)
    check(pattern, detail(location="us-east"), wanted=False)


SOURCE_AND_EITHER = {
    "source": ["aws.cloudwatch"],
    "$or": [
        {"metricName": ["CPUUtilization", "ReadLatency"]},
        {"metricType": ["T"], "namespace": ["AWS/EC2"], "$or": [{"metricId": [1234]}, {"spaceId": [1000]}]},
        {"scope": ["Service"]},
    ],
}


@pytest.mark.parametrize(
    ("event", "wanted"),
    [
        ({"metricName": "ReadLatency"}, True),
        ({"scope": "Service"}, True),
        ({"metricType": "T", "namespace": "AWS/EC2", "spaceId": 1000}, True),
        ({"metricType": "T", "namespace": "AWS/EC2", "metricId": 1234}, True),
        ({"metricType": "T", "namespace": "AWS/EC2"}, False),
        ({"metricType": "T", "spaceId": 1000}, False),
        ({}, False),
    ],
)
def test_or_may_hold_and_and_or_again(event: dict[str, Any], *, wanted: bool) -> None:
    """It means: source and (metricName or (metricType and namespace and (metricId or spaceId)) or scope)."""
    check(SOURCE_AND_EITHER, {"source": "aws.cloudwatch"} | event, wanted=wanted)
    check(SOURCE_AND_EITHER, {"source": "aws.ec2"} | event, wanted=False)


@pytest.mark.parametrize("people", [PEOPLE, PEOPLE_IN_GROUPS])
def test_two_conditions_on_a_list_of_objects_meet_in_one_element(people: dict[str, Any]) -> None:
    """Anna Smith is there, Anna Jones is not, though both names are; lists in lists make no difference."""
    check({"employees": {"firstName": ["Anna"]}}, people, wanted=True)
    check({"employees": {"firstName": ["Anna"], "lastName": ["Smith"]}}, people, wanted=True)
    check({"employees": {"firstName": ["Anna"], "lastName": ["Jones"]}}, people, wanted=False)
    either = {"employees": {"firstName": ["Anna"]}, "$or": [{"employees": {"lastName": ["Jones"]}}, {"x": [1]}]}
    check(either, people, wanted=False)


@pytest.mark.parametrize("pattern", [{"detail": {"state": {"status": ["on"]}}}, {"detail": {"state.status": ["on"]}}])
@pytest.mark.parametrize("event", [{"detail": {"state": {"status": "on"}}}, {"detail.state": {"status": "on"}}])
def test_a_dot_in_a_name_is_a_step_inwards(pattern: dict[str, Any], event: dict[str, Any]) -> None:
    """The guide's "considerations": both spellings of a pattern match both spellings of an event."""
    check(pattern, event, wanted=True)
    check(pattern, {"detail": {"state.status": {"status": "on"}}}, wanted=False)


@pytest.mark.parametrize("written", ["300", "300.0", "3.0e2", "3E+2"])
@pytest.mark.parametrize("sent", [300, 300.0])
def test_numbers_are_compared_by_value(written: str, sent: float) -> None:
    """AWS's guide says otherwise; its service and its engine do this (decision 0003)."""
    check(f'{{"detail": {{"count": [{written}]}}}}', detail(count=sent), wanted=True)
    check(f'{{"detail": {{"count": [{written}]}}}}', detail(count=sent + 1), wanted=False)
    check(f'{{"detail": {{"count": [{written}]}}}}', detail(count=str(sent)), wanted=False)
