"""Tab with the plate: its wells as a heat map, each the way to its images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from qtpy.QtCore import QSignalBlocker, Signal
from qtpy.QtWidgets import QComboBox, QHBoxLayout

from napari_microdl.concepts.concept_set import Concept
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.text import counted
from napari_microdl.gui.explorer.panel import Panel, show_text
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.widgets.inputs import sentence_label
from napari_microdl.gui.widgets.plots import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STEPS = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
# Around the well that the keys are at, in wells.
_RING = 1.5
_NO_PLACES = (
    "No well of this run has a place on a plate. Fill in the wells of the fields, such as B03, in "
    "the first step of the workflow, and run again."
)


class PlatePlot(Plot):
    """Wells of one plate; the arrow keys go from well to well, a click or Enter opens one.

    Signals
    -------
    looked_at(int)
        Row of the table of wells that the keys are at, or that was clicked.
    opened(int)
        The same, where its images are asked for.
    """

    looked_at = Signal(int)
    opened = Signal(int)

    def __init__(self) -> None:
        super().__init__(190, "Plate")
        self._wells: pd.DataFrame | None = None
        self._value, self._unit, self._title = "", "", ""
        self._current: int | None = None
        self._ring: Any = None
        self._listening = False
        self.explain(
            "Each square is a well; controls have a rim. Click one to see its first image, click "
            "again for the next. Keys: the arrows go from well to well, Enter shows the image."
        )
        self.hide()

    def show_wells(
        self, wells: pd.DataFrame | None, value: str = "", unit: str = "", title: str = ""
    ) -> None:
        """Draw the wells of another plate or concept, or none."""
        self._wells, self._value, self._unit, self._title = wells, value, unit, title
        if wells is None or self._current not in wells.index:
            self._current = None
        self.redraw()

    def has_contents(self) -> bool:
        """Whether there is a plate."""
        return self._wells is not None and len(self._wells) > 0

    def table(self) -> pd.DataFrame:
        """The wells of the plate, with what they show of the concept."""
        if self._wells is None:
            raise MicrodlError("There is no plate yet.")
        # Rows and columns as people count them stand in the name of the well.
        return self._wells.drop(columns=["row", "column"])

    def paint(self, axes: Axes) -> None:
        """Draw the plate."""
        from napari_microdl.report.plate_map import draw_plate

        if self._wells is not None:
            draw_plate(axes, self._wells, self._value, self._unit, self.colours["text"])
            axes.set_title(self._title)

    def drawn(self) -> None:
        """Ring the well that the keys are at, and listen from the first drawing on."""
        if not self._listening:
            self._listening = True
            self.canvas.mpl_connect("button_press_event", self._on_click)
            self.canvas.mpl_connect("key_press_event", self._on_key)
        from matplotlib.patches import Rectangle

        self._ring = Rectangle(
            (0, 0), _RING, _RING, fill=False, linewidth=2, linestyle=":", clip_on=False,
            edgecolor=self.colours["text"], visible=False,
        )  # fmt: skip
        self.canvas.figure.axes[0].add_patch(self._ring)
        self._show_ring()

    def _show_ring(self) -> None:
        if self._wells is not None and self._current is not None and self._ring is not None:
            well = self._wells.loc[self._current]
            self._ring.set(x=well["column"] - _RING / 2, y=well["row"] - _RING / 2, visible=True)
            self.canvas.draw_idle()

    def _look_at(self, row: int) -> None:
        self._current = row
        self._show_ring()
        self.looked_at.emit(row)

    def _on_click(self, event: Any) -> None:
        # A right click opens the menu.
        axes = self.canvas.figure.axes[0]
        if self._wells is None or event.inaxes is not axes or event.button != 1:
            return
        here = (self._wells["row"] == round(event.ydata)) & (
            self._wells["column"] == round(event.xdata)
        )
        if here.any():
            self._look_at(int(here.idxmax()))
            self.opened.emit(self._current)

    def _on_key(self, event: Any) -> None:
        if self._wells is None:
            return
        if event.key == "enter" and self._current is not None:
            self.opened.emit(self._current)
        elif event.key in _STEPS:
            self._look_at(next_well(self._wells, self._current, *_STEPS[event.key]))


def next_well(wells: pd.DataFrame, current: int | None, down: int, right: int) -> int:
    """Row of the nearest well in a direction, in the same line where there is one.

    The first well where there is no current one; the current one at the rim.
    """
    if current is None:
        return int(wells.sort_values(["row", "column"]).index[0])
    steps = wells[["row", "column"]] - wells.loc[current, ["row", "column"]].astype(int)
    along, aside = (steps["row"], steps["column"]) if down else (steps["column"], steps["row"])
    ahead = along * (down + right)
    # A well in the same line comes before all others.
    order = np.lexsort((aside.abs(), ahead, aside != 0))
    found = [at for at in order if ahead.iloc[at] > 0]
    return int(wells.index[found[0]]) if found else current


class PlatePanel(Panel):
    """Choice of a value and a plate, the plate, and the well that is looked at.

    Signals
    -------
    field_chosen(int)
        Number of the field whose image is asked for.
    """

    plot: PlatePlot
    field_chosen = Signal(int)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.value = QComboBox()
        self.value.setAccessibleName("What the plate shows")
        self.value.setToolTip("What the colour of a well stands for.")
        self.plate = QComboBox()
        self.plate.setAccessibleName("Plate")
        self.plate.setToolTip("Which plate is shown.")
        for box in (self.value, self.plate):
            box.currentIndexChanged.connect(self.show_concept_again)
        row = QHBoxLayout()
        row.addWidget(self.value, 1)
        row.addWidget(self.plate, 1)
        self.column.addLayout(row)
        self.message = sentence_label()
        self.plot = PlatePlot()
        self.plot.looked_at.connect(self._tell)
        self.plot.opened.connect(self._open)
        self.column.addWidget(self.plot, 1)
        self.column.addWidget(self.message)
        self._table: pd.DataFrame | None = None
        # The well that was opened last, and which of its fields.
        self._opened: tuple[int, int] | None = None

    def show_run(self, run: Run | None) -> None:
        """Forget the wells of an earlier run."""
        self._table = self._opened = None
        self.plot.show_wells(None)
        show_text(self.message, "")

    def _offer_choices(self, run: Run) -> None:
        """What can be chosen, when the wells are first looked at."""
        # Imported when it is needed: napari starts faster without matplotlib.
        from napari_microdl.report.plate_map import VALUES

        unit = run.result.config.units.kind
        plates = sorted(run.wells.on_plates["plate"].unique())
        blocked = [QSignalBlocker(box) for box in (self.value, self.plate)]
        chosen = max(self.value.currentIndex(), 0)
        self.value.clear()
        for key, value in VALUES.items():
            self.value.addItem(value.title.format(unit=unit), key)
        self.value.setCurrentIndex(chosen)
        self.plate.clear()
        self.plate.addItems(plates)
        del blocked
        self.plate.setVisible(len(plates) > 1)
        self.value.setVisible(bool(plates))

    def show_concept(self, run: Run, concept: Concept) -> None:
        """Colour the wells by one concept."""
        if self._table is None:
            self._offer_choices(run)
        wells, activations = run.wells, run.result.activations
        if not len(wells.on_plates):
            show_text(self.message, _NO_PLACES)
            return
        from napari_microdl.report.plate_map import VALUES
        from napari_microdl.report.text import figure_text

        self._table = table = wells.of_concept(activations, concept)
        value, unit = VALUES[self.value.currentData()], run.result.config.units.kind
        of_concept = value.column in ("mean_activation", "share_active")
        parts = [activations.name_of(concept)] if of_concept else [value.title.format(unit=unit)]
        if self.plate.count() > 1:
            parts.append(f"plate {self.plate.currentText() or 'without a name'}")
        own = table[(table["row"] >= 0) & (table["plate"] == self.plate.currentText())]
        self.plot.show_wells(own, value.column, unit, figure_text(", ".join(parts)))
        self._say(self._without_place(table))

    def _without_place(self, table: pd.DataFrame) -> str:
        missing = int((table["row"] < 0).sum())
        if not missing:
            return ""
        return (
            f"{counted(missing, 'well')} of this run {'has' if missing == 1 else 'have'} no place "
            "on a plate; fill in wells such as B03 in the first step of the workflow."
        )

    def _tell(self, row: int) -> None:
        """Say what is known of a well."""
        run = self.session.run.current
        if run is None or self._table is None:
            return
        well, unit = self._table.loc[row], run.result.config.units.kind
        parts = [
            f"{well['well']}: {well['condition'] or 'no condition'}"
            + (" (control)" if well["control"] else ""),
            counted(int(well["n_units"]), unit),
        ]
        if well["n_units"]:
            parts.append(f"{well['share_active']:.0%} with the concept")
            parts.append(f"mean activation {well['mean_activation']:.3g}")
        parts.append(counted(int(well["n_fields"]), "field"))
        self._say(", ".join(parts) + ". " + well["note"])

    def _open(self, row: int) -> None:
        """Ask for the first field of a well, or for the next one of the well opened last."""
        run = self.session.run.current
        if run is None:
            return
        fields = run.wells.fields[row]
        place = 0
        if self._opened is not None and self._opened[0] == row:
            place = (self._opened[1] + 1) % len(fields)
        self._opened = row, place
        self.field_chosen.emit(fields[place])

    def _say(self, text: str) -> None:
        show_text(self.message, text)
