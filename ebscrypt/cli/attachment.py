"""The steps around the daemon that the systemd units run, and those of the watch over a KMS key. Not for people.

prepare, commit, stop and clean are ebscrypt@.service's; watch is ebscrypt-watch@.service's, and starts check-key, which
may start detach.
"""

from __future__ import annotations

import argparse

from ebscrypt.cli import arguments

_OF_THE_UNIT = ("prepare", "commit", "stop", "clean")


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("step", choices=(*_OF_THE_UNIT, "watch", "check-key", "detach"))
    arguments.add_volume(parser)
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    if parsed.step == "watch":
        return _watch(parsed)
    if parsed.step == "check-key":
        return _check_key(parsed)
    if parsed.step == "detach":
        from ebscrypt.control.key_action import detach_unusable  # noqa: PLC0415 - not for --help

        with arguments.opened(parsed, recovering=False) as site:
            detach_unusable(site, parsed.volume_id)
        return 0
    from ebscrypt.control.unit import run_step  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed, recovering=False) as site:
        run_step(site, parsed.step, parsed.volume_id)
    return 0


def _watch(parsed: argparse.Namespace) -> int:
    """Not by way of `arguments.opened`: this process lives as long as the attachment, and should be small."""
    from ebscrypt import config  # noqa: PLC0415 - not for --help
    from ebscrypt.control.watch import run as watch  # noqa: PLC0415 - the same
    from ebscrypt.model import check_volume_id  # noqa: PLC0415 - the same

    return watch(config.load(), check_volume_id(parsed.volume_id))


def _check_key(parsed: argparse.Namespace) -> int:
    from ebscrypt import config  # noqa: PLC0415 - not for --help
    from ebscrypt.control.key_action import turn  # noqa: PLC0415 - the same
    from ebscrypt.control.site import Site  # noqa: PLC0415 - the same
    from ebscrypt.control.watch import start_detach  # noqa: PLC0415 - the same
    from ebscrypt.core import harden_process  # noqa: PLC0415 - the same
    from ebscrypt.model import check_volume_id  # noqa: PLC0415 - the same

    # An endpoint that does not know DryRun answers with the plaintext: no core file, and nobody looks in.
    harden_process(lock_memory=False, io_flusher=False)
    # Nor is this one opened by `arguments.opened`, whose imports would be half of its work.
    with Site(config.load()) as site:
        is_to_be_detached = turn(site, check_volume_id(parsed.volume_id))
    if is_to_be_detached:
        start_detach(site.settings, parsed.volume_id)
    return 0
