"""Named places between the steps of a use case, at which the crash tests kill the process.

A use case calls `reach` after each step that outlives a crash. Here it does nothing; nothing in the environment, the
settings or the command line changes that. The crash tests start a process of their own, put a killer in its place, and
sweep over every name that a command reaches, so that a new step is tested by being there.
"""

from __future__ import annotations


def reach(name: str) -> None:
    """Mark that the step called ``name`` is done."""
