"""Warnings of libraries, told at the end of a run."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager


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
