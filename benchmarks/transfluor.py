"""How well the best concept found on one site of a plate holds on the other.

``python benchmarks/transfluor.py --data DATA`` fits on site f00 of all 24 `transfluor` wells (64-px
crops every 32 px; the controls of the whitening are O11 to O16), chooses the concept of the
highest average selectivity for activated wells there, and reports it there and on site f01. Wells
of unclear state take part in the fit and are left out of every score. Sizes and shrinkage are the
package's defaults. The table gives the median and the range over 5 seeds; a seed draws the
dictionary's start, and for the untrained model its weights too.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from public_sets import load_site

from napari_microdl import ICFL, ControlWhitening, Field, embed
from napari_microdl.cells import pool, units_of
from napari_microdl.evaluation import average_selectivity, separation_auc
from napari_microdl.models.registry import load_model
from napari_microdl.positions import PositionComponent
from napari_microdl.shrinkage import choose_shrinkage
from napari_microdl.whitening import FewControlsWarning

FIT, TEST = "f00", "f01"
Samples = tuple[NDArray[np.float32], NDArray[np.str_], NDArray[np.bool_], NDArray[np.str_]]


def samples_of(fields: dict[str, list[Field]], model_name: str, seed: int) -> dict[str, Samples]:
    """Crop vectors of both sites; the position component comes from the fitting site."""
    model = load_model(model_name, seed=seed)
    grids = {site: embed(of_site, model) for site, of_site in fields.items()}
    places = (model.spec.tile_size // model.spec.patch_size) ** 2
    component = PositionComponent.fit(grids[FIT], places)
    samples = {}
    for site, of_site in fields.items():
        parts = []
        for grid, field in zip(grids[site], of_site, strict=True):
            units = units_of(grid, "crop", crop_size=64, crop_stride=32)
            vectors = pool(component.remove(grid), units)
            n = len(vectors)
            parts.append(
                (
                    vectors,
                    np.full(n, field.condition),
                    np.full(n, field.is_control),
                    np.full(n, field.well),
                )
            )
        samples[site] = tuple(np.concatenate(columns) for columns in zip(*parts, strict=True))
    return samples


def score(samples: dict[str, Samples], seed: int, *, whiten: bool) -> tuple[float, float, float]:
    """Average selectivity on the fitting and the test site, and AUC on the test site."""
    vectors = {site: s[0] for site, s in samples.items()}
    if whiten:
        x, _, control, wells = samples[FIT]
        shrinkage = choose_shrinkage(x[control], wells[control])
        whitening = ControlWhitening(shrinkage=shrinkage).fit(x[control])
        vectors = {site: whitening.transform(v) for site, v in vectors.items()}
    icfl = ICFL(random_state=seed).fit(vectors[FIT])
    selectivities = {}
    for site in (FIT, TEST):
        condition = samples[site][1]
        clear = condition != "unclear"
        codes = icfl.transform(vectors[site][clear])
        classes, values = average_selectivity(codes, condition[clear])
        selectivities[site] = values[list(classes).index("puncta")]
    best = int(np.argmax(selectivities[FIT]))
    clear = samples[TEST][1] != "unclear"
    x = vectors[TEST][clear]
    cosines = x @ icfl.components_[best] / np.maximum(np.linalg.norm(x, axis=1), 1e-12)
    auc = separation_auc(cosines, samples[TEST][1][clear] == "puncta")
    return float(selectivities[FIT][best]), float(selectivities[TEST][best]), auc


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", FewControlsWarning)
    fields = {site: load_site(arguments.data, site) for site in (FIT, TEST)}
    print(
        f"{'tokens':<12} {'samples':<18} {'fit site':>18} {'test site':>18} {'AUC, test site':>18}"
    )
    for model in ("builtin", "random-init"):
        rows: dict[bool, list[tuple[float, float, float]]] = {True: [], False: []}
        samples: dict[str, Samples] = {}
        for seed in range(arguments.seeds):
            if not samples or model == "random-init":
                samples = samples_of(fields, model, seed)
            for whiten, scores in rows.items():
                scores.append(score(samples, seed, whiten=whiten))
        for whiten, scores in rows.items():
            columns = [
                f"{np.median(c):.2f} ({min(c):.2f}-{max(c):.2f})" for c in zip(*scores, strict=True)
            ]
            name = "control whitening" if whiten else "as they are"
            print(f"{model:<12} {name:<18} " + " ".join(f"{c:>18}" for c in columns), flush=True)


if __name__ == "__main__":
    main()
