"""Curves of the workflow: scores of layers, the spectrum of the controls, and a fit."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import QTimer

from napari_microdl.gui.widgets.plots import Plot

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from napari_microdl.estimators.icfl import FitRecord
    from napari_microdl.estimators.whitening import ControlWhitening

# Variances below this share of the largest are rounding.
_ROUNDING = 1e-12
# From a palette that colour-blind readers tell apart.
_CURVE, _SHRINKAGE = "#56b4e9", "#e69f00"
_MILLISECONDS_BETWEEN_DRAWINGS = 1000


class SpectrumPlot(Plot):
    """Variance of the controls along each direction, the shrinkage as a line across."""

    def __init__(self) -> None:
        super().__init__(120, "Control spectrum")
        self._whitening: ControlWhitening | None = None
        self.explain(
            "Directions left of the crossing vary more among controls than is added (dashed) and "
            "are scaled down fully; those right of it are scaled up by what is added alone."
        )
        self.hide()

    def show_whitening(self, whitening: ControlWhitening | None) -> None:
        """Show a whitening; None shows nothing."""
        if whitening is not self._whitening:
            self._whitening = whitening
            self.redraw()

    def has_contents(self) -> bool:
        """Whether there is a whitening."""
        return self._whitening is not None

    def table(self) -> pd.DataFrame:
        """Variance of the controls along every direction, and the factor applied to it."""
        import pandas as pd

        assert self._whitening is not None
        variance = self._whitening.explained_variance_
        return pd.DataFrame(
            {
                "direction": np.arange(1, len(variance) + 1),
                "variance": variance,
                "scale": self._whitening.scale_,
            }
        )

    def paint(self, axes: Axes) -> None:
        """Draw both lines."""
        assert self._whitening is not None
        variance, scale = self._whitening.explained_variance_, self._whitening.scale_
        positive = variance[variance > _ROUNDING * variance.max()]
        added = 1 / scale[-1] ** 2 - variance[-1] if scale[-1] > 0 else 0.0
        axes.plot(np.arange(1, len(positive) + 1), positive, color=_CURVE, linewidth=1.5)
        if added > 0:
            axes.axhline(added, color=_SHRINKAGE, linewidth=1.2, linestyle="--")
        axes.set_yscale("log")
        axes.set_xlim(1, max(len(positive), 2))
        axes.set_xlabel("direction of the controls, strongest first")
        axes.set_ylabel("variance")
        axes.set_title(
            f"added: {self._whitening.shrinkage:g} x median (dashed); "
            f"{self._whitening.n_samples_seen_} controls"
        )


class LayerCurve(Plot):
    """Scores of a linear probe on each layer, the layer that is read as a line."""

    def __init__(self) -> None:
        super().__init__(150, "Comparison of layers")
        self._table: pd.DataFrame | None = None
        self._model = ""
        self._chosen: int | None = None
        self.hide()

    def show_table(self, table: pd.DataFrame, model: str) -> None:
        """Show the scores of a model, from `napari_microdl.pipeline.layer_choice.layer_scores`."""
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


class FitCurve(Plot):
    """R2 of the dictionary against the step, drawn while it is fitted."""

    def __init__(self) -> None:
        super().__init__(130, "Fit curve")
        self._records: list[FitRecord] = []
        self._timer = QTimer(self, singleShot=True, interval=_MILLISECONDS_BETWEEN_DRAWINGS)
        self._timer.timeout.connect(self.redraw)
        self.hide()

    def clear(self) -> None:
        """Forget the last fit."""
        self._timer.stop()
        self._records = []
        self.redraw()

    def add(self, record: FitRecord) -> None:
        """Take one more point in; drawing waits, so that a fast fit does not wait for it."""
        if self._records and record.step < self._records[-1].step:
            # Another start.
            self._records = []
        self._records.append(record)
        if not self._timer.isActive():
            self._timer.start()

    def set_history(self, records: list[FitRecord]) -> None:
        """Show the whole curve of a finished fit."""
        self._timer.stop()
        self._records = list(records)
        self.redraw()

    def has_contents(self) -> bool:
        """Whether a fit has begun."""
        return bool(self._records)

    def table(self) -> pd.DataFrame:
        """Every point of the fit: step, R2, dead concepts and what else is known."""
        import pandas as pd

        return pd.DataFrame([dataclasses.asdict(record) for record in self._records])

    def paint(self, axes: Axes) -> None:
        """Draw the curve."""
        steps = [record.step for record in self._records]
        r2 = [record.r2 for record in self._records]
        axes.plot(steps, r2, color=_CURVE, linewidth=1.5)
        last = self._records[-1]
        axes.set_xlim(0, max(last.total_steps or last.step, 1))
        axes.set_xlabel("step")
        axes.set_ylabel("share explained")
        axes.set_title(f"explains {last.r2:.1%} of samples, {last.dead_atoms} dead concepts")
