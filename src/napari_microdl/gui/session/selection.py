"""Which units a person has selected, and which one is looked at."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from psygnal import Signal

from napari_microdl.gui.session.session import Session


class Selection:
    """Rows of the run's table of units; emptied when another run comes.

    Parameters
    ----------
    session : Session
        Where the run is.

    Signals
    -------
    changed
        Other units are selected, or another one is looked at.
    tags_changed
        Units or concepts were tagged.
    """

    changed = Signal()
    tags_changed = Signal()

    def __init__(self, session: Session) -> None:
        self._session = session
        self.rows: NDArray[np.int64] = np.empty(0, np.int64)
        self.current: int | None = None
        session.run_changed.connect(self.clear)

    def select(self, rows: ArrayLike, *, add: bool = False) -> None:
        """Select units; a single one is looked at.

        Parameters
        ----------
        rows : array of int
            Rows of the table of units.
        add : bool, default=False
            Whether those that are selected stay so.
        """
        chosen = np.unique(np.asarray(rows, np.int64))
        self.current = int(chosen[0]) if len(chosen) == 1 else None
        self.rows = np.union1d(self.rows, chosen) if add else chosen
        self.changed.emit()

    def clear(self) -> None:
        """Select nothing."""
        self.select([])

    def tag_units(self, tag: str) -> None:
        """Tag the selected units; an empty tag takes theirs away."""
        if self._session.run is not None:
            self._session.run.result.activations.tag_units(self.rows, tag)
            self.tags_changed.emit()

    def tag_concepts(self, concepts: list[int], tag: str) -> None:
        """Tag concepts in the dictionary; an empty tag takes theirs away."""
        if self._session.run is not None:
            for concept in concepts:
                self._session.run.result.dictionary.tags[concept] = tag
            self.tags_changed.emit()

    def note_concept(self, concept: int, note: str) -> None:
        """Write a note on a concept; it travels in the dictionary file."""
        if self._session.run is not None:
            self._session.run.result.dictionary.notes[concept] = note
            self.tags_changed.emit()
