"""The completion script, run by a real bash."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (["ebscrypt", "cre"], {"create"}),
        (["ebscrypt", "de"], {"detach", "delete", "default-encryption"}),
        (["ebscrypt", "create", "--s"], {"--size", "--sector-size", "--snapshot-id"}),
        (["ebscrypt", "attach", "vol-0123456789abcdef0", "--ex"], {"--export"}),
        (["ebscrypt", "kms", "enable"], {"enable", "enable-key", "enable-key-rotation"}),
        (["ebscrypt", "kms", "root-key", "s"], {"show", "seal"}),
        (["ebscrypt", "kms", "rotate-root", "--w"], {"--with-key"}),
        (["ebscrypt", "kms", "create-key", "--d"], {"--description"}),
    ],
)
def test_bash_completes(run: Run, tmp_path: Path, line: list[str], expected: set[str]) -> None:
    """Commands, their own commands and their options."""
    script = tmp_path / "completion"
    script.write_text(run("completion", "bash").out)
    words = " ".join(f'"{word}"' for word in line)
    code = (
        f'. {script}; COMP_WORDS=({words}); COMP_CWORD={len(line) - 1}; _ebscrypt; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )

    ran = subprocess.run(["bash", "-euc", code], capture_output=True, text=True, check=True)

    assert set(ran.stdout.split()) == expected


def test_zsh_gets_the_same_through_its_bash_layer(run: Run) -> None:
    """Its bashcompinit first, the script after."""
    script = run("completion", "zsh").out

    assert script.startswith("#compdef ebscrypt\n")
    assert script.endswith(run("completion", "bash").out)
