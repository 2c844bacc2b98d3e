"""Which fields and which units of a plate are looked at where not all can be: drawn by a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from napari_microdl.fields.field import FieldInfo

# Control wells of a plate from which some are held back, and the share of them.
_LEAST_TO_HOLD_BACK, _HELD_BACK = 8, 0.5


def draw_fields(fields: Sequence[FieldInfo], most: int, seed: int) -> list[int]:
    """Fields of every plate and condition, as alike in number as they allow.

    Parameters
    ----------
    fields : sequence of FieldInfo
        All fields.
    most : int
        How many are drawn; all where there are no more.
    seed : int
        Of the drawing.

    Returns
    -------
    list of int
        Their places in `fields`, ascending.
    """
    if len(fields) <= most:
        return list(range(len(fields)))
    strata: dict[tuple[str, str, bool], list[int]] = {}
    for number, field in enumerate(fields):
        strata.setdefault((field.plate, field.condition, field.is_control), []).append(number)
    names = sorted(strata)
    quotas = fair_quotas([len(strata[name]) for name in names], most)
    drawn: list[int] = []
    for name, quota in zip(names, quotas.tolist(), strict=True):
        drawn += _generator(seed, *map(str, name)).permutation(strata[name])[:quota].tolist()
    return sorted(drawn)


def draw_units(
    counts: Sequence[int], wells: Sequence[str], most: int, seed: int
) -> list[NDArray[np.int64]]:
    """Units of every well, as alike in number as they allow.

    Parameters
    ----------
    counts : sequence of int
        Units of every field.
    wells : sequence of str
        Well of every field, plate first.
    most : int
        How many units are drawn; all where there are no more.
    seed : int
        Of the drawing.

    Returns
    -------
    list of ndarray of int
        Rows of the units of each field, ascending.
    """
    if sum(counts) <= most:
        return [np.arange(n, dtype=np.int64) for n in counts]
    rows = [np.empty(0, np.int64)] * len(counts)
    members: dict[str, list[int]] = {}
    for number, well in enumerate(wells):
        members.setdefault(well, []).append(number)
    names = sorted(members)
    totals = [sum(counts[number] for number in members[name]) for name in names]
    for name, total, quota in zip(names, totals, fair_quotas(totals, most).tolist(), strict=True):
        drawn = np.sort(_generator(seed, name).permutation(total)[:quota])
        start = 0
        for number in members[name]:
            here = drawn[(drawn >= start) & (drawn < start + counts[number])]
            rows[number], start = here - start, start + counts[number]
    return rows


def hold_back(fields: Sequence[FieldInfo], share: float | None, seed: int) -> list[int]:
    """Control wells that the whitening is not to see, of every plate alike.

    Parameters
    ----------
    fields : sequence of FieldInfo
        All fields.
    share : float or None
        Share of the control wells of each plate; None for half of those of plates with eight or
        more.
    seed : int
        Of the drawing.

    Returns
    -------
    list of int
        Places of their fields in `fields`; at least one well of a plate is left.
    """
    wells: dict[str, dict[str, list[int]]] = {}
    for number, field in enumerate(fields):
        if field.is_control:
            own = wells.setdefault(field.plate, {})
            own.setdefault(field.well or f"field {field.name}", []).append(number)
    held: list[int] = []
    for plate, of_well in sorted(wells.items()):
        least = _LEAST_TO_HOLD_BACK if share is None else 2
        n = round(len(of_well) * (_HELD_BACK if share is None else share))
        n = max(n, 1) if share != 0 else 0
        if len(of_well) >= least:
            drawn = _generator(seed, "held back", plate).permutation(sorted(of_well))
            held += [
                number for well in drawn[: min(n, len(of_well) - 1)] for number in of_well[well]
            ]
    return sorted(held)


def fair_quotas(sizes: Sequence[int], most: int) -> NDArray[np.int64]:
    """How many of each group, so that none gives more than another that has as many.

    Examples
    --------
    >>> fair_quotas([10, 2, 10], 12).tolist()
    [5, 2, 5]
    """
    quotas, left = np.zeros(len(sizes), np.int64), most
    order = np.argsort(sizes, kind="stable")
    for place, group in enumerate(order):
        quotas[group] = min(sizes[group], left // (len(order) - place))
        left -= int(quotas[group])
    return quotas


def _generator(seed: int, *names: str) -> np.random.Generator:
    """Of its own for every group, so that one does not depend on the others."""
    digest = hashlib.sha256("\n".join(names).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "little")])
