"""What a user should know of a fit: a warning, or a note where somebody takes notes.

Python's own way to catch warnings changes the filters of the whole process, so that two fits in two
threads would take each other's warnings and could leave the filters changed for good. Here each
thread takes its own.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

Step = TypeVar("Step")
Result = TypeVar("Result")

_of_thread = threading.local()


def warn(message: str, category: type[UserWarning], stacklevel: int) -> None:
    """Warn, or add to the notes that this thread takes.

    Parameters
    ----------
    message : str
        What to know.
    category : type
        Class of the warning.
    stacklevel : int
        As for `warnings.warn`; 1 is the caller of this function.
    """
    notes: list[str] | None = getattr(_of_thread, "notes", None)
    if notes is None:
        warnings.warn(message, category, stacklevel=stacklevel + 1)
    else:
        notes.append(message)


@contextmanager
def noted(notes: list[str]) -> Iterator[None]:
    """Let `warn` add to notes in this thread; never around a yield, where other code would do so.

    Parameters
    ----------
    notes : list of str
        Added to.
    """
    before = getattr(_of_thread, "notes", None)
    _of_thread.notes = notes
    try:
        yield
    finally:
        _of_thread.notes = before


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
