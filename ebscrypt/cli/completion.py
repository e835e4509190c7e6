"""Print a completion script for a shell. For bash: ebscrypt completion bash > /etc/bash_completion.d/ebscrypt"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Final

_BASH: Final = """\
# bash completion for ebscrypt; made by `ebscrypt completion bash`
_ebscrypt() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} path="" word
    for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
        case $word in -*) ;; *) [[ $path == */* ]] || path=$path${{path:+/}}$word ;; esac
    done
    case $path in
{cases}
    *) COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
}}
complete -o default -F _ebscrypt ebscrypt
"""
_ZSH: Final = "#compdef ebscrypt\nautoload -U +X bashcompinit && bashcompinit\n"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"))
    parser.add_argument("--output", choices=("text",), default="text", help=argparse.SUPPRESS)


def run(parsed: argparse.Namespace) -> int:
    from ebscrypt.cli.commands import COMMANDS, build  # noqa: PLC0415 - it imports us

    script = _BASH.format(cases="\n".join(_cases(build(list(COMMANDS)), "")))
    print((_ZSH if parsed.shell == "zsh" else "") + script, end="")
    return 0


def _cases(parser: argparse.ArgumentParser, path: str) -> Iterator[str]:
    """One line for each command: the words that may follow it. Deeper ones first: bash takes the first match."""
    words: list[str] = []
    for action in parser._actions:  # noqa: SLF001 - argparse has no public way to ask
        words += action.option_strings
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 - the same
            for name, child in action.choices.items():
                yield from _cases(child, f"{path}/{name}" if path else name)
            words += action.choices
        elif action.choices:
            words += map(str, action.choices)
    pattern = f'"{path}"' if not path or "/" in path else f'"{path}"|"{path}"/*'
    yield f'    {pattern}) words="{" ".join(words)}" ;;'
