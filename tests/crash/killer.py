"""Runs `ebscrypt` commands and kills them (SIGKILL) at a chosen point: ``python -m tests.crash.killer``.

A point is the moment after a named step of a use case (`ebscrypt.control.faultpoints`) or after a call that changes
files: what is durable then is what a crash leaves. One job a line on stdin, one answer a line on stdout:

    {"words": […], "environ": {…}, "kill_at": 0}  →  {"status": 0, "points": ["create.entered", "pwrite", …]}
    {"words": […], "environ": {…}, "kill_at": 7}  →  {"status": -9, "points": []}

With ``"only": "stack."`` only points whose names begin so count. With ``"sql": true`` the moment before each SQL
statement of the embedded KMS is a point as well.

Each job runs in a fork of this process, which has imported everything: that is many times faster than a new Python.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import sqlalchemy

from ebscrypt.cli.main import main
from ebscrypt.control import (
    check,
    create,
    delete,
    detach,
    faultpoints,
    filler,
    filling,
    rebuild,
    recover,
    resize,
    snapshots,
)
from ebscrypt.kms.embedded import backup, root_change, store, transport

PRELOADED = (
    boto3,
    botocore.session,
    sqlalchemy,
    check,
    create,
    delete,
    detach,
    filling,
    rebuild,
    recover,
    resize,
    snapshots,
    transport,
    backup,
    root_change,
)
CHANGES = ("pwrite", "ftruncate", "truncate", "fsync", "unlink", "rmdir", "replace", "rename", "mkdir", "symlink")


def arm(kill_at: int, points: list[str], *, only: str = "", sql: bool = False) -> None:
    """Count points that begin with ``only``, and end this process at the one of that number (0: never)."""

    def strike(name: str) -> None:
        if not name.startswith(only):
            return
        points.append(name)
        if len(points) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def striking(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any, **options: Any) -> Any:
            result = call(*arguments, **options)
            strike(name)
            return result

        return called

    def traced(path: Path, timeout: float, connect: Callable[..., Any] = store._connect) -> sqlite3.Connection:
        connection: sqlite3.Connection = connect(path, timeout)
        connection.set_trace_callback(lambda statement: strike(" ".join(statement.split()[:3])))
        return connection

    # Volumes are filled by `fill` alone, at points that the tests choose.
    filler.start_filler = lambda *_: None
    faultpoints.reach = strike
    for name in CHANGES:
        setattr(os, name, striking(name, getattr(os, name)))
    if sql:
        store._connect = traced


def run(job: dict[str, Any], answer: int) -> int:
    """One job, in a process of its own; its points go to the descriptor ``answer``."""
    for name in [name for name in os.environ if name.startswith("EBSCRYPT_")]:
        del os.environ[name]
    os.environ.update(job["environ"])
    points: list[str] = []
    arm(job["kill_at"], points, only=job.get("only", ""), sql=job.get("sql", False))
    try:
        status = main(job["words"])
    except SystemExit as ending:
        status = int(ending.code or 0)
    os.write(answer, json.dumps(points).encode())
    return status


def fork(job: dict[str, Any]) -> dict[str, Any]:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(2, 1)
            os._exit(run(job, writing))
        except BaseException:  # noqa: BLE001 - a forked process must never get out of here
            sys.excepthook(*sys.exc_info())
            os._exit(70)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        told = answer.read()
    return {"status": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "points": json.loads(told or b"[]")}


if __name__ == "__main__":
    for line in sys.stdin:
        sys.stdout.write(json.dumps(fork(json.loads(line))) + "\n")
        sys.stdout.flush()
