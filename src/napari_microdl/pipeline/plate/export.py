"""What the folder of a plate run holds, written for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.export import as_metadata, feature_name, write_anndata, write_table
from napari_microdl.concepts.store import open_activations
from napari_microdl.core.config import PipelineConfig, read_config
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_whole_folder
from napari_microdl.core.reading import read_json, refusing
from napari_microdl.core.task import current_task
from napari_microdl.fields.metadata import PREFIX, read_table
from napari_microdl.pipeline.files import SETTINGS
from napari_microdl.pipeline.plate.folder import FIELDS, MANIFEST, SUMMARY
from napari_microdl.pipeline.plate.profiles import ACTIVATIONS
from napari_microdl.pipeline.plate.shards import read_shard
from napari_microdl.pipeline.plate.work import COLUMNS, field_file

CELLS, EMBEDDINGS = "cells.zarr", "embeddings"


@dataclass(frozen=True, eq=False)
class EndedRun:
    """A plate run that has ended.

    Parameters
    ----------
    folder : Path
        Its folder.
    begun : dict
        What it was begun with.
    known : DataFrame indexed by the number of the field
        Everything that is known of the fields: columns ``Metadata_*``.
    """

    folder: Path
    begun: dict[str, Any]
    known: pd.DataFrame

    @cached_property
    def config(self) -> PipelineConfig:
        """Its settings."""
        return read_config(self.folder / SETTINGS)

    @cached_property
    def activations(self) -> ConceptActivations | None:
        """What it has found, or None where it has not come so far."""
        folder = self.folder / ACTIVATIONS
        return open_activations(folder) if folder.is_dir() else None

    def embedding(self, number: int) -> pd.DataFrame | None:
        """Vectors of a field, a row a unit with ``Metadata_*`` first; None where it has none.

        They are as the model gave them, without the position component and not whitened, in the
        columns ``Cells_Embedding_0000`` and so on (``Image_`` of crops and tokens).
        """
        path = field_file(self.folder, "vectors", number)
        if not path.exists():
            return None
        tensors, facts, _ = read_shard(path)
        if not facts["n_units"]:
            return None
        rows = as_metadata(pd.DataFrame({c: tensors[c] for c in COLUMNS}).assign(field=number))
        vectors, unit = tensors["vectors"].astype(np.float32), self.config.units.kind
        names = [feature_name("Embedding", k, unit) for k in range(vectors.shape[1])]
        parts = rows.assign(**self.known.loc[number]), pd.DataFrame(vectors, columns=names)
        return pd.concat(parts, axis=1)


def ended_run(folder: Path) -> EndedRun:
    """The run in a folder.

    Raises
    ------
    MicrodlError
        If the folder holds none that has ended.
    """
    if not all((folder / name).is_file() for name in (MANIFEST, FIELDS, SUMMARY)):
        raise MicrodlError(
            f"'{folder}' holds no plate run that has ended; run it first, or name its folder."
        )
    with refusing(f"'{folder / MANIFEST}' is damaged ({{reason}})."):
        begun = dict(read_json(folder / MANIFEST)["begun"])
    table = read_table(folder / FIELDS)
    known = table[[name for name in table.columns if name.startswith(PREFIX)]]
    return EndedRun(folder, begun, known.rename_axis("field"))


def export_plate(run: EndedRun, out: Path) -> list[str]:
    """Write cells as AnnData on zarr, and the vectors of every field as Parquet.

    Parameters
    ----------
    run : EndedRun
        The run.
    out : Path
        A new folder.

    Returns
    -------
    list of str
        What was written: ``cells.zarr`` once there are concepts, ``embeddings/`` where vectors were
        kept.

    Raises
    ------
    MicrodlError
        If the folder holds something, there is nothing to write, or a package is missing.
    """
    written = []
    with write_whole_folder(out) as partial:
        if (activations := run.activations) is not None:
            write_anndata(activations, partial / CELLS)
            written.append(CELLS)
        for number in run.known.index:
            with current_task().step(number, len(run.known), "Writing the vectors of all fields"):
                if (table := run.embedding(number)) is not None:
                    (partial / EMBEDDINGS).mkdir(exist_ok=True)
                    write_table(table, partial / EMBEDDINGS / f"{number:06d}.parquet")
        if (partial / EMBEDDINGS).exists():
            written.append(f"{EMBEDDINGS}/")
        if not written:
            raise MicrodlError(f"'{run.folder}' holds neither concepts nor vectors to write.")
    return written
