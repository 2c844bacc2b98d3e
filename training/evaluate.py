"""Gate of the built-in model: linear probes on mean tokens against three baselines.

``python training/evaluate.py --data DATA`` prints one table over 3 seeds:

a  activated or resting, 64-px crops of `transfluor` site f01, splits by well;
b  red cell, white cell or platelet, 64-px crops around the boxes of `bccd`, splits by image; once
   in RGB, where colour alone tells them apart, and once in the green channel alone;
c  treated or untreated, 64-px crops of `bbbc014_vitra`, halves of the image apart. There is one
   image a class, so anything that differs between two images counts: confounded.

d  cells, with the default settings: heat on spots and inside O01 of the bundled sample (f01), and a
   simulated plate: ridge regression and the best concept within held-out wells, mean of five
   factors (`benchmarks/cells.py`).

None of these images was used in training. `transfluor` site f00 was; it alone serves to choose the
layer (``--layers``). ``--weights FILE`` measures an export of train.py as well, whose weights take
the place of the built-in ones only if they win in d and lose nowhere by more than 0.01;
``--cells`` measures d alone, and ``--plate 7`` on another plate, to look at while training.
"""

from __future__ import annotations

import argparse
import csv
import sys
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.filters import threshold_otsu
from skimage.io import imread
from skimage.measure import label as connected
from skimage.measure import regionprops
from skimage.transform import resize
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from napari_microdl import run_pipeline
from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.fields.intensity import IntensityScaling
from napari_microdl.fields.samples import transfluor as sample
from napari_microdl.models.base import TokenModel
from napari_microdl.models.families.builtin import load_weights
from napari_microdl.models.registry import load_model
from napari_microdl.pipeline.cache import StageCache
from napari_microdl.tokens import TokenGrid, embed
from napari_microdl.tokens.positions import PositionComponent, left_out_share, position_share
from napari_microdl.tokens.units import pool, units_of

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from cells import on_plate, on_sample
from simulated import plate

Box = tuple[int, int, int, int]
Features = NDArray[np.float32]
CROP = 64


class Task:
    """Boxes in fields, with a class and a group each."""

    def __init__(
        self,
        title: str,
        fields: list[Field],
        boxes: list[list[Box]],
        classes: list[list[str]],
        groups: list[list[str]],
        halves: bool = False,
    ) -> None:
        self.title = title
        self.fields = fields
        self.boxes = boxes
        self.classes = np.array([c for part in classes for c in part])
        self.groups = np.array([g for part in groups for g in part])
        self.halves = halves


def grid_boxes(shape: tuple[int, int]) -> list[Box]:
    """Crops side by side."""
    return [
        (y, x, y + CROP, x + CROP)
        for y in range(0, shape[0] - CROP + 1, CROP)
        for x in range(0, shape[1] - CROP + 1, CROP)
    ]


def transfluor(data: Path, site: str) -> Task:
    """Activated against resting, wells of unclear state left out."""
    folder = data / "transfluor"
    fields, classes, groups, boxes = [], [], [], []
    with (folder / "conditions.csv").open() as file:
        for row in csv.DictReader(file):
            if row["Metadata_Site"] != site or row["condition"] == "unclear":
                continue
            image = tifffile.imread(folder / "images" / row["file"])
            fields.append(
                Field(data=image[None], channel_names=("GFP",), name=row["Metadata_Well"])
            )
            boxes.append(grid_boxes(image.shape))
            classes.append([row["condition"]] * len(boxes[-1]))
            groups.append([row["Metadata_Well"]] * len(boxes[-1]))
    return Task(f"(a) transfluor {site}, by well", fields, boxes, classes, groups)


def centred(box: Box, shape: tuple[int, int]) -> Box:
    """Crop around the middle of a box, moved into the image: the box's size must not tell."""
    top = min(max((box[0] + box[2] - CROP) // 2, 0), shape[0] - CROP)
    left = min(max((box[1] + box[3] - CROP) // 2, 0), shape[1] - CROP)
    return top, left, top + CROP, left + CROP


def bccd(data: Path, colours: tuple[str, ...], n_images: int = 24) -> Task:
    """Blood cell types; at most four red cells an image."""
    folder = data / "bccd"
    paths = sorted((folder / "Annotations").glob("*.xml"))
    paths = paths[:: max(1, len(paths) // n_images)][:n_images]
    fields, classes, groups, boxes = [], [], [], []
    for path in paths:
        image = np.moveaxis(imread(folder / "JPEGImages" / f"{path.stem}.jpg"), -1, 0)
        here: list[Box] = []
        names: list[str] = []
        for node in ElementTree.parse(path).getroot().iter("object"):
            name = node.findtext("name") or ""
            box = node.find("bndbox")
            if box is None or (name == "RBC" and names.count("RBC") == 4):
                continue
            x0, y0, x1, y1 = (int(box.findtext(k) or 0) for k in ("xmin", "ymin", "xmax", "ymax"))
            here.append(centred((y0, x0, y1, x1), image.shape[1:]))
            names.append(name)
        if here:
            chosen = image[[("red", "green", "blue").index(c) for c in colours]]
            fields.append(Field(data=chosen, channel_names=colours, name=path.stem))
            boxes.append(here)
            classes.append(names)
            groups.append([path.stem] * len(here))
    title = f"(b) bccd, {' '.join(colours)}, by image"
    return Task(title, fields, boxes, classes, groups)


def bbbc014(data: Path) -> Task:
    """Treated against untreated, left and right halves apart."""
    folder = data / "bbbc014_vitra" / "images"
    fields, classes, groups, boxes = [], [], [], []
    for well, name in (("A01", "01-A-01-00"), ("A12", "12-A-12-00")):
        image = np.stack([tifffile.imread(folder / f"Channel {c}-{name}.tif") for c in (1, 2)])
        fields.append(Field(data=image, channel_names=("FITC", "DAPI"), name=well))
        here = grid_boxes(image.shape[1:])
        boxes.append(here)
        classes.append([well] * len(here))
        half = image.shape[2] / 2
        groups.append(["left" if x0 + CROP / 2 < half else "right" for _, x0, _, _ in here])
    return Task("(c) bbbc014, by half, confounded", fields, boxes, classes, groups, halves=True)


def pool_boxes(grid: TokenGrid, boxes: list[Box]) -> Features:
    """Mean token of every box, exactly weighted; boxes may overlap."""
    rows = []
    for number, (y0, x0, y1, x1) in enumerate(boxes, start=1):
        labels = np.zeros(grid.image_shape, np.int32)
        labels[y0:y1, x0:x1] = number
        rows.append(pool(grid, units_of(grid, "cell", labels=labels))[0])
    return np.array(rows)


def token_features(task: Task, model: TokenModel, layer: int) -> tuple[Features, float, float]:
    """Mean tokens without their position component, and its share before and after."""
    grids = embed(task.fields, model, layer=layer)
    before = position_share(grids)
    places = (model.spec.tile_size // model.spec.patch_size) ** 2
    after = left_out_share(grids, places)
    component = PositionComponent.fit(grids, places)
    pooled = [pool_boxes(component.remove(g), b) for g, b in zip(grids, task.boxes, strict=True)]
    return np.concatenate(pooled), before, after


def crops_of(task: Task) -> list[NDArray[np.float32]]:
    """Scaled pixels of every box."""
    scaler = IntensityScaling().fit(task.fields)
    crops = []
    for index, (field, boxes) in enumerate(zip(task.fields, task.boxes, strict=True)):
        image = scaler.apply(index, field.read())
        crops += [image[:, y0:y1, x0:x1] for y0, x0, y1, x1 in boxes]
    return crops


def pixel_features(crops: list[NDArray[np.float32]]) -> Features:
    """Pixels of every box at 32 x 32 a channel, for the PCA baseline."""
    return np.array(
        [resize(c, (len(c), 32, 32), anti_aliasing=True).ravel() for c in crops], np.float32
    )


def handcrafted_features(crops: list[NDArray[np.float32]]) -> Features:
    """Intensity, shape (regionprops) and texture (co-occurrence, local binary patterns)."""
    rows = []
    for crop in crops:
        row: list[float] = []
        for plane in crop:
            row += [plane.mean(), plane.std(), *np.percentile(plane, [5, 25, 50, 75, 95, 99])]
            grey = (np.clip(plane / 1.5, 0, 1) * 31).astype(np.uint8)
            matrix = graycomatrix(grey, [1, 3, 6], [0, np.pi / 2], 32, symmetric=True, normed=True)
            for name in ("contrast", "homogeneity", "energy", "correlation"):
                row += list(graycoprops(matrix, name).mean(1))
            pattern = local_binary_pattern((plane * 100).astype(np.int32), 8, 2, "uniform")
            row += list(np.bincount(pattern.astype(int).ravel(), minlength=10) / pattern.size)
            binary = plane > threshold_otsu(plane) if np.ptp(plane) else np.zeros(plane.shape, bool)
            regions = regionprops(connected(binary))
            row += [len(regions), binary.mean()]
            names = ("area", "eccentricity", "solidity", "extent")
            large = max(regions, key=lambda r: r.area, default=None)
            row += [float(getattr(large, n)) if large else 0.0 for n in names]
        rows.append(row)
    return np.nan_to_num(np.array(rows, np.float32))


def probe(
    features: Features, task: Task, seed: int, reduce: Callable[[], PCA] | None = None
) -> float:
    """AUC (one against the rest, macro) of a class-balanced logistic regression, out of fold."""
    classes = np.unique(task.classes)
    score = np.zeros((len(features), len(classes)))
    if task.halves:
        left = task.groups == "left"
        splits = [(np.flatnonzero(left), np.flatnonzero(~left))]
        splits += [(splits[0][1], splits[0][0])]
        # Two halves leave nothing to shuffle: the seed draws nine tenths of the training crops.
        rng = np.random.default_rng(seed)
        splits = [(rng.permutation(a)[: len(a) * 9 // 10], b) for a, b in splits]
    else:
        folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
        splits = list(folds.split(features, task.classes, task.groups))
    aucs = []
    for train, test in splits:
        steps = [StandardScaler(), *([reduce()] if reduce else [])]
        model = make_pipeline(
            *steps, LogisticRegression(C=0.1, class_weight="balanced", max_iter=500)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(features[train], task.classes[train])
        score = model.predict_proba(features[test])
        present = [c for c in classes if 0 < (task.classes[test] == c).sum() < len(test)]
        aucs.append(
            np.mean(
                [
                    roc_auc_score(task.classes[test] == c, score[:, list(model.classes_).index(c)])
                    for c in present
                ]
            )
        )
    return float(np.mean(aucs))


def show(values: list[float]) -> str:
    """Mean and spread over seeds."""
    return f"{np.mean(values):.3f} ± {np.std(values):.3f}"


def choose_layer(data: Path) -> None:
    """AUC of every layer on the training site of `transfluor`."""
    task = transfluor(data, "f00")
    model = load_model("builtin")
    for layer in range(1, model.spec.depth + 1):
        features, before, after = token_features(task, model, layer)
        aucs = [probe(features, task, seed) for seed in range(3)]
        print(f"layer {layer}: AUC {show(aucs)}, position share {before:.3f} -> {after:.3f}")


def on_cells(model: TokenModel, seeds: range, number: int) -> dict[str, list[float]]:
    """Figures of `benchmarks/cells.py` with the default settings."""
    found: dict[str, list[float]] = {}
    stages, fields, drawn = [StageCache() for _ in range(3)], sample(), plate(number)
    for seed in seeds:
        config = PipelineConfig.of(random_state=seed)
        row = on_sample(run_pipeline(fields, config, model=model, stages=stages[0]), fields)
        row |= on_plate(config, stages[1:], ridge=True, drawn=drawn, model=model)
        for name in ("spots", "inside O01", "planted", "planted, ridge"):
            found.setdefault(name, []).append(row[name])
    return found


def main() -> None:
    """Print the gate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--layers", action="store_true", help="compare the layers on site f00")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--weights", type=Path, help="measure these in place of the built-in ones")
    parser.add_argument("--cells", action="store_true", help="measure d alone")
    parser.add_argument("--plate", type=int, default=0, help="seed of the simulated plate of d")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.layers:
        choose_layer(arguments.data)
        return
    seeds = range(arguments.seeds)
    model = load_weights(arguments.weights, "cpu") if arguments.weights else load_model("builtin")
    print(f"{model.spec.title}, weights {model.spec.weights_sha256[:12]}")
    print(f"\n(d) cells, simulated plate {arguments.plate}")
    for name, values in on_cells(model, seeds, arguments.plate).items():
        print(f"  {name:<26} {show(values)}")
    if arguments.cells:
        return
    passed = []
    data = arguments.data
    tasks = (
        transfluor(data, "f01"),
        bccd(data, ("red", "green", "blue")),
        bccd(data, ("green",)),
        bbbc014(data),
    )
    for task in tasks:
        print(f"\n{task.title}: {len(task.classes)} crops, {len(task.fields)} images")
        layer = model.spec.default_layer
        features, before, after = token_features(task, model, layer)
        builtin = [probe(features, task, s) for s in seeds]
        print(f"  built-in MAE, layer {layer}      {show(builtin)}")
        print(f"    position share of token variance {before:.3f}, after removal {after:.3f}")
        random = []
        for s in seeds:
            features, _, _ = token_features(task, load_model("random-init", seed=s), layer)
            random.append(probe(features, task, s))
        print(f"  random init, layer {layer}       {show(random)}")
        crops = crops_of(task)
        pixels = pixel_features(crops)
        raw = [
            probe(pixels, task, s, lambda s=s: PCA(64, random_state=s, svd_solver="randomized"))
            for s in seeds
        ]
        print(f"  raw-pixel PCA (64)         {show(raw)}")
        handcrafted = handcrafted_features(crops)
        print(f"  handcrafted features       {show([probe(handcrafted, task, s) for s in seeds])}")
        margin = np.mean(builtin) - max(np.mean(random), np.mean(raw))
        passed.append(margin >= 0.02)
        print(f"  margin over the better baseline {margin:+.3f}")
    verdict = "passed" if passed[0] and any(passed[1:]) else "NOT passed"
    print(f"\nGate ((a) and one more by at least 0.02): {verdict}")


if __name__ == "__main__":
    main()
