"""The entry of `ebscrypt`: find the command, run it, tell its errors.

    exit status   0 done    1 refused or failed    2 usage    130 interrupted    141 nobody reads the output any more

An error is one line, ``ebscrypt: error: …``, and what to do about it another, ``hint: …``, both on stderr. With
``--output json`` it is the error's record as one JSON line on stderr instead.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Sequence

from ebscrypt.cli.commands import parse
from ebscrypt.errors import EbscryptError, NotPermitted

INTERRUPTED = 130
NO_READER = 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    # What is made here holds data or leads to it: for its owner only.
    os.umask(0o077)
    try:
        status = _run(words)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Python would complain once more when it flushes at exit: let it flush into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NO_READER
    return status


def _run(words: list[str]) -> int:
    try:
        parsed = parse(words)
        status: int = parsed.run(parsed)
    except EbscryptError as error:
        return _tell(error, words)
    except PermissionError as error:
        where = f" {error.filename}" if error.filename else ""
        told = NotPermitted(f"this user may not use{where}: {error.strerror}", hint="run the command with sudo")
        return _tell(told, words)
    return status


def _tell(error: EbscryptError, words: list[str]) -> int:
    sys.stdout.flush()
    if wants_json(words):
        print(json.dumps(error.record()), file=sys.stderr)
    else:
        print(f"ebscrypt: error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
    return error.exit_status


def wants_json(words: list[str]) -> bool:
    """Whether ``--output json`` was said, judged without a parser: it may be the parser that failed."""
    return "--output=json" in words or ("--output", "json") in itertools.pairwise(words)


if __name__ == "__main__":
    sys.exit(main())
