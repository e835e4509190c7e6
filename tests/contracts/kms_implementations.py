"""The KMS implementations that one contract suite runs against, and where each is known to differ, with the reason.

A difference is declared as a strict expected failure: the test runs, must fail, and tells when it no longer does.
AWS takes part when EBSCRYPT_TEST_AWS_KMS=1 says so. It then uses the ordinary credential chain, and leaves keys pending
deletion behind, which costs a little. Tests of what a second principal may do need one, who has no permissions of his
own in KMS: EBSCRYPT_TEST_AWS_KMS_GRANTEE names his profile. Without it AWS takes no part in those.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from ebscrypt import config
from ebscrypt.config import KmsSettings, PathSettings, Settings
from ebscrypt.errors import KmsError
from ebscrypt.kms.client import KmsClient

AWS: Final = os.environ.get("EBSCRYPT_TEST_AWS_KMS") == "1"
AWS_GRANTEE: Final = os.environ.get("EBSCRYPT_TEST_AWS_KMS_GRANTEE", "")
GRANTEE: Final = "arn:aws:sts::111122223333:assumed-role/aws:ec2-infrastructure/i-0123456789abcdef0"
"""The second principal, where principals are what we say."""
GRANTEE_ACCESS_KEY_ID: Final = "AKIAGRANTEE"
"""What the second principal shows to `serve`."""
PATIENCE: Final = 300.0
"""Seconds that AWS may take until a grant's end has reached all of KMS (facts §5.2)."""

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
    "grants": "moto keeps what it is asked: names are not idempotent, any token or operation is right",
    "second principal": "moto enforces no grants",
    "import": "moto implements no operation on imported key material",
    "rotation": "moto rotates no material, and shows neither period nor next date",
    "policies": "moto takes any text for a key policy",
    "tags": "moto takes doubled and reserved tags",
    "pages of everything": "moto ignores Limit of listings",
}
IMPLEMENTATIONS: Final[dict[str, dict[str, str]]] = {"embedded": {}, "http": {}, "moto": MOTO_DIFFERS} | (
    {"aws": {}} if AWS else {}
)


def on_every_kms(*needed: str) -> pytest.MarkDecorator:
    """Run a test on each implementation; ``needed`` are the capabilities that it is about."""
    without = {"aws"} if "second principal" in needed and not AWS_GRANTEE else set[str]()
    unknown = set(needed) - set(MOTO_DIFFERS)
    assert not unknown, f"no such capability: {unknown}"
    cases = []
    for name, differs in IMPLEMENTATIONS.items():
        if name in without:
            continue
        reasons = [differs[capability] for capability in needed if capability in differs]
        marks = [pytest.mark.xfail(reason="; ".join(reasons), strict=True)] if reasons else []
        cases.append(pytest.param(name, id=name, marks=marks))
    return pytest.mark.parametrize("kms", cases, indirect=True)


@dataclass
class Kms:
    """One implementation, reached as ebscrypt reaches any KMS."""

    name: str
    client: KmsClient
    grantee: KmsClient
    """The same KMS, asked by a second principal; who he is on AWS, AWS tells."""
    made: list[str] = field(default_factory=list)

    def key(self, **parameters: Any) -> str:
        """The ARN of a new key, which is scheduled for deletion when the test is over."""
        arn: str = self.client.call("CreateKey", Description="ebscrypt contract test", **parameters)["KeyMetadata"][
            "Arn"
        ]
        self.made.append(arn)
        return arn

    def refusal(self, operation: str, **parameters: Any) -> str:
        """The type of the error with which a request must be refused."""
        with pytest.raises(KmsError) as caught:
            self.client.call(operation, **parameters)
        return str(caught.value.kms_code)

    def granted(self, key: str, **more: Any) -> dict[str, Any]:
        """A grant to Decrypt."""
        asked = {"GranteePrincipal": self.root_of(key), "Operations": ["Decrypt"]} | more
        return self.client.call("CreateGrant", KeyId=key, **asked)

    def root_of(self, key: str) -> str:
        """The root of the account that a key is in: a principal that there is everywhere."""
        _, partition, _, _, account, _ = key.split(":", 5)
        return f"arn:{partition}:iam::{account}:root"

    def grantee_arn(self) -> str:
        """The second principal's ARN."""
        if self.name != "aws":
            return GRANTEE
        import boto3  # noqa: PLC0415 - as everywhere in tests that AWS takes part in

        return str(boto3.Session(profile_name=AWS_GRANTEE).client("sts").get_caller_identity()["Arn"])

    def becomes(self, check: Callable[[], bool]) -> bool:
        """Whether something is so: at once, or on AWS, which spreads the news of grants, after a while."""
        deadline = time.monotonic() + (PATIENCE if self.name == "aws" else 0)
        while not (found := check()) and time.monotonic() < deadline:
            time.sleep(5)
        return found

    def state(self, key: str) -> str:
        """A key's state."""
        return self.client.describe_key(key).state

    def clean_up(self) -> None:
        """Leave nothing that could be used, or cost more than it must."""
        for arn in self.made if self.name == "aws" else []:
            if self.state(arn) != "PendingDeletion":
                self.client.call("ScheduleKeyDeletion", KeyId=arn, PendingWindowInDays=7)


def settings_of_the_grantee(state: Path, endpoint: str) -> Settings:
    """The same, for the second principal: over HTTP it is the profile ``grantee`` that tells who asks."""
    settings = settings_at(state, endpoint)
    profile = {"embedded": "", "aws": AWS_GRANTEE}.get(endpoint, "grantee")
    return msgspec.structs.replace(settings, kms=msgspec.structs.replace(settings.kms, profile=profile))


def settings_at(state: Path, endpoint: str) -> Settings:
    """Settings of a KMS at ``endpoint``, with its state in a place of its own."""
    if endpoint == "aws":
        return msgspec.structs.replace(config.load(), kms=KmsSettings(endpoint="aws", region=config.load().kms.region))
    return Settings(
        paths=PathSettings(state=str(state), runtime=str(state / "run")),
        kms=KmsSettings(endpoint=endpoint, region="eu-central-1", account="111122223333"),
    )


SERVE: Final = f"""
import sys
from ebscrypt import config
from ebscrypt.kms.embedded.http import serve
principals = {{{GRANTEE_ACCESS_KEY_ID!r}: {GRANTEE!r}}}
serve(config.load(), "127.0.0.1", 0, lambda url: print(url, flush=True), principals=principals)
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
