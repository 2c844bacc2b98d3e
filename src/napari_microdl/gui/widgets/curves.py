"""How strongly the controls vary along each direction, and what is added before whitening."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from napari_microdl.gui.widgets.plots import Plot

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from napari_microdl.estimators.whitening import ControlWhitening

# Variances below this share of the largest are rounding.
_ROUNDING = 1e-12
# From a palette that colour-blind readers tell apart.
_SPECTRUM, _SHRINKAGE = "#56b4e9", "#e69f00"


class SpectrumPlot(Plot):
    """Variance of the controls along each direction, the shrinkage as a line across."""

    def __init__(self) -> None:
        super().__init__(120, "Control spectrum")
        self._whitening: ControlWhitening | None = None
        self.explain(
            "Directions left of the crossing vary more among controls than the shrinkage adds and "
            "are scaled down fully; those right of it are scaled up by the shrinkage alone."
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
        axes.plot(np.arange(1, len(positive) + 1), positive, color=_SPECTRUM, linewidth=1.5)
        if added > 0:
            axes.axhline(added, color=_SHRINKAGE, linewidth=1.2, linestyle="--")
        axes.set_yscale("log")
        axes.set_xlim(1, max(len(positive), 2))
        axes.set_xlabel("direction of the controls, strongest first")
        axes.set_ylabel("variance")
        axes.set_title(
            f"Shrinkage {self._whitening.shrinkage:g} x median (dashed); "
            f"{self._whitening.n_samples_seen_} controls"
        )
