"""The samples that a dictionary was fitted on, before they were whitened: some of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.arrays import drawn_rows
from napari_microdl.core.config import PipelineConfig, PlateKind
from napari_microdl.metrics.background import BackgroundTest

# So many tell whether there is anything to find, and are whitened and learned from in a blink.
MOST_SAMPLES = 2_000


@dataclass(frozen=True, eq=False)
class FitSamples:
    """Samples of a fit, from which it can be repeated with other controls.

    Parameters
    ----------
    rows : ndarray of int, shape (n,)
        Rows of the table of units, ascending.
    vectors : ndarray of shape (n, d)
        Their mean tokens, position component removed.
    config : PipelineConfig
        Settings of the fit.
    complete : bool
        Whether these are all units.
    plates : ndarray of str, shape (n,)
        Their plates.
    kind : {"together", "centre", "scale", "whiten"}
        How these were brought together.
    nuisance : ndarray of shape (d, d), optional
        What the whitening adds to the covariance of controls; the same for any controls.
    background : BackgroundTest, optional
        What decides whether it is added, which it is where not given.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    config: PipelineConfig
    complete: bool
    plates: NDArray[np.str_]
    kind: PlateKind = "together"
    nuisance: NDArray[np.float64] | None = None
    background: BackgroundTest | None = None

    def nuisance_for(
        self, conditions: NDArray[np.str_] | None = None
    ) -> NDArray[np.float64] | None:
        """What a whitening adds to the covariance of controls.

        Parameters
        ----------
        conditions : ndarray of str, shape (n_fields,), optional
            Those of the fields in an arrangement of the wells; as they are where not given.

        Returns
        -------
        ndarray of shape (d, d), or None
            None where nothing is added.
        """
        if self.nuisance is None or self.background is None:
            return self.nuisance
        return self.nuisance if self.background.decide(conditions).taken_off else None

    @classmethod
    def draw(
        cls,
        vectors: NDArray[np.float32],
        config: PipelineConfig,
        most: int = MOST_SAMPLES,
        *,
        plates: NDArray[np.str_] | None = None,
        kind: PlateKind = "together",
        nuisance: NDArray[np.float64] | None = None,
        background: BackgroundTest | None = None,
    ) -> Self:
        """Samples of a run.

        Parameters
        ----------
        vectors : ndarray of shape (n_units, d)
            All of them.
        config : PipelineConfig
            Settings of the fit.
        most : int, default=2,000
            Of more units as many are drawn at random, whatever their condition.
        plates : ndarray of str, shape (n_units,), optional
            Their plates; one where not given.
        kind : {"together", "centre", "scale", "whiten"}
            How these were brought together.
        nuisance : ndarray of shape (d, d), optional
            What the whitening adds to the covariance of controls.
        background : BackgroundTest, optional
            What decides whether it is added, which it is where not given.

        Returns
        -------
        FitSamples
        """
        complete = len(vectors) <= most
        rows = drawn_rows(len(vectors), most, config.random_state)
        of_plates = np.full(len(vectors), "") if plates is None else plates
        drawn = vectors if complete else np.asarray(vectors[rows])
        return cls(rows, drawn, config, complete, of_plates[rows], kind, nuisance, background)
