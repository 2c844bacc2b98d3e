"""A value that each thread has for itself, for as long as a block of code lasts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Value = TypeVar("Value")


class OfThread(threading.local, Generic[Value]):
    """None in every thread, but inside `holding`.

    Attributes
    ----------
    value : object or None
        What this thread holds.
    """

    value: Value | None = None

    @contextmanager
    def holding(self, value: Value) -> Iterator[None]:
        """Hold a value in this thread, and what was held before afterwards.

        Parameters
        ----------
        value : object
            To hold.
        """
        before, self.value = self.value, value
        try:
            yield
        finally:
            self.value = before
