"""The outcome table of StartSnapshot, cell by cell (facts §6.7): what is encrypted, and under which key."""

from __future__ import annotations

import itertools

import pytest

from ebscrypt.control.encryption import Outcome, upload_outcome
from ebscrypt.errors import InvalidCombination

PLAIN, DEFAULT, PARENTS, GIVEN = Outcome.PLAIN, Outcome.DEFAULT_KEY, Outcome.SOURCE_KEY, Outcome.GIVEN_KEY
REFUSED = InvalidCombination
NOT_SET = None
NO_PARENT, PLAIN_PARENT, ENCRYPTED_PARENT = None, False, True

Cell = Outcome | type[InvalidCombination]

# A row for each of (parent, Encrypted, a KmsKeyArn given): with encryption by default off, and on.
START_SNAPSHOT: dict[tuple[bool | None, bool | None, bool], tuple[Cell, Cell]] = {
    (NO_PARENT, NOT_SET, False): (PLAIN, DEFAULT),
    (NO_PARENT, NOT_SET, True): (GIVEN, GIVEN),
    (NO_PARENT, True, False): (DEFAULT, DEFAULT),
    (NO_PARENT, True, True): (GIVEN, GIVEN),
    (NO_PARENT, False, False): (PLAIN, REFUSED),
    (NO_PARENT, False, True): (REFUSED, REFUSED),
    (PLAIN_PARENT, NOT_SET, False): (PLAIN, REFUSED),
    (PLAIN_PARENT, NOT_SET, True): (REFUSED, REFUSED),
    (PLAIN_PARENT, True, False): (REFUSED, REFUSED),
    (PLAIN_PARENT, True, True): (REFUSED, REFUSED),
    (PLAIN_PARENT, False, False): (REFUSED, REFUSED),
    (PLAIN_PARENT, False, True): (REFUSED, REFUSED),
    (ENCRYPTED_PARENT, NOT_SET, False): (PARENTS, PARENTS),
    (ENCRYPTED_PARENT, NOT_SET, True): (REFUSED, REFUSED),
    (ENCRYPTED_PARENT, True, False): (REFUSED, REFUSED),
    (ENCRYPTED_PARENT, True, True): (REFUSED, REFUSED),
    (ENCRYPTED_PARENT, False, False): (REFUSED, REFUSED),
    (ENCRYPTED_PARENT, False, True): (REFUSED, REFUSED),
}


def test_the_table_is_whole() -> None:
    """No combination is left out."""
    assert set(START_SNAPSHOT) == set(itertools.product((None, False, True), (None, False, True), (False, True)))


@pytest.mark.parametrize("by_default", [False, True])
@pytest.mark.parametrize("asked", START_SNAPSHOT, ids=str)
def test_start_snapshot_encrypts_as_ebs_does(asked: tuple[bool | None, bool | None, bool], by_default: bool) -> None:  # noqa: FBT001 - a cell of the table
    """Each cell of EBS's table."""
    parent, encrypted, key_given = asked
    expected = START_SNAPSHOT[asked][by_default]

    def decide() -> Outcome:
        return upload_outcome(by_default=by_default, encrypted=encrypted, key_given=key_given, parent_encrypted=parent)

    if isinstance(expected, Outcome):
        assert decide() is expected
    else:
        with pytest.raises(expected):
            decide()
