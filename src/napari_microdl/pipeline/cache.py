"""Results of finished stages, kept for the next run while what they were made from is the same."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any


class KeptStages:
    """The last result of every stage, with what it was made from.

    A run that is given the same one again takes from it what is still true. One result a stage is
    kept: after a run they are those that the run returned, so that they take no more memory.
    Entries are replaced whole, so that a run which was told to stop but is still in its last step
    cannot disturb the next.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Hashable, Any]] = {}

    def get(self, stage: str, key: Hashable) -> Any | None:
        """Result of a stage, or None where there is none made from the same.

        Parameters
        ----------
        stage : str
            Name of the stage.
        key : hashable
            What it would be made from.
        """
        made_from, result = self._kept.get(stage, (None, None))
        return result if made_from == key else None

    def keep(self, stage: str, key: Hashable, result: Any) -> None:
        """Keep a result in place of the stage's last one.

        Parameters
        ----------
        stage : str
            Name of the stage.
        key : hashable
            What it was made from.
        result : object
            Not to be changed any more.
        """
        self._kept[stage] = (key, result)
