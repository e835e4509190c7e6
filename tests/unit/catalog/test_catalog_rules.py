"""Rules and deliveries in the catalog: what is taken in, kept, put off and dropped, and what a race cannot break."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ebscrypt.catalog.catalog import Catalog
from ebscrypt.catalog.events import VolumeEvent, volume_event
from ebscrypt.catalog.rules import CLOCK_LEAP, StoredRule
from ebscrypt.errors import RuleNotFound

NOW = 1_700_000_000.0


def add_events(catalog: Catalog, count: int) -> list[dict[str, Any]]:
    events = [
        volume_event(VolumeEvent.CREATE, "available", volume_id=f"vol-{number:017x}", region="r", account="1" * 12)
        for number in range(count)
    ]
    for event in events:
        catalog.add_event(event)
    return events


def stored(name: str = "rule", **fields: Any) -> StoredRule:
    given: dict[str, Any] = {"event_pattern": "{}", "enabled": True, "description": "", "targets": {"a": "A"}}
    return StoredRule(name=name, **(given | fields))


def take_all(catalog: Catalog, name: str = "rule", now: float = NOW) -> None:
    rule = catalog.rules.one(name)
    events = catalog.rules.unseen(rule, 1000)
    assert catalog.rules.take_in(rule, events[-1][0], [sequence for sequence, _ in events], now)


def test_a_new_rule_wants_what_comes_after_it(catalog: Catalog) -> None:
    """Events from before it was put are not for it."""
    add_events(catalog, 2)
    catalog.rules.put(stored())
    assert not catalog.rules.is_work_left()

    (event,) = add_events(catalog, 1)

    assert catalog.rules.is_work_left()
    assert [body for _, body in catalog.rules.unseen(catalog.rules.one("rule"), 10)] == [event]


def test_changing_a_rule_loses_no_event(catalog: Catalog) -> None:
    """An enabled rule that is put again still has to look at what it has not; one that was disabled has not."""
    catalog.rules.put(stored())
    add_events(catalog, 1)
    catalog.rules.put(stored(event_pattern='{"source": ["aws.ec2"]}'))
    assert len(catalog.rules.unseen(catalog.rules.one("rule"), 10)) == 1

    catalog.rules.put(stored(enabled=False))
    assert not catalog.rules.is_work_left()
    add_events(catalog, 1)
    catalog.rules.put(stored())

    assert catalog.rules.unseen(catalog.rules.one("rule"), 10) == []


def test_taking_in_makes_one_delivery_a_target(catalog: Catalog) -> None:
    """Each matched event for each target, the event as it was; the cursor moves over the others too."""
    catalog.rules.put(stored(targets={"a": "A", "b": "B"}))
    events = add_events(catalog, 3)

    assert catalog.rules.take_in(catalog.rules.one("rule"), 3, [2], NOW)

    first = catalog.rules.due(NOW)
    assert first is not None
    second = catalog.rules.due(NOW, busy=[("rule", first.target_id)])
    assert second is not None
    assert {(one.target_id, one.target) for one in (first, second)} == {("a", "A"), ("b", "B")}
    assert first.event == second.event == events[1]
    assert (first.attempts, first.created) == (0, NOW)
    assert catalog.rules.due(NOW, busy=[("rule", "a"), ("rule", "b")]) is None
    assert catalog.rules.one("rule").cursor == 3
    assert catalog.rules.one("rule").pending == 2


@pytest.mark.parametrize("change", ["pattern", "disabled", "taken in"])
def test_a_rule_that_changed_meanwhile_takes_nothing_in(catalog: Catalog, change: str) -> None:
    """What was matched against the rule as it was before is not entered, and its cursor stays."""
    catalog.rules.put(stored())
    add_events(catalog, 1)
    old = catalog.rules.one("rule")
    if change == "taken in":
        take_all(catalog)
    else:
        catalog.rules.put(stored(event_pattern='{"a": [1]}') if change == "pattern" else stored(enabled=False))
    before = catalog.rules.one("rule")

    assert not catalog.rules.take_in(old, 1, [1], NOW)

    assert catalog.rules.one("rule") == before


def test_deliveries_are_due_in_their_order(catalog: Catalog) -> None:
    """The one that waits longest first; what was put off is due again later, with one more attempt."""
    catalog.rules.put(stored())
    first, second = add_events(catalog, 2)
    take_all(catalog)
    one = catalog.rules.due(NOW)
    assert one is not None
    assert one.event == first

    catalog.rules.put_off(one, NOW + 60)

    other = catalog.rules.due(NOW)
    assert other is not None
    assert other.event == second
    catalog.rules.remove_delivery(other)
    assert catalog.rules.due(NOW + 59) is None
    assert catalog.rules.next_due() == NOW + 60
    assert catalog.rules.next_due(busy=[("rule", "a")]) is None
    again = catalog.rules.due(NOW + 60)
    assert again is not None
    assert (again.attempts, again.event) == (1, first)


def test_a_clock_that_was_wrong_does_not_hold_events_for_years(catalog: Catalog) -> None:
    """What is due in a future that no pause reaches is due now."""
    catalog.rules.put(stored())
    add_events(catalog, 1)
    take_all(catalog, now=NOW + CLOCK_LEAP + 1)

    assert catalog.rules.due(NOW) is not None
    assert catalog.rules.due(NOW + 2) is None


def test_a_target_that_stays_keeps_what_it_has_yet_to_get(catalog: Catalog) -> None:
    """A put with the same id and another body delivers there; a target that goes takes its deliveries along."""
    catalog.rules.put(stored(targets={"a": "A", "b": "B"}))
    add_events(catalog, 2)
    take_all(catalog)

    catalog.rules.put(stored(targets={"a": "new", "c": "C"}))

    assert catalog.rules.one("rule").pending == 2
    left = catalog.rules.due(NOW)
    assert left is not None
    assert (left.target_id, left.target) == ("a", "new")


def test_putting_a_rule_again_tries_again_now(catalog: Catalog) -> None:
    """Who has mended a target need not wait for the pause that its failures earned."""
    catalog.rules.put(stored())
    add_events(catalog, 1)
    take_all(catalog)
    delivery = catalog.rules.due(NOW)
    assert delivery is not None
    catalog.rules.put_off(delivery, NOW + 900)
    assert catalog.rules.due(NOW) is None

    catalog.rules.put(stored())

    again = catalog.rules.due(NOW)
    assert again is not None
    assert again.attempts == 1


def test_a_removed_rule_leaves_nothing(catalog: Catalog) -> None:
    """Neither targets nor deliveries; removing it again is refused by name."""
    catalog.rules.put(stored())
    add_events(catalog, 1)
    take_all(catalog)

    catalog.rules.remove("rule")

    assert catalog.rules.all() == []
    assert catalog.rules.due(NOW) is None
    assert not catalog.rules.is_work_left()
    with pytest.raises(RuleNotFound, match="'rule'"):
        catalog.rules.remove("rule")


def test_the_oldest_events_go(tmp_path: Path) -> None:
    """The catalog keeps the newest so many, and their sequence numbers go on."""
    with Catalog(tmp_path / "catalog.db", keep_events=3) as catalog:
        events = add_events(catalog, 5)

        assert catalog.events() == [(3, events[2]), (4, events[3]), (5, events[4])]
        assert catalog.newest_sequence() == 5
        assert catalog.newest_events(2) == [(4, events[3]), (5, events[4])]
        assert catalog.newest_events(9) == catalog.events()
        assert catalog.events(after=3, limit=1) == [(4, events[3])]
        assert (catalog.sequence_of(events[4]["id"]), catalog.sequence_of(events[0]["id"])) == (5, None)


def test_what_a_rule_has_not_looked_at_stays(tmp_path: Path) -> None:
    """Retention never takes an event from under an enabled rule; a disabled one holds nothing back."""
    with Catalog(tmp_path / "catalog.db", keep_events=2) as catalog:
        catalog.rules.put(stored())
        catalog.rules.put(stored("off", enabled=False))
        events = add_events(catalog, 6)
        assert [event for _, event in catalog.events()] == events
        take_all(catalog)

        add_events(catalog, 1)

        assert [sequence for sequence, _ in catalog.events()] == [6, 7]
        assert catalog.rules.one("rule").pending == 6
        left = catalog.rules.due(NOW)
        assert left is not None
        assert left.event == events[0]
