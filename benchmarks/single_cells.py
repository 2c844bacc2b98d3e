"""How well the concept tells reacting from resting cells side by side in one well.

``python benchmarks/single_cells.py`` runs the default job on the bundled sample over 5 seeds and
compares the best concept, chosen by its average selectivity over all wells, with a spot score that
the job knows nothing of: the standard deviation of a difference of Gaussians inside the cell over
its mean intensity. Within well O01 no difference between wells can help: the table gives Spearman's
rank correlation there, and the AUC for the upper against the lower half of the spot scores.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, stats
from skimage.filters import gaussian

from napari_microdl import PipelineConfig, run_pipeline
from napari_microdl.fields.samples import transfluor
from napari_microdl.metrics import separation_auc

WELL = "O01"


def spot_scores(image: NDArray[np.generic], labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Strength of bright spots in every cell, relative to its brightness."""
    pixels = np.asarray(image, float)
    spots = gaussian(pixels, 1) - gaussian(pixels, 3)
    ids = np.unique(labels)[1:]
    above = ndimage.mean(pixels, labels, ids) - np.percentile(pixels, 1)
    return np.asarray(ndimage.standard_deviation(spots, labels, ids)) / (above + 5)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    fields = transfluor()
    number = [f.well for f in fields].index(WELL)
    print("seed  selectivity   AUC of wells   rho in O01   AUC in O01")
    rows = []
    for seed in range(arguments.seeds):
        result = run_pipeline(fields, PipelineConfig.of(random_state=seed))
        activations, labels = result.activations, result.labels[number]
        assert labels is not None
        best = activations.ranking.iloc[0]
        here = activations.units["field"].to_numpy() == number
        cosines = activations.alignment(int(activations.ranking.index[0]))[here]
        scores = spot_scores(fields[number].read()[0], labels)
        rho = float(stats.spearmanr(cosines, scores).statistic)
        auc = separation_auc(cosines, scores > np.median(scores))
        rows.append((best["selectivity"], best["auc"], rho, auc))
        print(f"{seed:<5} {rows[-1][0]:>11.2f} {rows[-1][1]:>14.2f} {rho:>12.2f} {auc:>12.2f}")
    middle = np.median(rows, axis=0)
    print(f"median {middle[0]:>10.2f} {middle[1]:>14.2f} {middle[2]:>12.2f} {middle[3]:>12.2f}")


if __name__ == "__main__":
    main()
