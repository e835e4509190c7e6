"""The two outcome tables of EBS, cell by cell (facts §1.6, §1.7): what is encrypted, and under which key.

The columns with snapshots are tested here, at the rule. The first column of CreateVolume is tested again through
`create_volume`, with real keys, in test_control_defaults.py.
"""

from __future__ import annotations

import pytest

from ebscrypt.control.encryption import Outcome, Source, copy_outcome, volume_outcome
from ebscrypt.errors import EbscryptError, InvalidCombination, InvalidParameter, MissingDependency

SOURCES = {
    "new": None,
    "own-plain": Source(encrypted=False),
    "own-encrypted": Source(encrypted=True),
    "shared-plain": Source(encrypted=False, shared=True),
    "shared-encrypted": Source(encrypted=True, shared=True),
}
NOT_SET = None
PLAIN, DEFAULT, SOURCES_KEY, GIVEN = Outcome.PLAIN, Outcome.DEFAULT_KEY, Outcome.SOURCE_KEY, Outcome.GIVEN_KEY
REFUSED, ALONE, FALSE = InvalidCombination, MissingDependency, InvalidParameter

Cell = Outcome | type[EbscryptError]

# Facts §1.6, a row for each of (encryption by default, Encrypted, a KmsKeyId given), a column for each source. The
# table's rows for "not set" and "false" are one there, with footnote 1 for an encrypted snapshot; here they are two.
CREATE_VOLUME: dict[tuple[bool, bool | None, bool], tuple[Cell, ...]] = {
    (False, NOT_SET, False): (PLAIN, PLAIN, SOURCES_KEY, PLAIN, DEFAULT),
    (False, False, False): (PLAIN, PLAIN, REFUSED, PLAIN, REFUSED),
    (False, True, False): (DEFAULT, DEFAULT, SOURCES_KEY, DEFAULT, DEFAULT),
    (True, NOT_SET, False): (DEFAULT, DEFAULT, SOURCES_KEY, DEFAULT, DEFAULT),
    (True, False, False): (DEFAULT, DEFAULT, SOURCES_KEY, DEFAULT, DEFAULT),
    (True, True, False): (DEFAULT, DEFAULT, SOURCES_KEY, DEFAULT, DEFAULT),
    (False, NOT_SET, True): (ALONE,) * 5,
    (False, False, True): (ALONE,) * 5,
    (False, True, True): (GIVEN,) * 5,
    (True, NOT_SET, True): (ALONE,) * 5,
    (True, False, True): (ALONE,) * 5,
    (True, True, True): (GIVEN,) * 5,
}

# Facts §1.7: the columns are a plain and an encrypted source.
COPY_SNAPSHOT: dict[tuple[bool, bool | None, bool], tuple[Cell, Cell]] = {
    (False, NOT_SET, False): (PLAIN, DEFAULT),
    (False, False, False): (FALSE, FALSE),
    (False, True, False): (DEFAULT, DEFAULT),
    (True, NOT_SET, False): (DEFAULT, DEFAULT),
    (True, False, False): (FALSE, FALSE),
    (True, True, False): (DEFAULT, DEFAULT),
    (False, NOT_SET, True): (ALONE, ALONE),
    (False, False, True): (ALONE, ALONE),
    (False, True, True): (GIVEN, GIVEN),
    (True, NOT_SET, True): (ALONE, ALONE),
    (True, False, True): (ALONE, ALONE),
    (True, True, True): (GIVEN, GIVEN),
}


def named(row: tuple[bool, bool | None, bool], column: str) -> str:
    """A cell's name: ``on-not-set-key-given-own-plain``."""
    by_default, encrypted, key_given = row
    words = {None: "not-set", False: "false", True: "true"}
    parts = ["on" if by_default else "off", words[encrypted], *(["key-given"] if key_given else []), column]
    return "-".join(parts)


def cells(table: dict[tuple[bool, bool | None, bool], tuple[Cell, ...]], columns: list[str]) -> list[object]:
    return [
        pytest.param(row, column, cell, id=named(row, column))
        for row, line in table.items()
        for column, cell in zip(columns, line, strict=True)
    ]


def outcome(decide: object) -> Cell:
    """What a rule gives: an outcome, or the type of its refusal."""
    assert callable(decide)
    try:
        decided: Outcome = decide()
    except EbscryptError as error:
        return type(error)
    return decided


@pytest.mark.parametrize(("row", "source", "expected"), cells(CREATE_VOLUME, list(SOURCES)))
def test_create_volume(row: tuple[bool, bool | None, bool], source: str, expected: Cell) -> None:
    """Every cell of the table of CreateVolume."""
    by_default, encrypted, key_given = row

    decided = outcome(
        lambda: volume_outcome(by_default=by_default, encrypted=encrypted, key_given=key_given, source=SOURCES[source])
    )

    assert decided == expected


@pytest.mark.parametrize(("row", "source", "expected"), cells({**COPY_SNAPSHOT}, ["plain", "encrypted"]))
def test_copy_snapshot(row: tuple[bool, bool | None, bool], source: str, expected: Cell) -> None:
    """Every cell of the table of CopySnapshot."""
    by_default, encrypted, key_given = row

    decided = outcome(
        lambda: copy_outcome(
            by_default=by_default, encrypted=encrypted, key_given=key_given, source_encrypted=source == "encrypted"
        )
    )

    assert decided == expected


def test_nothing_encrypted_ever_becomes_plain() -> None:
    """Over both tables: an encrypted source gives something encrypted or a refusal (facts §1.5)."""
    encrypted_columns = [list(SOURCES).index(name) for name in SOURCES if name.endswith("-encrypted")]

    assert all(line[column] != PLAIN for line in CREATE_VOLUME.values() for column in encrypted_columns)
    assert all(line[1] != PLAIN for line in COPY_SNAPSHOT.values())


def test_a_key_alone_is_refused_in_ec2s_words() -> None:
    """The text of facts §1.5, and EC2's error code."""
    with pytest.raises(MissingDependency) as caught:
        volume_outcome(by_default=True, encrypted=None, key_given=True)

    assert caught.value.message == "the parameter KmsKeyId requires the parameter Encrypted to be set"
    assert caught.value.api_code == "InvalidParameterDependency"


def test_a_plain_volume_of_an_encrypted_snapshot_is_refused_in_ec2s_words() -> None:
    """The text of facts §1.6, footnote 1, and EC2's error code."""
    with pytest.raises(
        InvalidCombination, match="encrypted snapshots must be used to create encrypted volumes"
    ) as caught:
        volume_outcome(by_default=False, encrypted=False, key_given=False, source=Source(encrypted=True))

    assert caught.value.api_code == "InvalidParameterCombination"
