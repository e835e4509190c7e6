"""Check a volume: state, backing, both header copies, token and key. Exit status 0 when all is well, else 1.

Nothing is changed without --repair, which writes a bad header copy again from the good one and lets the catalog have
what the header says.
"""

from __future__ import annotations

import argparse

import msgspec

from ebscrypt.cli import arguments, output


def configure(parser: argparse.ArgumentParser) -> None:
    arguments.add_volume(parser)
    parser.add_argument("--repair", action="store_true", help="mend what can be mended")
    parser.add_argument("--unwrap", action="store_true", help="have KMS unwrap the key, as an attachment would")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.check import Result, check_volume  # noqa: PLC0415 - not for --help

    with arguments.opened(parsed) as site:
        findings = check_volume(site, parsed.volume_id, repair=parsed.repair, unwrap=parsed.unwrap)
    sound = all(finding.result in (Result.OK, Result.REPAIRED) for finding in findings)
    if parsed.output == "json":
        told = [msgspec.to_builtins(finding) for finding in findings]
        output.print_json({"VolumeId": parsed.volume_id, "Sound": sound, "Findings": told})
        return 0 if sound else 1
    width = max(len(finding.result) for finding in findings)
    for finding in findings:
        print(f"{finding.result.ljust(width)}  {finding.check}: {finding.message}")
        if finding.hint:
            print(f"{' ' * width}  hint: {finding.hint}")
    return 0 if sound else 1
