"""Tab of plots of the concept on show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import QSignalBlocker, Qt
from qtpy.QtWidgets import QComboBox, QHBoxLayout

from napari_microdl.concepts.concept_set import Concept
from napari_microdl.concepts.painting import channel_correlations
from napari_microdl.gui.explorer.panel import Panel, conditions_of
from napari_microdl.gui.session.run import Run
from napari_microdl.gui.widgets.plots import Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = {
    "conditions": ("Conditions", "How alike every cell is to the concept, condition by condition."),
    "wells": ("Wells", "How alike the cells of every well are to the concept, highest first."),
    "channels": (
        "Channels",
        "Which channel the heatmap follows on the selected image: Pearson correlation of heatmap "
        "and channel, pixel by pixel.",
    ),
    "cosines": ("One label against the rest", "Histograms of how alike cells are to the concept."),
}
# In the docs it is called by its name, a cosine.
_ALIKE = "likeness to the concept (-1 to 1)"


class ConceptPlot(Plot):
    """One of the plots of a concept."""

    def __init__(self) -> None:
        super().__init__(120, "Concept")
        self._shown: tuple[Run, Concept, str, str, int] | None = None
        self.hide()

    def show_concept(
        self, run: Run | None, concept: Concept = 0, kind: str = "", label: str = "", field: int = 0
    ) -> None:
        """Draw one concept."""
        self._shown = None if run is None else (run, concept, kind, label, field)
        self.redraw()

    def has_contents(self) -> bool:
        """Whether a concept is shown."""
        return self._shown is not None

    def paint(self, axes: Axes) -> None:
        """Draw what was chosen."""
        # Imported on the first drawing: napari starts faster without matplotlib.
        from napari_microdl.report.concept_figures import draw_channels, draw_cosines, draw_wells
        from napari_microdl.report.figures import draw_distribution
        from napari_microdl.report.text import figure_text

        if self._shown is None:
            return
        run, concept, kind, label, field = self._shown
        activations, text = run.result.activations, self.colours["text"]
        if kind == "conditions":
            draw_distribution(axes, activations, concept, run.result.config.units.kind, text=text)
            # Short enough for a narrow dock.
            axes.set_xlabel(_ALIKE)
        elif kind == "wells":
            draw_wells(axes, activations, concept, text)
            axes.set_xlabel(f"{_ALIKE} (mean, middle half)")
        elif kind == "cosines":
            draw_cosines(axes, activations, concept, label, text)
            axes.set_xlabel(_ALIKE)
        elif not run.has_images:
            axes.set_axis_off()
            axes.set_title("The images of this run are not open.")
        else:
            correlations = channel_correlations(
                activations.heatmap(field, concept),
                run.fields[field].read(),
                activations.grids[field].patch_size,
            )
            draw_channels(axes, list(run.fields[field].channel_names), correlations, text)
            title = f"{activations.name_of(concept)}, {run.sources[field].name}"
            axes.set_title(figure_text(title))


class PlotPanel(Panel):
    """Choice of a plot, and the plot."""

    plot: ConceptPlot

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.kind = QComboBox()
        self.kind.setAccessibleName("Kind of plot")
        for key, (name, tip) in KINDS.items():
            self.kind.addItem(name, key)
            self.kind.setItemData(self.kind.count() - 1, tip, Qt.ItemDataRole.ToolTipRole)
        self.kind.setToolTip(next(iter(KINDS.values()))[1])
        self.label = QComboBox()
        self.label.setToolTip("The condition that is set against all others.")
        self.label.setAccessibleName("Label")
        for box in (self.kind, self.label):
            box.currentIndexChanged.connect(self._on_choice)
        row = QHBoxLayout()
        row.addWidget(self.kind, 1)
        row.addWidget(self.label, 1)
        self.column.addLayout(row)
        self.plot = ConceptPlot()
        self.column.addWidget(self.plot, 1)
        self.label.hide()

    def show_run(self, run: Run | None) -> None:
        """Offer the conditions of the run."""
        with QSignalBlocker(self.label):
            self.label.clear()
            if run is not None:
                self.label.addItems(conditions_of(run))
                best = str(run.result.activations.ranking["label"].iloc[0])
                self.label.setCurrentText(best)
        if run is None:
            self.plot.show_concept(None)

    def show_concept(self, run: Run, concept: Concept) -> None:
        """Draw the chosen plot."""
        field = self.overlays.field_in_view()
        kind, label = self.kind.currentData(), self.label.currentText()
        self.plot.show_concept(run, concept, kind, label, field)

    def _on_choice(self) -> None:
        kind = self.kind.currentData()
        self.label.setVisible(kind == "cosines")
        self.kind.setToolTip(KINDS[kind][1])
        self.show_concept_again()
