"""Reads the public training images as grey planes scaled once per image and channel."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from skimage.io import imread

from napari_microdl.fields.intensity import log_scale

Scaling = Literal["percentile", "log"]

# Share of the crops that each data set contributes. `transfluor` is limited to site f00; `bccd`,
# `bbbc014_vitra` and the other `transfluor` sites are left out on purpose: they are the test.
SHARES = {
    "transfluor": 0.22,
    "bbbc022_mock": 0.22,
    "nf1_schwann": 0.13,
    "jump_rab30": 0.10,
    "sixchannel_cellpainting": 0.13,
    "dsb2018": 0.15,
    "neubias": 0.05,
}
BACKGROUND_PERCENTILE, HIGH_PERCENTILE, CEILING = 0.5, 99.8, 2.0


@dataclass(frozen=True)
class Plane:
    """One grey image of one channel, scaled, at least 128 pixels on each edge."""

    source: str
    name: str
    pixels: NDArray[np.float16]


def scale(plane: NDArray[np.generic], scaling: Scaling) -> NDArray[np.float16]:
    """Intensities to about 0..1: linearly by percentiles, or as the package scales them."""
    x = np.asarray(plane, np.float32)
    low, high = np.percentile(x, [BACKGROUND_PERCENTILE, HIGH_PERCENTILE])
    if scaling == "log":
        return log_scale(x, low, float(x.mean(dtype=np.float64))).astype(np.float16)
    return np.clip((x - low) / max(high - low, 1e-6), 0, CEILING).astype(np.float16)


def _planes_of(source: str, root: Path) -> list[tuple[str, NDArray[np.generic]]]:
    folder = root / source
    if source == "transfluor":
        with (folder / "conditions.csv").open() as file:
            rows = [r for r in csv.DictReader(file) if r["Metadata_Site"] == "f00"]
        return [(r["file"], tifffile.imread(folder / "images" / r["file"])) for r in rows]
    if source == "jump_rab30":
        images = np.asarray(zarr.open_group(folder / "images.zarr", mode="r")["images"])
        return [(f"{i}/{c}", images[i, c]) for i in range(len(images)) for c in range(5)]
    if source == "dsb2018":
        return [(p.name, imread(p)) for p in sorted((folder / "images").glob("*.png"))]
    planes: list[tuple[str, NDArray[np.generic]]] = []
    for path in sorted((folder / "images").glob("*.tif*")):
        image = np.squeeze(tifffile.imread(path))
        if image.ndim == 3 and image.shape[-1] <= 4:
            image = np.moveaxis(image, -1, 0)
        image = image.reshape(-1, *image.shape[-2:])
        # A z-stack repeats itself: every third plane is enough.
        step = 3 if len(image) > 8 else 1
        planes += [(f"{path.name}/{i}", image[i]) for i in range(0, len(image), step)]
    return planes


def load_corpus(root: Path, scaling: Scaling) -> list[Plane]:
    """All training planes under `root`, in a fixed order."""
    corpus = []
    for source in SHARES:
        for name, pixels in _planes_of(source, root):
            if min(pixels.shape) < 128 or np.ptp(pixels) == 0:
                continue
            corpus.append(Plane(source, name, scale(pixels, scaling)))
    return corpus
