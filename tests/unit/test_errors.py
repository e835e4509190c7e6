import inspect
import re

import pytest

from ebscrypt import errors


def every_error() -> list[type[errors.EbscryptError]]:
    return [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.EbscryptError)]


@pytest.mark.parametrize("kind", every_error())
def test_an_error_survives_a_pipe(kind: type[errors.EbscryptError]) -> None:
    """What one process records, another raises again: same class, same words."""
    again = errors.from_record(kind("what failed", hint="do this next").record())
    assert type(again) is kind
    assert (again.message, again.hint) == ("what failed", "do this next")


def test_a_kms_error_keeps_what_kms_said_across_a_pipe() -> None:
    """KMS's own code, key and request id are not lost on the way from the unwrap process."""
    sent = errors.KmsKeyDisabled(
        "it is disabled", kms_code="DisabledException", key_arn="arn:aws:kms:x", request_id="r-1"
    )
    again = errors.from_record(sent.record())
    assert isinstance(again, errors.KmsKeyDisabled)
    assert (again.kms_code, again.key_arn, again.request_id) == ("DisabledException", "arn:aws:kms:x", "r-1")


@pytest.mark.parametrize("record", [{}, {"Error": "int"}, {"Error": "SystemExit", "Message": "m"}, {"Error": 7}])
def test_a_record_from_a_stranger_gives_the_root_error(record: dict[str, object]) -> None:
    """An unknown class name never makes anything but an `EbscryptError`."""
    assert type(errors.from_record(record)) is errors.EbscryptError


def test_the_drawn_tree_is_the_real_tree() -> None:
    """The drawing at the top of errors.py names every class, under its real parent."""
    drawn: dict[str, str | None] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"^    ([│├└─ ]*)([A-Z]\w+)(\s{2,}.*)?$", line):
            depth = len(match[1]) // 4
            above[depth:] = [match[2]]
            drawn[match[2]] = above[depth - 1] if depth else None
    real = {kind.__name__: kind.__mro__[1].__name__ for kind in every_error()}
    real["EbscryptError"] = None  # type: ignore[assignment]
    assert drawn == real
