"""What nbdinfo learns of a volume."""

from __future__ import annotations

import json
import os

import pytest

from tests.nbd_volume import DATA_OFFSET, EXPORT, KIB, MIB, SECTOR, TIB, ServedVolume, run, served

SIZE = 64 * MIB


def describe(volume: ServedVolume) -> dict[str, object]:
    """The one export that nbdinfo finds."""
    answer = json.loads(run("nbdinfo", "--json", volume.uri))
    assert (answer["protocol"], answer["TLS"], answer["structured"]) == ("newstyle-fixed", False, True)
    (export,) = answer["exports"]
    assert isinstance(export, dict)
    return export


@pytest.mark.parametrize("encrypted", [True, False])
def test_everything_is_offered(*, encrypted: bool) -> None:
    """A volume offers every command, several connections, and the block sizes that fit its cipher."""
    with served(SIZE, encrypted=encrypted) as volume:
        export = describe(volume)
    assert export["export-size"] == SIZE
    offers = ("flush", "fua", "trim", "zero", "fast_zero", "cache", "df", "multi_conn")
    assert {name: export[f"can_{name}"] for name in offers} == dict.fromkeys(offers, True)
    assert not export["is_read_only"]
    assert not export["is_rotational"]
    assert export["contexts"] == ["base:allocation"]
    assert [export[f"block_size_{name}"] for name in ("minimum", "preferred", "maximum")] == [1, 4 * KIB, 32 * MIB]


def test_read_only_volume() -> None:
    """A read-only volume says so, and offers nothing that would write."""
    with served(SIZE, read_only=True) as volume:
        export = describe(volume)
    assert export["is_read_only"]
    assert not any(export[f"can_{name}"] for name in ("trim", "zero", "fast_zero"))
    assert export["can_multi_conn"]


def test_list_finds_the_export() -> None:
    """Listing shows the canonical name and the description; the empty name leads to the same export."""
    with served(SIZE) as volume:
        listed = json.loads(run("nbdinfo", "--json", "--list", volume.uri))["exports"]
        default = json.loads(run("nbdinfo", "--json", f"nbd+unix://?socket={volume.path}"))["exports"]
    assert [(export["export-name"], export["description"]) for export in listed] == [(EXPORT, "ebscrypt volume")]
    assert default[0]["export-size"] == SIZE


def test_unknown_export_is_refused() -> None:
    """Another name than the volume's is refused, and the server goes on."""
    with served(SIZE) as volume:
        run("nbdinfo", f"nbd+unix:///other?socket={volume.path}", status=1)
        assert run("nbdinfo", "--size", volume.uri).strip() == str(SIZE)


@pytest.mark.parametrize("encrypted", [True, False])
def test_map_is_that_of_the_backing(*, encrypted: bool) -> None:
    """The map of extents equals the holes that the backing really has, asked for by lseek."""
    with served(SIZE, encrypted=encrypted) as volume:
        for offset, length in ((0, 1), (MIB, 3 * SECTOR), (10 * MIB + 5, 2 * SECTOR), (SIZE - SECTOR, SECTOR)):
            volume.device.pwrite(os.urandom(length), offset)
        volume.device.discard(MIB + SECTOR, SECTOR)
        found = [
            (extent["offset"], extent["length"], extent["type"])
            for extent in json.loads(run("nbdinfo", "--json", "--map", volume.uri))
        ]
        assert found == real_extents(volume.backing_fd)


def test_map_of_64_tib() -> None:
    """The largest volume there is: its map has what was written at its ends and in its middle, and is quick to get."""
    size = 64 * TIB
    with served(size) as volume:
        for offset in (0, size // 2, size - SECTOR):
            volume.device.pwrite(b"x" * SECTOR, offset)
        assert run("nbdinfo", "--size", volume.uri).strip() == str(size)
        extents = json.loads(run("nbdinfo", "--json", "--map", volume.uri))
    data, hole = 0, 3
    assert [(extent["length"], extent["type"]) for extent in extents] == [
        (SECTOR, data),
        (size // 2 - SECTOR, hole),
        (SECTOR, data),
        (size // 2 - 2 * SECTOR, hole),
        (SECTOR, data),
    ]


def real_extents(fd: int) -> list[tuple[int, int, int]]:
    """Offset, length and NBD state (0 data, 3 hole and zero) of the data area's extents, as the kernel tells them."""
    extents = []
    position, end = DATA_OFFSET, os.fstat(fd).st_size
    while position < end:
        try:
            data = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            data = end
        if data > position:
            extents.append((position - DATA_OFFSET, data - position, 3))
        if data < end:
            hole = os.lseek(fd, data, os.SEEK_HOLE)
            extents.append((data - DATA_OFFSET, hole - data, 0))
            data = hole
        position = data
    return extents
