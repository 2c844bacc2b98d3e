"""The public sets that `claims.py` reads: units with a label, in fields to fit on and fields apart.

Every unit is a square of 64 px. Where a set has fields enough, whole fields are held out; where it
has one image a condition, the right halves are, cut off before anything is measured or embedded, so
that no token and no intensity scale has seen both. Between two images everything that differs
between them counts, so those sets are confounded, and marked so.
"""

from __future__ import annotations

import csv
import hashlib
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from skimage.io import imread

from napari_microdl import Field, embed
from napari_microdl.fields.intensity import IntensityScaling
from napari_microdl.metrics import cell_measurements
from napari_microdl.models.base import TokenModel
from napari_microdl.models.registry import load_model
from napari_microdl.tokens import TokenGrid
from napari_microdl.tokens.positions import PositionComponent
from napari_microdl.tokens.units import pool, units_of

CROP, STRIDE = 64, 32
# Squares of this edge swap labels as a whole in the null of the sets that have halves only.
BLOCK = 128
UNCLEAR = "unclear"
# The well of the held-out site of `transfluor` that was looked at while the intensity scaling was
# chosen; and all wells of that site that come with the package as its sample, which people see.
LOOKED_AT = "O01"
BUNDLED = frozenset({"O01", "O05", "O07", "O08", "O11", "O12", "O14", "O16"})
Floats = NDArray[np.float32]
Boxes = NDArray[np.int32]


@dataclass(frozen=True)
class Part:
    """Units of one field.

    Parameters
    ----------
    field : Field
        Image.
    boxes : ndarray of shape (n, 4)
        First row, first column, last row + 1, last column + 1.
    labels : ndarray of shape (n,)
        What concepts should tell; "unclear" is fitted but not scored.
    groups : ndarray of shape (n,)
        What swaps labels as a whole in the null.
    blocks : ndarray of shape (n,)
        What labels stay within in the null.
    control : ndarray of bool, shape (n,)
        What the whitening is fitted on.
    numbers : ndarray of shape (n,) or None
        Numbers of the boxes among all crops of the field, side by side every `STRIDE` px; None
        where boxes lie anywhere.
    """

    field: Field
    boxes: Boxes
    labels: NDArray[np.str_]
    groups: NDArray[np.str_]
    blocks: NDArray[np.str_]
    control: NDArray[np.bool_]
    numbers: NDArray[np.int64] | None


@dataclass(frozen=True)
class PublicSet:
    """Fields to fit on and fields apart, and for people what the set is.

    Parameters
    ----------
    name : str
        Folder of the data.
    title, units, held_out, control : str
        What is told apart, in which units, what is held out and what the whitening is fitted on.
    confounded : bool
        Whether a label is in one image only.
    same_wells : bool
        Whether the wells that are held out in part were fitted in part too, so that what is scored
        is other cells or another half of the image, but no other well.
    fit, test : list of Part
        Fields to fit on, and fields apart.
    bundled : frozenset of str
        Groups held out that are part of the sample of the package: nothing is known to be chosen on
        them, but they were in sight.
    """

    name: str
    title: str
    units: str
    held_out: str
    control: str
    confounded: bool
    same_wells: bool
    fit: list[Part]
    test: list[Part]
    bundled: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Samples:
    """Vectors of units with what is known of each."""

    vectors: Floats
    fields: NDArray[np.str_]
    labels: NDArray[np.str_]
    groups: NDArray[np.str_]
    blocks: NDArray[np.str_]
    control: NDArray[np.bool_]

    def clear(self) -> Samples:
        """Those with a label that counts."""
        keep = self.labels != UNCLEAR
        return Samples(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def _grid_part(
    field: Field,
    label: str,
    keep: Callable[[Boxes], NDArray[np.bool_]] | None = None,
    by_block: bool = False,
) -> Part:
    """All crops of a field, or those that `keep` says."""
    tops, lefts = (np.arange(0, edge - CROP + 1, STRIDE) for edge in field.shape)
    top, left = (a.ravel() for a in np.meshgrid(tops, lefts, indexing="ij"))
    boxes = np.stack([top, left, top + CROP, left + CROP], axis=1).astype(np.int32)
    numbers = np.arange(len(boxes)) if keep is None else np.flatnonzero(keep(boxes))
    boxes = boxes[numbers]
    n = len(boxes)
    groups = np.full(n, field.well)
    if by_block:
        squares = (boxes[:, :2] + CROP // 2) // BLOCK
        groups = np.array([f"{field.well} {y} {x}" for y, x in squares])
    return Part(
        field,
        boxes,
        np.full(n, label),
        groups,
        np.full(n, "all"),
        np.full(n, field.is_control),
        numbers,
    )


def load_site(data: Path, site: str) -> list[Field]:
    """All wells of one site of `transfluor`."""
    folder = data / "transfluor"
    with (folder / "conditions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["Metadata_Site"] == site]
    return [
        Field(
            data=tifffile.imread(folder / "images" / row["file"])[None],
            channel_names=("GFP",),
            name=row["Metadata_Well"],
            condition=row["condition"],
            is_control=row["is_control"] == "true",
            well=row["Metadata_Well"],
            site=site,
        )
        for row in rows
    ]


def held_out_site(data: Path) -> list[Field]:
    """Site f01 of all wells but the one that a choice was made on."""
    return [field for field in load_site(data, "f01") if field.well != LOOKED_AT]


def transfluor(data: Path) -> PublicSet:
    """Activated against resting wells; the second site of the same wells is held out, less one."""
    fit, test = (
        [_grid_part(field, field.condition) for field in fields]
        for fields in (load_site(data, "f00"), held_out_site(data))
    )
    return PublicSet(
        "transfluor",
        "activated (puncta) or resting (diffuse) cells, GFP",
        "64-px crops every 32 px",
        f"site f01 of the same wells but {LOOKED_AT}; site f00 of all 24 is fitted (the built-in "
        "model has seen it too)",
        "wells O11 to O16",
        False,
        True,
        fit,
        test,
        BUNDLED - {LOOKED_AT},
    )


def _halves(
    image: NDArray[np.generic], channels: tuple[str, ...], well: str, label: str, control: bool
) -> list[Field]:
    middle = image.shape[2] // 2
    return [
        Field(
            data=np.ascontiguousarray(half),
            channel_names=channels,
            name=well,
            condition=label,
            is_control=control,
            well=well,
        )
        for half in (image[:, :, :middle], image[:, :, middle:])
    ]


def bbbc014(data: Path) -> PublicSet:
    """Treated against untreated, one image each; right halves are held out."""
    folder = data / "bbbc014_vitra" / "images"
    fit, test = [], []
    for well, stem, label in (
        ("A01", "01-A-01-00", "TNFa"),
        ("A12", "12-A-12-00", "untreated"),
    ):
        image = np.stack([tifffile.imread(folder / f"Channel {c}-{stem}.tif") for c in (1, 2)])
        halves = _halves(image, ("FITC", "DAPI"), well, label, label == "untreated")
        for half, parts in zip(halves, (fit, test), strict=True):
            parts.append(_grid_part(half, label, by_block=True))
    return PublicSet(
        "bbbc014_vitra",
        "NF-kB in the nucleus (TNFa) or not (untreated), two channels",
        "64-px crops every 32 px",
        "the right half of both images; left halves are fitted",
        "well A12",
        True,
        True,
        fit,
        test,
    )


def nf1(data: Path) -> PublicSet:
    """NF1 null against wild type, five images; right halves are held out."""
    folder = data / "nf1_schwann"
    fit, test = [], []
    with (folder / "conditions.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        well = row["Metadata_Well"]
        planes = [
            next((folder / "images").glob(f"{well}_01_{number}_*.tif")) for number in (1, 2, 3)
        ]
        image = np.stack([tifffile.imread(path) for path in planes])
        mask = tifffile.imread(next((folder / "masks").glob(f"{well}_*_MaskCells.tiff"))) > 0
        middle = image.shape[2] // 2
        halves = _halves(
            image, ("DAPI", "GFP", "RFP"), well, row["condition"], row["is_control"] == "true"
        )
        for half, cells, parts in zip(
            halves, (mask[:, :middle], mask[:, middle:]), (fit, test), strict=True
        ):

            def on_cells(boxes: Boxes, cells: NDArray[np.bool_] = cells) -> NDArray[np.bool_]:
                return np.array([cells[y0:y1, x0:x1].mean() >= 0.5 for y0, x0, y1, x1 in boxes])

            parts.append(_grid_part(half, row["condition"], on_cells, by_block=True))
    return PublicSet(
        "nf1_schwann",
        "Schwann cells, NF1 null or wild type, three channels",
        "64-px crops every 32 px of which the cell mask covers half or more (cells touch, and the "
        "masks do not tell one from the next)",
        "the right half of all five images; left halves are fitted",
        "well D6, the only wild type (the built-in model was trained on these images)",
        True,
        True,
        fit,
        test,
    )


def _centred(boxes: Iterable[tuple[int, int, int, int]], shape: tuple[int, int]) -> Boxes:
    """Squares around the middle of boxes, moved into the image: a box's size must not tell."""
    rows = []
    for y0, x0, y1, x1 in boxes:
        top = min(max((y0 + y1 - CROP) // 2, 0), shape[0] - CROP)
        left = min(max((x0 + x1 - CROP) // 2, 0), shape[1] - CROP)
        rows.append((top, left, top + CROP, left + CROP))
    return np.array(rows, np.int32).reshape(-1, 4)


def bccd(data: Path, every: int = 3, most_red: int = 8) -> PublicSet:
    """Blood cell types; every second image is held out."""
    folder = data / "bccd"
    parts: tuple[list[Part], list[Part]] = ([], [])
    for number, path in enumerate(sorted((folder / "Annotations").glob("*.xml"))[::every]):
        image = np.moveaxis(imread(folder / "JPEGImages" / f"{path.stem}.jpg"), -1, 0)
        boxes, names = [], []
        for node in ElementTree.parse(path).getroot().iter("object"):
            name, box = node.findtext("name") or "", node.find("bndbox")
            if box is None or (name == "RBC" and names.count("RBC") == most_red):
                continue
            x0, y0, x1, y1 = (int(box.findtext(k) or 0) for k in ("xmin", "ymin", "xmax", "ymax"))
            boxes.append((y0, x0, y1, x1))
            names.append(name)
        labels = np.array(names, np.str_)
        parts[number % 2].append(
            Part(
                Field(data=image, channel_names=("red", "green", "blue"), name=path.stem),
                _centred(boxes, image.shape[1:]),
                labels,
                np.array([f"{path.stem} {i}" for i in range(len(labels))], np.str_),
                np.full(len(labels), path.stem),
                labels == "RBC",
                None,
            )
        )
    return PublicSet(
        "bccd",
        "red cells (RBC), white cells (WBC) and platelets in blood smears, RGB",
        "64-px squares around the middle of the marked cells, at most eight red cells an image",
        "every second of the 122 images used",
        "red cells of the fitting images, for want of a treatment: the common cell of every smear",
        False,
        False,
        *parts,
    )


SETS: dict[str, Callable[[Path], PublicSet]] = {
    "transfluor": transfluor,
    "bbbc014_vitra": bbbc014,
    "nf1_schwann": nf1,
    "bccd": bccd,
}


def _samples(parts: list[Part], vectors: list[Floats]) -> Samples:
    columns = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("labels", "groups", "blocks", "control")
    )
    fields = np.repeat([part.field.name for part in parts], [len(part.boxes) for part in parts])
    return Samples(np.concatenate(vectors).astype(np.float32), fields, *columns)


def _crop_vectors(public: PublicSet, model: TokenModel) -> tuple[list[Floats], list[Floats]]:
    """Mean tokens of crops; the position component comes from the fitting fields."""
    grids: list[list[TokenGrid]] = [
        embed([part.field for part in parts], model) for parts in (public.fit, public.test)
    ]
    places = (model.spec.tile_size // model.spec.patch_size) ** 2
    component = PositionComponent.fit(grids[0], places)

    def pooled(part: Part, grid: TokenGrid) -> Floats:
        units = units_of(grid, "crop", crop_size=CROP, crop_stride=STRIDE)
        return pool(component.remove(grid), units)[part.numbers]

    fit, test = (
        [pooled(part, grid) for part, grid in zip(parts, of_parts, strict=True)]
        for parts, of_parts in zip((public.fit, public.test), grids, strict=True)
    )
    return fit, test


def _box_vectors(parts: list[Part], model: TokenModel) -> list[Floats]:
    """Mean tokens of squares, each in the middle of a tile of its own.

    So every token has the same place in the tile whatever the square, and no position component is
    left to remove; and of a large image only what is scored goes through the model.
    """
    spec = model.spec
    margin = (spec.tile_size - CROP) // 2
    inner = slice(margin // spec.patch_size, (margin + CROP) // spec.patch_size)
    scaler = IntensityScaling(curve=spec.intensity).fit([part.field for part in parts])
    found = []
    for index, part in enumerate(parts):
        image = scaler.apply(index, part.field.read())
        image = np.pad(image, ((0, 0), (margin, margin), (margin, margin)), mode="reflect")
        tiles = [
            image[:, y0 : y1 + 2 * margin, x0 : x1 + 2 * margin] for y0, x0, y1, x1 in part.boxes
        ]
        rows = []
        for tile in tiles:
            tokens = model.tokens(tile[None], spec.default_layer, "residual")[0]
            rows.append(tokens[:, inner, inner].mean(axis=(1, 2)).ravel())
        found.append(np.array(rows, np.float32))
    return found


def vectors_file(public: PublicSet, what: str) -> str:
    """File of vectors, which other units than these do not share."""
    digest = hashlib.sha256()
    for part in (*public.fit, *public.test):
        digest.update(f"{part.field.name} {part.field.site};".encode())
        digest.update(part.boxes.tobytes())
    return f"{public.name}-{what}-{digest.hexdigest()[:8]}.npz"


def token_samples(
    public: PublicSet, model_name: str, seed: int, store: Path
) -> tuple[Samples, Samples]:
    """Vectors of the units to fit and of those held out; computed once and kept in `store`."""
    path = store / vectors_file(public, f"{model_name}-{seed}")
    if not path.exists():
        model = load_model(model_name, seed=seed)
        if public.fit[0].numbers is None:
            vectors = _box_vectors(public.fit, model), _box_vectors(public.test, model)
        else:
            vectors = _crop_vectors(public, model)
        store.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished.npz")
        np.savez(unfinished, fit=np.concatenate(vectors[0]), test=np.concatenate(vectors[1]))
        unfinished.rename(path)
    with np.load(path) as stored:
        return _samples(public.fit, [stored["fit"]]), _samples(public.test, [stored["test"]])


def _measured(parts: list[Part]) -> list[Floats]:
    """Handcrafted measurements of boxes, which may overlap, on intensities as the model sees."""
    scaler = IntensityScaling().fit([part.field for part in parts])
    found = []
    for index, part in enumerate(parts):
        image = scaler.apply(index, part.field.read())
        rows: dict[int, NDArray[np.float64]] = {}
        waiting = list(range(len(part.boxes)))
        while waiting:
            # As many as fit into one label image without overlap; the others in the next.
            labels = np.zeros(image.shape[1:], np.int32)
            later = []
            for number in waiting:
                y0, x0, y1, x1 = part.boxes[number]
                if labels[y0:y1, x0:x1].any():
                    later.append(number)
                else:
                    labels[y0:y1, x0:x1] = number + 1
            waiting = later
            table = cell_measurements(image, labels)
            for label, row in zip(table.index, table.to_numpy(), strict=True):
                rows[int(label) - 1] = row
        found.append(np.array([rows[number] for number in range(len(rows))], np.float32))
    return found


def handcrafted_samples(public: PublicSet, store: Path) -> tuple[Samples, Samples]:
    """Standardised measurements of the units; those that do not vary (all shapes) are left out."""
    path = store / vectors_file(public, "handcrafted")
    if not path.exists():
        fit, test = (np.concatenate(_measured(parts)) for parts in (public.fit, public.test))
        store.mkdir(parents=True, exist_ok=True)
        np.savez(path, fit=fit, test=test)
    with np.load(path) as stored:
        fit, test = stored["fit"].astype(np.float64), stored["test"].astype(np.float64)
    mean, spread = fit.mean(axis=0), fit.std(axis=0)
    varies = spread > 1e-6 * np.maximum(np.abs(mean), 1e-6)
    fit, test = ((part[:, varies] - mean[varies]) / spread[varies] for part in (fit, test))
    return _samples(public.fit, [fit]), _samples(public.test, [test])
