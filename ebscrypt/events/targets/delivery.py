"""One attempt to deliver one event, whatever the kind of target."""

from __future__ import annotations

from ebscrypt.events.targets import command, webhook
from ebscrypt.events.targets.kinds import CommandTarget, Target, WebhookTarget


def deliver(target: Target, body: str, *, profile: str) -> str:
    """Hand the event over; what there is to say about it for the log. Raises `Undelivered`."""
    match target:
        case CommandTarget():
            return command.deliver(target, body)
        case WebhookTarget():
            return webhook.deliver(target, body)
        case _:
            from ebscrypt.events.targets import aws  # noqa: PLC0415 - boto3, which the other kinds do without

            return aws.deliver(target, body, profile)
