"""A plate run in the folders of the Cell Painting Gallery.

As https://broadinstitute.github.io/cellpainting-gallery/data_structure.html has them, below the
folder of a source: ``workspace_dl`` for what deep learning gives, ``workspace`` for the rest.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.export import feature_name, write_table
from napari_microdl.concepts.wells import wells_of
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_whole
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import FieldInfo
from napari_microdl.pipeline.plate.export import EndedRun
from napari_microdl.pipeline.plate.profiles import WELLS
from napari_microdl.report.plate_map import draw_plate

_PLACES = ["Metadata_Plate", "Metadata_Well", "Metadata_Site"]
_BATCH = "Metadata_Batch"
# Concepts of which a plate is drawn.
_MOST_CONCEPTS = 3
_DOTS_PER_INCH = 120
_HEAT_MAPS = ("workspace", "quality_control", "heatmap")
_NO_NAME = re.compile(r"[^A-Za-z0-9_.-]+")


def export_gallery(run: EndedRun, out: Path, batch: str | None = None) -> list[str]:
    """Write embeddings, profiles and heat maps of the plates of a run.

    Parameters
    ----------
    run : EndedRun
        The run.
    out : Path
        Folder of a source; may hold other plates, batches and models. Files of the same names are
        replaced.
    batch : str, optional
        Name of the batch, such as "2026_12_01_Batch1"; the column ``Metadata_Batch`` of the fields
        where not given.

    Returns
    -------
    list of str
        Folders that were written to.

    Raises
    ------
    MicrodlError
        If plate, well, site or batch of a field are not known, or a package is missing.
    """
    known = _placed(run.known, batch)
    model = _name(f"{run.begun['model']}_layer{run.begun['layer']}_{run.begun['weights'][:7]}")
    written = set[str]()

    def folder_for(*parts: str) -> Path:
        written.add("/".join(parts[:2]))
        folder = out.joinpath(*map(_name, parts))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    batches: dict[str, str] = {}
    sites = known.groupby([_BATCH, *_PLACES], sort=True)
    for place, ((own, plate, well, site), fields) in enumerate(sites):
        current_task().progress(place, len(sites), "Writing the vectors of all fields")
        batches[plate] = own
        # Planes and times of a site go together.
        tables = [t for number in fields.index if (t := run.embedding(number)) is not None]
        if tables:
            folder = folder_for("workspace_dl", "embeddings", model, own, plate, f"{well}-{site}")
            write_table(pd.concat(tables, ignore_index=True), folder / "embedding.parquet")
    if (activations := run.activations) is not None:
        # Profiles are those of a dictionary on the model.
        dictionary = f"{model}_microdl-{activations.dictionary.fingerprint}"
        wells = pd.read_parquet(run.folder / f"{WELLS}.parquet")
        for plate, table in wells.groupby("Metadata_Plate", sort=True):
            parts = dictionary, batches[plate], plate
            folder = folder_for("workspace_dl", "profiles", *parts)
            write_table(table.reset_index(drop=True), folder / f"{_name(plate)}.parquet")
        drawn = {plate: folder_for(*_HEAT_MAPS, batches[plate], plate) for plate in batches}
        _draw_plates(activations, known, drawn)
    return sorted(written)


def _placed(known: pd.DataFrame, batch: str | None) -> pd.DataFrame:
    """What is known of the fields, all of which have a place in the layout."""
    if batch is not None:
        known = known.assign(**{_BATCH: batch})
    if _BATCH not in known:
        raise MicrodlError(
            "The layout of the gallery needs the name of the batch; give --batch, such as "
            f"2026_12_01_Batch1, or a column {_BATCH} in the table of fields."
        )
    for column in (*_PLACES, _BATCH):
        lacking = known["Metadata_Field"][known[column] == ""]
        if len(lacking):
            raise MicrodlError(
                f"The layout of the gallery needs {column} of every field, which {len(lacking)} "
                f"lack, such as '{lacking.iloc[0]}'; add it to the table of fields and run again."
            )
    return known


def _draw_plates(
    activations: ConceptActivations, known: pd.DataFrame, folders: dict[str, Path]
) -> None:
    """Every plate by the number of its units, and by the first concepts of the ranking."""
    unit = activations.dictionary.spec.units.kind
    wells = wells_of(activations, [_info(row) for _, row in known.iterrows()])
    ranking = activations.ranking
    first = [int(c) for c in ranking.index[~ranking["dead"]][:_MOST_CONCEPTS]]
    drawn = {f"{unit}_count": (first[0], "n_units", f"Number of {unit}s")}
    for concept in first:
        name = feature_name("Concept", concept, unit)
        drawn[name] = concept, "mean_activation", activations.dictionary.names[concept]
    for name, (concept, column, title) in drawn.items():
        table = wells.of_concept(activations, concept)
        for plate, own in table[table["row"] >= 0].groupby("plate"):
            figure = Figure(figsize=(8, 5.2))
            axes = figure.add_axes((0.06, 0.1, 0.8, 0.78))
            draw_plate(axes, own, column, unit, "black")
            axes.set_title(f"{plate}: {title}")
            with write_whole(folders[plate] / f"{_name(plate)}_{name}.png") as partial:
                figure.savefig(partial, dpi=_DOTS_PER_INCH)


def _info(row: pd.Series) -> FieldInfo:
    place = {name.removeprefix("Metadata_").lower(): str(row[name]) for name in _PLACES}
    condition, is_control = str(row["Metadata_condition"]), row["Metadata_control"] == "True"
    return FieldInfo(str(row["Metadata_Field"]), condition, is_control, **place)


def _name(text: str) -> str:
    """What a folder or file can be called everywhere."""
    return _NO_NAME.sub("_", text)
