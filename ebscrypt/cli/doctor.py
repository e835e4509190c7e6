"""Check this machine; with --kms-key-id also whether the caller may do with a KMS key what volumes need.

The key is tried with KMS's DryRun, and one data key is made and forgotten; no volume is touched. The policies that
would allow it all are printed. Exit status 0 when nothing is missing, else 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from ebscrypt.cli import arguments, output

if TYPE_CHECKING:
    from ebscrypt.control.doctor import Finding
    from ebscrypt.control.doctor_key import KeyExamination


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kms-key-id", metavar="KEY", help="also try this key: its id, ARN, alias/… or alias ARN")
    arguments.add_output(parser)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.control.doctor import Level, examine  # noqa: PLC0415 - not for --help

    key: KeyExamination | None = None
    with arguments.opened(parsed, recovering=False) as site:
        machine = examine(site)
        if parsed.kms_key_id is not None:
            from ebscrypt.control.doctor_key import examine_key  # noqa: PLC0415 - the same

            key = examine_key(site, parsed.kms_key_id)
    findings = [*machine, *(key.findings if key else [])]
    sound = all(finding.level is not Level.PROBLEM for finding in findings)
    if parsed.output == "json":
        told = {"Sound": sound, "Findings": msgspec.to_builtins(machine)}
        output.print_json(told | ({"Key": msgspec.to_builtins(key)} if key else {}))
    else:
        _print(machine)
        if key is not None:
            _print_key(key)
    return 0 if sound else 1


def _print(findings: Sequence[Finding]) -> None:
    width = max((len(finding.level) for finding in findings), default=0)
    for finding in findings:
        print(f"{finding.level.ljust(width)}  {finding.check}: {finding.message}")
        if finding.hint:
            print(f"{' ' * width}  hint: {finding.hint}")


def _print_key(key: KeyExamination) -> None:
    print(f"\n{key.kms_key_id}{f', as {key.caller}' if key.caller else ''}")
    _print(key.findings)
    print("\nIAM policy that allows the caller what is tried above:")
    print(json.dumps(key.iam_policy, indent=2))
    print("\nStatements for the key's own policy, where that does not leave it to IAM or the key is another account's:")
    print(json.dumps(key.key_policy_statements, indent=2))
    print(
        "\nNeither has kms:ViaService or kms:GrantIsForAWSResource: they hold for calls that EC2 makes, not for these."
    )
