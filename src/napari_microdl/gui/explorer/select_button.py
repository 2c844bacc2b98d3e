"""Selecting units without a mouse: by the concept on show, by image, by condition."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtWidgets import QMenu, QPushButton

from napari_microdl.gui.session.selection import Selection
from napari_microdl.gui.session.session import Session

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from napari_microdl.gui.session.session import Run


class SelectButton(QPushButton):
    """A button with a menu of units that can be selected together.

    Parameters
    ----------
    session : Session
        Where the run is.
    selection : Selection
        What is selected.
    field_in_view : callable
        Gives the number of the field that is looked at.
    """

    def __init__(
        self,
        session: Session,
        selection: Selection,
        field_in_view: Callable[[], int],
    ) -> None:
        super().__init__("Select")
        self._session, self._selection = session, selection
        self._field_in_view = field_in_view
        self.setToolTip(
            "Selects all cells (or crops) that show the concept, of the image in view, or of one "
            "condition; for some others draw a line around their points in the map."
        )
        menu = QMenu(self)
        menu.setToolTipsVisible(True)
        self.setMenu(menu)

    def show_run(self, run: Run | None) -> None:
        """Offer what can be selected in a run.

        Parameters
        ----------
        run : Run or None
            The run; nothing is offered without.
        """
        menu = self.menu()
        menu.clear()
        self.setEnabled(run is not None)
        if run is None:
            return
        unit = run.result.config.units.kind
        self._add(
            f"{unit.capitalize()}s with the concept on show",
            f"Every {unit} in which the concept is active, of all images.",
            self.rows_with_concept,
        )
        if run.has_images:
            self._add(
                f"{unit.capitalize()}s of the image in view",
                f"Every {unit} of the selected image; of a stack, of the plane on show.",
                self.rows_in_view,
            )
        menu.addSeparator()
        conditions = run.result.activations.units["Metadata_condition"].astype(str)
        for condition in sorted(conditions.unique()):
            self._add(
                # Qt takes a single ampersand for the mark of a key.
                f"Condition {condition.replace('&', '&&')}" if condition else "No condition",
                f"Every {unit} of this condition.",
                partial(self.rows_of_condition, condition),
            )

    def _add(self, text: str, tip: str, rows: Callable[[Run], NDArray[np.int64]]) -> None:
        action = self.menu().addAction(text)
        action.setToolTip(tip)
        action.triggered.connect(partial(self._select, rows=rows))

    def _select(self, *_: bool, rows: Callable[[Run], NDArray[np.int64]]) -> None:
        if (run := self._session.run) is not None:
            self._selection.select(rows(run))

    def rows_with_concept(self, run: Run) -> NDArray[np.int64]:
        """Rows of the units in which the concept on show is active."""
        assert self._session.concept is not None
        active = run.result.activations.activation(self._session.concept) > 0
        return np.flatnonzero(active)

    def rows_in_view(self, run: Run) -> NDArray[np.int64]:
        """Rows of the units of the field that is looked at."""
        return run.result.activations.rows_of_field(self._field_in_view())

    @staticmethod
    def rows_of_condition(condition: str, run: Run) -> NDArray[np.int64]:
        """Rows of the units of a condition."""
        conditions = run.result.activations.units["Metadata_condition"].astype(str)
        return np.flatnonzero(conditions == condition)
