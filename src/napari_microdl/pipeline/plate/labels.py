"""Cells of a plate run as OME-Zarr labels with what their concepts say, and maps of these."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.export import feature_name
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_whole_folder
from napari_microdl.core.task import current_task
from napari_microdl.fields.ome_zarr import (
    CONCEPT_LABELS,
    PlaneOfImage,
    is_zarr,
    plane_of_image,
    plate_of,
)
from napari_microdl.fields.ome_zarr_writing import (
    axes_of,
    write_image,
    write_labels,
    write_plate,
)
from napari_microdl.pipeline.plate.export import EndedRun
from napari_microdl.pipeline.plate.folder import FIELDS
from napari_microdl.pipeline.plate.listing import PlateField, list_fields
from napari_microdl.pipeline.stages import cells_of


@dataclass(frozen=True, eq=False)
class _Cells:
    """The cells of an image: all its planes that the run has read."""

    labels: NDArray[np.uint32]
    of: PlaneOfImage
    # Rows of the table of units, and the label of each here.
    rows: NDArray[np.int64]
    values: NDArray[np.int64]


def export_labels(
    run: EndedRun, out: Path | None = None, *, n_concepts: int = 8, keep: bool = False
) -> list[str]:
    """Write the cells of a run as labels, for a plate that was read from OME-Zarr.

    Parameters
    ----------
    run : EndedRun
        The run.
    out : Path, optional
        A new folder: OME-Zarr plates (0.5) of maps of the concepts, a channel each, with the labels
        in them. Where not given, labels `CONCEPT_LABELS` are written into the images that were
        read, in their version, beside those that they have.
    keep : bool, default=False
        Whether images that have labels of that name are passed over.
    n_concepts : int, default=8
        Concepts whose values every label gets, the first of the ranking.

    Returns
    -------
    list of str
        What was written to.

    Raises
    ------
    MicrodlError
        If the run has no concepts of cells, was not read from OME-Zarr, an image has changed since,
        or labels of that name are there; nothing is written then.
    """
    activations = run.activations
    if activations is None or run.config.units.kind != "cell":
        raise MicrodlError(f"'{run.folder}' holds no concepts of cells, so there are no labels.")
    alive = activations.ranking.index[~activations.ranking["dead"]]
    concepts = [int(concept) for concept in alive[:n_concepts]]
    images = _images(run, activations)
    if out is None:
        there = [image for image in images if (image / "labels" / CONCEPT_LABELS).exists()]
        if there and keep:
            images = {image: items for image, items in images.items() if image not in there}
        elif there:
            raise MicrodlError(
                f"{len(there)} of {len(images)} images have labels '{CONCEPT_LABELS}' already, "
                f"such as '{there[0]}'; remove them first, or write to a new folder."
            )
        for _ in _cells(run, activations, images):
            pass  # All are as they were before any is written to.
        for image, cells in _cells(run, activations, images):
            _write_labels(activations, concepts, image, cells, cells.of.version)
        return [f"labels/{CONCEPT_LABELS} of {len(images)} images"]
    plates: dict[Path, list[Path]] = {}
    for image in images:
        plate = plate_of(image)
        if plate is None:
            raise MicrodlError(
                f"'{image}' lies in no OME-Zarr plate; write the labels into the images."
            )
        plates.setdefault(plate, []).append(image.relative_to(plate))
    names = {
        plate: f"{plate.name.removesuffix('.zarr').removesuffix('.ome')}.zarr" for plate in plates
    }
    if len(set(names.values())) < len(names):
        raise MicrodlError("Several plates have one name; rename them, or write into the images.")
    largest = {
        activations.dictionary.names[c]: float(activations.activation(c).max()) for c in concepts
    }
    with write_whole_folder(out) as partial:
        for image, cells in _cells(run, activations, images):
            plate = image.parents[2]
            place = partial / names[plate] / image.relative_to(plate)
            write_image(place, _maps(activations, concepts, cells), cells.of, largest)
            _write_labels(activations, concepts, place, cells)
        for plate, inner in plates.items():
            write_plate(partial / names[plate], names[plate].removesuffix(".zarr"), inner)
    return sorted(names.values())


def _images(run: EndedRun, activations: ConceptActivations) -> dict[Path, list[PlateField]]:
    """The fields with cells by their image, as they are there now."""
    numbers = dict(zip(run.known["Metadata_Field"], run.known.index, strict=True))
    with_cells = set(activations.units["field"].tolist())
    images: dict[Path, list[PlateField]] = {}
    for item in list_fields(run.folder / FIELDS, images=run.config.images).fields:
        number = numbers[item.source.name]
        place = Path(str(item.source.files[0]))
        if number in with_cells and is_zarr(place):
            images.setdefault(place, []).append(PlateField(number, item.source))
    if sum(map(len, images.values())) < len(with_cells):
        raise MicrodlError(
            f"Of {len(with_cells)} fields with cells {sum(map(len, images.values()))} are images "
            "of OME-Zarr that are there; labels are written for such plates alone."
        )
    return images


def _cells(
    run: EndedRun, activations: ConceptActivations, images: dict[Path, list[PlateField]]
) -> Iterator[tuple[Path, _Cells]]:
    """The cells of every image, found again as the run found them."""
    for number, (image, fields) in enumerate(images.items()):
        with current_task().step(number, len(images), "Writing labels with concepts"):
            of = plane_of_image(fields[0].source)
            axes = axes_of(of, with_channels=False)
            sizes = dict(zip(of.axes, of.shape, strict=True))
            labels = np.zeros([sizes[axis] for axis in axes], np.uint32)
            rows, values = [], []
            for item in fields:
                found = cells_of(item.open(), run.config)
                own = activations.rows_of_field(item.number)
                wanted = activations.units["label"].to_numpy()[own]
                if found is None or set(np.unique(found[found > 0]).tolist()) != set(
                    wanted.tolist()
                ):
                    raise MicrodlError(
                        f"The cells of '{item.source.name}' are not those of the run: the image or "
                        "its labels have changed; run the plate again."
                    )
                # Cells of several planes are told apart; of one they keep their numbers.
                shift = int(labels.max())
                at = plane_of_image(item.source).at
                labels[tuple(at.get(axis, slice(None)) for axis in axes)] = np.where(
                    found > 0, found + shift, 0
                )
                rows.append(own)
                values.append(wanted + shift)
            yield image, _Cells(labels, of, np.concatenate(rows), np.concatenate(values))


def _write_labels(
    activations: ConceptActivations,
    concepts: Sequence[int],
    image: Path,
    cells: _Cells,
    version: str = "0.5",
) -> None:
    codes = activations.codes[cells.rows][:, concepts].toarray()
    table = pd.DataFrame(codes, columns=[feature_name("Concept", c, "cell") for c in concepts])
    table.insert(0, "label-value", cells.values)
    properties: list[dict[str, Any]] = table.to_dict("records")
    write_labels(image, CONCEPT_LABELS, cells.labels, cells.of, properties, version)


def _maps(
    activations: ConceptActivations, concepts: Sequence[int], cells: _Cells
) -> NDArray[np.float32]:
    """Every cell filled with what it shows of each concept, a channel a concept."""
    axes = axes_of(cells.of, with_channels=True)
    table = np.zeros((int(cells.labels.max()) + 1, len(concepts)), np.float32)
    table[cells.values] = activations.codes[cells.rows][:, concepts].toarray()
    maps: NDArray[np.float32] = np.moveaxis(table[cells.labels], -1, axes.index("c"))
    return maps
