r"""Rules: which events go to which targets. Patterns are EventBridge's.

Example: have a script look at every attachment that KMS has refused

  ebscrypt rule put refused --command '/usr/local/bin/on-refused --quiet' \
      --event-pattern '{"detail": {"event": ["attachVolume"], "result": ["failed"]}}'
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ebscrypt.cli import arguments, output
from ebscrypt.cli.commands import Parser
from ebscrypt.errors import InvalidCombination, InvalidParameter

if TYPE_CHECKING:
    from ebscrypt.control.site import Site
    from ebscrypt.events.rules import Rule
    from ebscrypt.events.targets.kinds import Target

_LARGEST_FILE: Final = 1024 * 1024
_JSON: Final = "JSON, file://PATH, or - for stdin"


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser, title="commands")

    def add(name: str, handler: Any, text: str, *, hidden: bool = False) -> Parser:
        told: dict[str, Any] = {} if hidden else {"help": text}
        command: Parser = commands.add_parser(name, **told, description=text)
        command.set_defaults(handler=handler)
        arguments.add_output(command)
        return command

    put = add("put", _put, "make a rule or change one; what is not given stays as it is")
    put.add_argument("name", metavar="RULE", help="its name: up to 64 letters, digits, and any of . - _")
    put.add_argument("--event-pattern", metavar="PATTERN", help=f"which events it wants: {_JSON}")
    put.add_argument("--state", choices=("ENABLED", "DISABLED"), help="a new rule is ENABLED")
    put.add_argument("--description", metavar="TEXT", help="what it is for")
    _add_targets(put)
    add("ls", _ls, "list the rules, with their targets and what these have yet to get")
    delete = add("delete", _delete, "remove a rule with its targets")
    delete.add_argument("name", metavar="RULE", help="its name")
    test = add("test", _test, "say whether a pattern matches an event: true or false")
    test.add_argument("event_pattern", metavar="PATTERN", help=_JSON)
    test.add_argument("event", metavar="EVENT", help=_JSON)
    add("deliver", _deliver, "deliver now, in the foreground, what waits to be delivered: for a timer", hidden=True)


def _add_targets(put: Parser) -> None:
    targets = put.add_argument_group("targets", "up to 5; those that are given replace all that the rule has")
    for option, metavar, text in (
        ("--command", "COMMAND", "a program with its arguments, quoted as for a shell, run without one"),
        ("--webhook", "URL", "an http(s) URL: the event is POSTed to it"),
        ("--event-bus", "ARN", "an EventBridge event bus; the event's source is ebscrypt there"),
        ("--topic", "ARN", "an SNS topic"),
        ("--queue", "ARN", "an SQS queue"),
    ):
        dest = f"targets_{option[2:].replace('-', '_')}"
        targets.add_argument(option, metavar=metavar, action="append", default=[], dest=dest, help=text)
    targets.add_argument("--no-targets", action="store_true", help="take all targets away")
    targets.add_argument(
        "--timeout", metavar="SECONDS", type=float, default=60.0, help="for one attempt at one of these targets (60)"
    )
    targets.add_argument(
        "--maximum-retry-attempts", metavar="N", type=int, default=185, help="0 to 185, as EventBridge has it (185)"
    )
    targets.add_argument(
        "--maximum-event-age-in-seconds", metavar="S", type=int, default=86_400, help="60 to 86400 (86400)"
    )


def run(parsed: argparse.Namespace) -> int:
    with arguments.opened(parsed, recovering=False) as site:
        parsed.handler(site, parsed)
    return 0


def _put(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.events.rules import put_rule  # noqa: PLC0415 - not for --help

    targets = _targets(parsed)
    if targets and parsed.no_targets:
        raise InvalidCombination("--no-targets excludes targets")
    rule = put_rule(
        site.catalog,
        parsed.name,
        event_pattern=None if parsed.event_pattern is None else _text(parsed.event_pattern),
        enabled=None if parsed.state is None else parsed.state == "ENABLED",
        description=parsed.description,
        targets=targets if targets or parsed.no_targets else None,
    )
    if not rule.targets:
        site.notes.append(f"the rule {rule.name} has no target yet: `ebscrypt rule put {rule.name} --command …`")
    if parsed.output == "json":
        output.print_json(_record(site, rule))


def _targets(parsed: argparse.Namespace) -> dict[str, Target]:
    """Targets by ids that are the same each time the same ones are given."""
    from ebscrypt.events.targets import kinds  # noqa: PLC0415 - not for --help

    policy = kinds.RetryPolicy(parsed.maximum_retry_attempts, parsed.maximum_event_age_in_seconds)
    common: dict[str, Any] = {"timeout": parsed.timeout, "retry_policy": policy}
    given: dict[str, list[Target]] = {
        "command": [kinds.CommandTarget(argv=_words(line), **common) for line in parsed.targets_command],
        "webhook": [kinds.WebhookTarget(url=url, **common) for url in parsed.targets_webhook],
        "event-bus": [kinds.BusTarget(arn=arn, **common) for arn in parsed.targets_event_bus],
        "topic": [kinds.TopicTarget(arn=arn, **common) for arn in parsed.targets_topic],
        "queue": [kinds.QueueTarget(arn=arn, **common) for arn in parsed.targets_queue],
    }
    return {f"{kind}-{number}": one for kind, ones in given.items() for number, one in enumerate(ones, 1)}


def _words(line: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(line))
    except ValueError as error:
        raise InvalidParameter(f"--command {line[:60]!r} cannot be split into words: {error}") from None
    if not words:
        raise InvalidParameter("--command is empty")
    return words


def _ls(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.events.rules import list_rules  # noqa: PLC0415 - not for --help

    records = [(rule, _record(site, rule)) for rule in list_rules(site.catalog)]
    if parsed.output == "json":
        output.print_json({"Rules": [record for _, record in records]})
        return
    heads = ("RULE", "STATE", "PENDING", "DEAD", "TARGETS")
    rows = [
        (
            rule.name,
            record["State"],
            str(rule.pending),
            str(record["DeadLetters"]),
            ", ".join(map(str, rule.targets.values())) or "-",
        )
        for rule, record in records
    ]
    output.print_table(heads, rows)


def _record(site: Site, rule: Rule) -> dict[str, Any]:
    """A rule as EventBridge's DescribeRule and ListTargetsByRule would tell it, and what is ours."""
    import msgspec  # noqa: PLC0415 - not for --help

    from ebscrypt.events import records  # noqa: PLC0415 - the same

    return {
        "Name": rule.name,
        "EventPattern": rule.event_pattern,
        "State": "ENABLED" if rule.enabled else "DISABLED",
        "Description": rule.description,
        "Targets": [{"Id": target_id} | msgspec.to_builtins(target) for target_id, target in rule.targets.items()],
        "Pending": rule.pending,
        "DeadLetters": records.count_dead_letters(site.settings, rule.name),
        "DeadLetterFile": str(records.dead_letters_path(site.settings, rule.name)),
    }


def _delete(site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.events.rules import delete_rule  # noqa: PLC0415 - not for --help
    from ebscrypt.events.turn import wake  # noqa: PLC0415 - the same

    delete_rule(site.catalog, parsed.name)
    wake(site.settings)  # a deliverer that waits for its next retry has nothing to wait for


def _test(_site: Site, parsed: argparse.Namespace) -> None:
    from ebscrypt.events.rules import test_event_pattern  # noqa: PLC0415 - not for --help

    try:
        event = json.loads(_text(parsed.event))
    except (ValueError, RecursionError) as error:
        raise InvalidParameter(f"the event is not JSON: {error}") from None
    matches = test_event_pattern(_text(parsed.event_pattern), event)
    if parsed.output == "json":
        output.print_json({"Result": matches})
    else:
        print("true" if matches else "false")


def _deliver(site: Site, parsed: argparse.Namespace) -> None:
    """For a timer: what `ebscrypt` starts by itself after each command that leaves events behind."""
    from ebscrypt.events.deliver import run as deliver  # noqa: PLC0415 - not for --help

    if not deliver(site.settings):
        arguments.say("another deliverer is at work", parsed)


def _text(given: str) -> str:
    """The text of an argument that may name a file, as AWS's command line has it."""
    if given == "-":
        return sys.stdin.read(_LARGEST_FILE)
    if not given.startswith("file://"):
        return given
    path = Path(given.removeprefix("file://"))
    try:
        with path.open(encoding="utf-8") as file:
            return file.read(_LARGEST_FILE)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidParameter(f"cannot read {path}: {error}") from None
