import argparse
import re
from pathlib import Path

from ebscrypt import config
from ebscrypt.cli.commands import COMMANDS, build

MANUAL = Path(__file__).parents[2] / "docs" / "man"


def plain(page: str) -> str:
    """A manual page without its markup."""
    text = (MANUAL / page).read_text(encoding="utf-8")
    return re.sub(r"\\f.|\\", "", text)


def parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    found = [parser]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                found += parsers(child)
    return found


def test_the_manual_has_every_command_and_option() -> None:
    """A command or option that the parser knows and ebscrypt(1) does not means: run scripts/man."""
    page = plain("ebscrypt.1")
    for parser in parsers(build(COMMANDS)):
        assert parser.prog in page
        for action in parser._actions:
            for option in action.option_strings:
                assert option in page, f"{parser.prog} {option}"


def test_the_manual_has_every_setting_with_its_default() -> None:
    """A setting's row in ebscrypt.toml(5) names it and what it is when nothing is said."""
    page = plain("ebscrypt.toml.5")
    settings = config.Settings(paths=config.PathSettings(state="", runtime=""))
    for section in ("kms", "attach", "events", "audit", "stores", "api"):
        record = getattr(settings, section)
        for name in record.__struct_fields__:
            value = getattr(record, name)
            shown = (
                str(value).lower()
                if isinstance(value, bool)
                else str(value or "" if isinstance(value, dict) else value)
            ) or "empty"
            assert re.search(rf'\.BR {name} " \(.*; {re.escape(shown)}\)"', page), (section, name, shown)
    for name in config._SHORT:
        assert name in page
