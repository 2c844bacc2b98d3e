"""Work that is done step by step, done in one go."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

Step = TypeVar("Step")
Result = TypeVar("Result")


def run_through(
    steps: Generator[Step, None, Result], each: Callable[[Step], None] | None = None
) -> Result:
    """Take all steps.

    Parameters
    ----------
    steps : generator
        Work.
    each : callable, optional
        Called with every step.

    Returns
    -------
    object
        What the generator returns.
    """
    while True:
        try:
            step = next(steps)
        except StopIteration as finished:
            result: Result = finished.value
            return result
        if each is not None:
            each(step)


def retold(steps: Generator[object, None, Result], told: Step) -> Generator[Step, None, Result]:
    """Take all steps, and tell the same of each.

    Parameters
    ----------
    steps : generator
        Work.
    told : object
        What is yielded for every step.

    Yields
    ------
    object
        `told`.

    Returns
    -------
    object
        What the generator returns.
    """
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            result: Result = finished.value
            return result
        yield told
