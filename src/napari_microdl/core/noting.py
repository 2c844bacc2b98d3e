"""What a user should know of a fit: a warning, or a note where somebody takes notes.

Python's own way to catch warnings changes the filters of the whole process, so that two fits in two
threads would take each other's warnings and could leave the filters changed for good. Here each
thread takes its own.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Generator
from contextlib import AbstractContextManager
from types import FrameType
from typing import TypeVar

from napari_microdl.core.of_thread import OfThread

Step = TypeVar("Step")
Result = TypeVar("Result")

_notes = OfThread[list[str]]()
# scikit-learn wraps the methods of estimators.
_PASSED_OVER = ("napari_microdl", "sklearn")


def warn(message: str, category: type[UserWarning]) -> None:
    """Warn at the line that called this package, or add to the notes that this thread takes.

    Parameters
    ----------
    message : str
        What to know.
    category : type
        Class of the warning.
    """
    if _notes.value is None:
        warnings.warn(message, category, stacklevel=_level_of_caller())
    else:
        _notes.value.append(message)


def _level_of_caller() -> int:
    """How many calls up from `warn` the code stands that is neither ours nor scikit-learn's."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and _package(frame) in _PASSED_OVER:
        frame, level = frame.f_back, level + 1
    return level


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def noted(notes: list[str]) -> AbstractContextManager[None]:
    """Let `warn` add to notes in this thread; never around a yield, where other code would do so.

    Parameters
    ----------
    notes : list of str
        Added to.

    Returns
    -------
    context manager
        To do the work in.
    """
    return _notes.holding(notes)


def steps_noted(
    steps: Generator[Step, None, Result], notes: list[str]
) -> Generator[Step, None, Result]:
    """Take all steps, with what each of them warns of turned into notes.

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
    while True:
        with noted(notes):
            try:
                step = next(steps)
            except StopIteration as finished:
                result: Result = finished.value
                return result
        yield step
