"""Warnings of libraries, told at the end of a run."""

from __future__ import annotations

import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

Step = TypeVar("Step")
Result = TypeVar("Result")


@contextmanager
def warnings_noted(notes: list[str]) -> Iterator[None]:
    """Turn warnings into notes; never around a yield, where those of other code would be taken.

    Parameters
    ----------
    notes : list of str
        Added to.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield
    notes += [str(w.message) for w in caught if issubclass(w.category, UserWarning)]


def steps_noted(
    steps: Generator[Step, None, Result], notes: list[str]
) -> Generator[Step, None, Result]:
    """Take all steps, with the warnings of each turned into notes.

    Parameters
    ----------
    steps : generator
        Work.
    notes : list of str
        Added to.

    Yields
    ------
    object
        What the work yields.

    Returns
    -------
    object
        What the work returns.
    """
    ended: list[Result] = []
    while True:
        with warnings_noted(notes):
            try:
                step = next(steps)
            except StopIteration as finished:
                ended.append(finished.value)
        if ended:
            return ended[0]
        yield step
