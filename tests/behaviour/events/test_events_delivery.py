"""Events from real commands to real targets: at least once, never in the way, whoever is killed."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.catalog.events import VolumeEvent, volume_event
from tests.behaviour.events.event_place import EventPlace
from tests.behaviour.volume.place import SOURCE, wait_until

Following = Callable[..., "subprocess.Popen[str]"]
ALL = '{"source": ["aws.ec2"]}'


def lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []


def events(place: EventPlace) -> list[dict[str, Any]]:
    return [json.loads(line) for line in place.do("events", "--output", "json").splitlines()]


def create(place: EventPlace) -> str:
    return place.do("create", "--size", "1M", "--no-encrypted")


def add_events(place: EventPlace, count: int) -> list[dict[str, Any]]:
    """Events as a burst of other commands would leave them."""
    made = []
    with Catalog(place.directory / "s" / "catalog.db") as catalog:
        for number in range(count):
            volume_id = f"vol-{number:017x}"
            event = volume_event(VolumeEvent.DELETE, "deleted", volume_id=volume_id, region="r", account="1" * 12)
            catalog.add_event(event)
            made.append(event)
    return made


def script(place: EventPlace, text: str) -> str:
    """A program that a rule may run."""
    path = place.directory / "on-event"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_a_command_target_runs_after_the_command(place: EventPlace) -> None:
    """Detached, within moments; and the process that did it is gone soon after."""
    got = place.directory / "got"
    place.do("rule", "put", "r", "--event-pattern", ALL, "--command", script(place, f"cat >> {got}"))

    volume_id = create(place)
    wait_until(lambda: len(lines(got)) == 1)
    place.do("delete", volume_id)
    wait_until(lambda: len(lines(got)) == 2)

    assert lines(got) == events(place)
    wait_until(lambda: not place.deliverers())


def test_a_rule_is_never_in_the_way(place: EventPlace) -> None:
    """The command that caused an event ends while its target hangs, and so do those that follow."""
    go = place.directory / "go"
    program = script(place, f"until test -e {go}; do sleep 0.05; done")
    place.do("rule", "put", "r", "--event-pattern", ALL, "--command", program)

    for _ in range(3):
        ran = place.run("create", "--size", "1M", "--no-encrypted")
        assert (ran.status, ran.err) == (0, "")

    wait_until(lambda: len(place.deliverers()) == 1)
    (rule,) = place.run("rule", "ls", "--output", "json").json["Rules"]
    assert rule["Pending"] == 3
    go.touch()
    wait_until(lambda: not place.deliverers())


def has_lines(path: Path, least: int) -> bool:
    return len(lines(path)) >= least


def test_a_killed_deliverer_loses_nothing(place: EventPlace) -> None:
    """By kill -9 in the middle of 100 events, five times: each arrives, at most a few of them more than once."""
    got = place.directory / "got"
    place.do("rule", "put", "r", "--event-pattern", ALL, "--command", script(place, f"cat >> {got}"))
    made = add_events(place, 100)

    for least in (1, 15, 30, 45, 60):
        place.do("ls")
        wait_until(functools.partial(has_lines, got, least))
        for pid in place.deliverers():
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not place.deliverers())
        assert len(lines(got)) < 100
    place.do("ls")
    wait_until(lambda: place.run("rule", "ls", "--output", "json").json["Rules"][0]["Pending"] == 0)

    arrived_ids = [event["id"] for event in lines(got)]
    assert set(arrived_ids) == {event["id"] for event in made}
    assert len(arrived_ids) <= 105


def test_two_deliverers_never_run(place: EventPlace) -> None:
    """Commands at the same time, and `rule deliver` besides: no event is delivered twice, and none is forgotten."""
    got = place.directory / "got"
    place.do("rule", "put", "r", "--event-pattern", ALL, "--command", script(place, f"cat >> {got}"))
    add_events(place, 20)

    started = [place.start("rule", "deliver") for _ in range(2)] + [
        place.start("create", "--size", "1M", "--no-encrypted") for _ in range(3)
    ]
    for process in started:
        process.communicate(timeout=60)
        assert process.returncode == 0
    wait_until(lambda: len(lines(got)) >= 23 and not place.deliverers())

    ids = [event["id"] for event in lines(got)]
    assert sorted(ids) == sorted(event["id"] for event in events(place))


def test_a_target_that_is_back_gets_what_it_missed(place: EventPlace) -> None:
    """A failing target keeps its events; putting the rule again tries at once."""
    got, broken = place.directory / "got", place.directory / "broken"
    broken.touch()
    program = script(place, f"test -e {broken} && exit 1; cat >> {got}")
    place.do("rule", "put", "r", "--event-pattern", ALL, "--command", program)
    create(place)
    log = place.directory / "s" / "events" / "deliver.log"
    wait_until(lambda: len(lines(log)) >= 3)
    assert lines(got) == []
    assert {line["Result"] for line in lines(log)} == {"failed"}

    broken.unlink()
    place.do("rule", "put", "r", "--description", "mended")

    wait_until(lambda: lines(got) == events(place))


def test_deleting_a_rule_ends_a_deliverer_that_waits(place: EventPlace) -> None:
    """It has nothing to wait for any more."""
    place.do("rule", "put", "r", "--event-pattern", ALL, "--command", "/bin/false")
    create(place)
    log = place.directory / "s" / "events" / "deliver.log"
    wait_until(lambda: len(lines(log)) >= 3)

    place.do("rule", "delete", "r")

    wait_until(lambda: not place.deliverers(), timeout=10)


def test_a_waiting_deliverer_costs_nothing(place: EventPlace) -> None:
    """Between retries it sleeps: no CPU time goes by."""
    place.do("rule", "put", "r", "--event-pattern", ALL, "--command", "/bin/false")
    create(place)
    log = place.directory / "s" / "events" / "deliver.log"
    wait_until(lambda: any(line.get("RetryIn", 0) > 3 for line in lines(log)))
    (pid,) = place.deliverers()

    def used() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = used()
    time.sleep(1.5)  # the claim is about time that passes

    assert used() - before <= 5  # hundredths of a second


@pytest.fixture
def following(place: EventPlace) -> Iterator[Following]:
    """Starts `events --follow`; what still runs at the end of the test is ended with it."""
    with contextlib.ExitStack() as started:

        def start(*words: str) -> subprocess.Popen[str]:
            process = started.enter_context(place.start("events", "--follow", *words))
            started.callback(process.kill)
            return process

        yield start


def test_follow_prints_what_comes(place: EventPlace, following: Following) -> None:
    """Each event as it happens, by other processes; until it is interrupted."""
    create(place)
    follow = following("--output", "json")
    assert follow.stdout is not None
    seen = [json.loads(follow.stdout.readline())]
    for _ in range(2):
        create(place)
        seen.append(json.loads(follow.stdout.readline()))

    follow.send_signal(signal.SIGINT)
    _, err = follow.communicate(timeout=30)

    assert seen == events(place)
    assert (follow.returncode, err) == (130, "")


def test_follow_ends_with_its_reader(place: EventPlace, following: Following) -> None:
    """Even when nothing happens that it could fail to write."""
    create(place)
    follow = following()
    assert follow.stdout is not None
    assert follow.stdout.readline().split()[0] == "1"

    follow.stdout.close()

    assert follow.wait(30) in (0, 141)


def test_follow_goes_on_with_a_rebuilt_catalog(place: EventPlace, following: Following) -> None:
    """The new catalog is another file; whoever follows must not stare at the old one."""
    create(place)
    follow = following("--output", "json")
    assert follow.stdout is not None
    follow.stdout.readline()
    for suffix in ("", "-wal", "-shm"):
        path = place.directory / "s" / f"catalog.db{suffix}"
        if path.exists():
            path.rename(path.with_name(f"aside{suffix}"))

    create(place)

    assert json.loads(follow.stdout.readline()) == events(place)[0]
    follow.send_signal(signal.SIGINT)
    follow.communicate(timeout=30)


RE_ENABLE = """
set -eu
event=$(cat)
key=$(printf %s "$event" | jq -r '.resources[1]')
volume=$(printf %s "$event" | jq -r '.resources[0] | split("/")[1]')
export PYTHONPATH={source} PYTHONDONTWRITEBYTECODE=1
{python} -m ebscrypt.cli.main kms enable-key "$key"
{python} -m ebscrypt.cli.main attach "$volume" --export socket
"""


@pytest.mark.timeout(120)
def test_a_rule_enables_the_key_and_attaches_again(place: EventPlace) -> None:
    """AWS's own example of such a rule: the key is disabled, the attachment fails, its event has both mended."""
    key = place.do("kms", "create-key")
    volume_id = place.do("create", "--size", "16M", "--kms-key-id", key)
    pattern = {
        "source": ["aws.ec2"],
        "detail-type": ["EBS Volume Notification"],
        "detail": {
            "event": ["attachVolume", "reattachVolume"],
            "result": ["failed"],
            "cause": [{"suffix": "is disabled."}],
        },
    }
    program = script(place, RE_ENABLE.format(source=SOURCE, python=sys.executable))
    place.do("rule", "put", "re-enable", "--event-pattern", json.dumps(pattern), "--command", program)
    place.do("kms", "disable-key", key)

    place.refused("attach", volume_id, "--export", "socket")

    log = place.directory / "s" / "events" / "deliver.log"
    wait_until(lambda: len(lines(log)) >= 1, timeout=60)
    assert [line["Result"] for line in lines(log)] == ["delivered"], lines(log)
    assert place.show(volume_id)["State"] == "in-use"
    assert place.attachment(volume_id)["State"] == "attached"
    failure = events(place)[-1]
    assert failure["detail"] == {
        "event": "attachVolume",
        "result": "failed",
        "cause": f"{key} is disabled.",
        "request-id": "",
    }
    assert failure["resources"] == [f"arn:aws:ec2:us-east-1:000000000000:volume/{volume_id}", key]
