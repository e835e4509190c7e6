"""The KMS implementations that one contract suite runs against, and where each is known to differ, with the reason.

A difference is declared as a strict expected failure: the test runs, must fail, and tells when it no longer does.
AWS takes part when EBSCRYPT_TEST_AWS_KMS=1 says so. It then uses the ordinary credential chain, and leaves keys pending
deletion behind, which costs a little.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from ebscrypt import config
from ebscrypt.config import KmsSettings, PathSettings, Settings
from ebscrypt.kms.client import KmsClient

AWS: Final = os.environ.get("EBSCRYPT_TEST_AWS_KMS") == "1"

MOTO_DIFFERS: Final = {
    "key states": "moto ignores the key's state on use",
    "deletion": "moto ignores a window outside of 7 to 30 days and enables keys that are pending deletion",
    "foreign ciphertext": "moto answers AccessDeniedException to blobs that are not its own, and to wrong key ids",
    "framed context": "moto joins the context's names and values without lengths",
    "key usage": "moto ignores usage and spec of the key",
    "dry run": "moto ignores DryRun",
    "imported material": "moto creates keys of origin EXTERNAL enabled",
    "pages": "moto ignores Limit of ListKeys",
    "managed key": "moto calls the key behind alias/aws/ebs a customer's",
}
IMPLEMENTATIONS: Final[dict[str, dict[str, str]]] = {"embedded": {}, "http": {}, "moto": MOTO_DIFFERS} | (
    {"aws": {}} if AWS else {}
)


def on_every_kms(*needed: str) -> pytest.MarkDecorator:
    """Run a test on each implementation; ``needed`` are the capabilities that it is about."""
    unknown = set(needed) - set(MOTO_DIFFERS)
    assert not unknown, f"no such capability: {unknown}"
    cases = []
    for name, differs in IMPLEMENTATIONS.items():
        reasons = [differs[capability] for capability in needed if capability in differs]
        marks = [pytest.mark.xfail(reason="; ".join(reasons), strict=True)] if reasons else []
        cases.append(pytest.param(name, id=name, marks=marks))
    return pytest.mark.parametrize("kms", cases, indirect=True)


@dataclass
class Kms:
    """One implementation, reached as ebscrypt reaches any KMS."""

    name: str
    client: KmsClient
    made: list[str] = field(default_factory=list)

    def key(self, **parameters: Any) -> str:
        """The ARN of a new key, which is scheduled for deletion when the test is over."""
        arn: str = self.client.call("CreateKey", Description="ebscrypt contract test", **parameters)["KeyMetadata"][
            "Arn"
        ]
        self.made.append(arn)
        return arn

    def state(self, key: str) -> str:
        """A key's state."""
        return self.client.describe_key(key).state

    def clean_up(self) -> None:
        """Leave nothing that could be used, or cost more than it must."""
        for arn in self.made if self.name == "aws" else []:
            if self.state(arn) != "PendingDeletion":
                self.client.call("ScheduleKeyDeletion", KeyId=arn, PendingWindowInDays=7)


def settings_at(state: Path, endpoint: str) -> Settings:
    """Settings of a KMS at ``endpoint``, with its state in a place of its own."""
    if endpoint == "aws":
        return msgspec.structs.replace(config.load(), kms=KmsSettings(endpoint="aws", region=config.load().kms.region))
    return Settings(
        paths=PathSettings(state=str(state), runtime=str(state / "run")),
        kms=KmsSettings(endpoint=endpoint, region="eu-central-1", account="111122223333"),
    )


SERVE: Final = """
import sys
from ebscrypt import config
from ebscrypt.kms.embedded.http import serve
serve(config.load(), "127.0.0.1", 0, lambda url: print(url, flush=True))
"""
MOTO: Final = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%d" % server.get_host_and_port(), flush=True)
sys.stdin.read()
server.stop()
"""


@contextlib.contextmanager
def serving(program: str, state: Path) -> Iterator[str]:
    """The URL of a server in a process of its own, which ends with the block."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "EBSCRYPT_"))}
    own = {"EBSCRYPT_STATE_DIR": str(state), "EBSCRYPT_REGION": "eu-central-1", "EBSCRYPT_ACCOUNT": "111122223333"}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=clean | own,
    ) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://"), "the server did not start"
            yield url
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.terminate()
            process.wait(30)
