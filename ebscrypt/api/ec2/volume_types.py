"""EC2's volume types: which sizes, IOPS and throughput each may have, and what it has where nothing is said.

The numbers and the texts of the refusals are those of facts §6.3. Here a type is a label: the speed is the backing's.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from ebscrypt.api.errors import ApiError, invalid_combination, invalid_value

DEFAULT_TYPE: Final = "gp2"
"""EC2's own, where a request does not say."""


class VolumeType(NamedTuple):
    """``sizes`` in GiB, ``iops`` and ``throughput`` (MiB/s) as least and most; None where they may not be given.

    ``ratio`` is the most IOPS for a GiB. ``iops_default`` None: they must be given.
    """

    sizes: tuple[int, int]
    iops: tuple[int, int] | None = None
    iops_default: int | None = None
    ratio: int = 0
    throughput: tuple[int, int] | None = None


TYPES: Final = {
    "gp2": VolumeType((1, 16384)),
    "gp3": VolumeType((1, 65536), (3000, 80000), iops_default=3000, ratio=500, throughput=(125, 2000)),
    "io1": VolumeType((4, 16384), (100, 64000), ratio=50),
    "io2": VolumeType((4, 65536), (100, 256000), ratio=1000),
    "sc1": VolumeType((125, 16384)),
    "st1": VolumeType((125, 16384)),
    "standard": VolumeType((1, 1024)),
}
_IOPS_OF_A_THROUGHPUT: Final = 4
"""IOPS that each MiB/s of throughput needs: at most 0.25 MiB/s for each."""


class Performance(NamedTuple):
    """What a volume of a type has. None where the type has no such figure."""

    iops: int | None
    throughput: int | None


def performance(name: str, size: int, *, iops: int | None, throughput: int | None) -> Performance:
    """What a volume of ``size`` GiB has, for which ``iops`` and ``throughput`` were asked or not.

    Raises `ApiError` for what the type cannot have.
    """
    kind = TYPES.get(name)
    if kind is None:
        raise ApiError("UnknownVolumeType", f"Unsupported volume type '{name[:80]}' for volume creation.")
    _check_size(name, kind, size)
    _check_iops(name, kind, size, iops)
    _check_throughput(name, kind, iops or kind.iops_default or 0, throughput)
    return present(name, size, iops=iops, throughput=throughput)


def present(name: str, size: int, *, iops: int | None, throughput: int | None) -> Performance:
    """The same for a volume that there is: one that the command line made may be of any size."""
    kind = TYPES[name]
    if name == "gp2":
        return Performance(min(max(100, 3 * size), 16000), None)
    default = kind.iops_default if kind.iops_default is not None or kind.iops is None else kind.iops[0]
    least = None if kind.throughput is None else kind.throughput[0]
    return Performance(iops or default, throughput or least)


def _check_size(name: str, kind: VolumeType, size: int) -> None:
    least, most = kind.sizes
    if size > most:
        raise invalid_value(f"Volume of {size}GiB is too large for volume type {name}; maximum is {most}GiB")
    if size < least:
        raise invalid_value(f"Volume of {size}GiB is too small for volume type {name}; minimum is {least}GiB")


def _check_iops(name: str, kind: VolumeType, size: int, iops: int | None) -> None:
    if iops is None:
        if kind.iops is not None and kind.iops_default is None:
            raise invalid_combination(f"The parameter iops must be specified for {name} volumes.")
        return
    if kind.iops is None:
        raise invalid_combination(f"The parameter iops is not supported for {name} volumes.")
    least, most = kind.iops
    if iops < least:
        raise invalid_value(f"Volume iops of {iops} is too low; minimum is {least}.")
    if iops > most:
        raise invalid_value(f"Volume iops of {iops} is too high; maximum is {most}.")
    # What a volume has without asking for it, it has at any size.
    if iops != kind.iops_default and iops > kind.ratio * size:
        raise invalid_value(f"Iops to volume size ratio of {iops / size:f} is too high; maximum is {kind.ratio}")


def _check_throughput(name: str, kind: VolumeType, iops: int, throughput: int | None) -> None:
    if throughput is None:
        return
    if kind.throughput is None:
        raise invalid_combination(f"The throughput parameter is not supported for {name} volumes.")
    least, most = kind.throughput
    if throughput < least:
        raise invalid_value(f"Volume throughput of {throughput} is too low; minimum is {least}.")
    if throughput > most:
        raise invalid_value(f"Volume throughput of {throughput} is too high; maximum is {most}.")
    if throughput * _IOPS_OF_A_THROUGHPUT > iops:
        raise invalid_value(
            f"Throughput (MiBps) to iops ratio of {throughput / iops:f} is too high; "
            f"maximum is {1 / _IOPS_OF_A_THROUGHPUT:f}"
        )
