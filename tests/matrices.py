"""Parameters of a test that are tried in pairs by default, and all together with `--full`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pytest


def pairwise(parameters: Mapping[str | tuple[str, ...], Sequence[Any]]) -> pytest.MarkDecorator:
    """Parametrise a test by so few combinations that every two values meet in one of them.

    Most errors show in one value or in two values together, and the product of many parameters
    takes long. `pytest --full` tries the whole product.

    Parameters
    ----------
    parameters : mapping
        The values of each parameter. A tuple of names stands for parameters that belong together,
        such as a type and its tolerance; its values are tuples, too.

    Examples
    --------
    >>> @pairwise({
    ...     "refit": ["block", "full", "final"],
    ...     "allow_repeats": [True, False],
    ...     ("dtype", "tolerance"): [(np.float32, 1e-4), (np.float64, 1e-9)],
    ... })
    ... def test_codes(refit, allow_repeats, dtype, tolerance): ...
    """
    return pytest.mark.pairwise(dict(parameters))


def pairs(row: Sequence[int]) -> set[tuple[tuple[int, int], ...]]:
    """Every two of the choices that make a combination."""
    return set(itertools.combinations(enumerate(row), 2))


def cover(sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Combinations of choices in which every two choices of different parameters meet.

    Parameters
    ----------
    sizes : sequence of int
        How many values each parameter has.

    Returns
    -------
    list of tuple of int
        Numbers of values, the same in every run; in the order of the whole product.
    """
    product = list(itertools.product(*map(range, sizes)))
    if len(sizes) < 3:
        return product
    missing = set().union(*map(pairs, product))
    chosen = []
    while missing:
        # The first of those that add most.
        best = max(product, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(best)
        chosen.append(best)
    return sorted(chosen)


def parametrize(metafunc: pytest.Metafunc, *, full: bool) -> None:
    """Give a test that is marked `pairwise` its cases."""
    for mark in metafunc.definition.iter_markers("pairwise"):
        (parameters,) = mark.args
        groups = [(name,) if isinstance(name, str) else name for name in parameters]
        values = [
            [(value,) if isinstance(name, str) else value for value in of_name]
            for name, of_name in parameters.items()
        ]
        sizes = [len(of_name) for of_name in values]
        rows = list(itertools.product(*map(range, sizes))) if full else cover(sizes)
        metafunc.parametrize(
            list(itertools.chain.from_iterable(groups)),
            [
                list(itertools.chain.from_iterable(values[i][n] for i, n in enumerate(row)))
                for row in rows
            ],
        )
