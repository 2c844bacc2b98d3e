"""How well each layer of the model tells treated from control."""

from __future__ import annotations

from typing import TYPE_CHECKING

from napari_microdl.gui.widgets.plots import Plot

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


class LayerCurve(Plot):
    """Scores of a linear probe on each layer, the layer that is read as a line."""

    def __init__(self) -> None:
        super().__init__(150, "Comparison of layers")
        self._table: pd.DataFrame | None = None
        self._model = ""
        self._chosen: int | None = None
        self.hide()

    def show_table(self, table: pd.DataFrame, model: str) -> None:
        """Show scores.

        Parameters
        ----------
        table : DataFrame
            From `napari_microdl.pipeline.layer_choice.iter_layer_scores`.
        model : str
            Setting of the model that they are of.
        """
        self._table, self._model = table, model
        self.redraw()

    def follow(self, model: str, chosen: int | None) -> None:
        """Mark another layer; scores of another model are forgotten."""
        if model != self._model:
            self._table = None
        if (model, chosen) != (self._model, self._chosen):
            self._model, self._chosen = model, chosen
            self.redraw()

    def has_contents(self) -> bool:
        """Whether layers were compared."""
        return self._table is not None

    def table(self) -> pd.DataFrame:
        """Scores of every layer with their spread."""
        assert self._table is not None
        return self._table

    def paint(self, axes: Axes) -> None:
        """Draw the curve."""
        from napari_microdl.report.figures import draw_layers

        assert self._table is not None
        draw_layers(axes, self._table, self._chosen)
        text = self.colours["text"]
        axes.legend(frameon=False, fontsize=7, labelcolor=text)
        axes.set_ylabel("treated or control")
