"""A place with a server in it, and the aws command."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.behaviour.ebs_direct.server import Server
from tests.behaviour.volume.place import TIMEOUT, Place


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def server(place: Place) -> Iterator[Server]:
    made = Server(place)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def aws(server: Server, tmp_path: Path) -> Callable[..., Any]:
    """The aws command, `aws ec2 …`: its JSON output, or its error text when it fails."""

    def run(*arguments: str, fails: bool = False) -> Any:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        own = {
            "AWS_ACCESS_KEY_ID": server.key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": server.key["SecretAccessKey"],
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "HOME": str(tmp_path),
            "NO_PROXY": "127.0.0.1",
        }
        # Where pyenv provides the aws command, it needs to know its place whatever HOME says.
        pyenv = {name: value for name, value in os.environ.items() if name.startswith("PYENV_")}
        done = subprocess.run(
            ["aws", "--endpoint-url", server.url, "--output", "json", "ec2", *arguments],
            env=clean | own | pyenv,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT,
        )
        assert (done.returncode != 0) is fails, done.stderr
        return done.stderr if fails else json.loads(done.stdout or "null")

    return run
