"""What a plate run leaves for others: activations of all cells, and profiles of wells.

Columns are named by the convention of Cytomining, so that its tools take them as they are:
``Metadata_*`` is what is known, ``Cells_*`` (``Image_*`` of crops and tokens) what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.concepts.activations import ConceptActivations, unit_rows
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.concepts.export import (
    feature_name,
    require_anndata,
    with_plain_texts,
    write_table,
)
from napari_microdl.concepts.store import ActivationWriter, open_activations
from napari_microdl.concepts.wells import well_names
from napari_microdl.core.config import UnitKind
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_whole
from napari_microdl.core.task import current_task
from napari_microdl.fields.metadata import PREFIX
from napari_microdl.pipeline.plate.listing import PlateField, Receipt
from napari_microdl.pipeline.plate.shards import read_shard
from napari_microdl.pipeline.plate.work import COLUMNS, Job

ACTIVATIONS = "activations"
WELLS = "wells"
# Mean code, share of the units in which it is active, and mean cosine with its direction.
KINDS = ("Concept", "ConceptShare", "ConceptCosine")
# What differs between the fields of a well.
_OF_FIELDS = ("Metadata_Field", "Metadata_Site", "Metadata_Z", "Metadata_Time")


def feature_names(n_concepts: int, unit: UnitKind) -> list[str]:
    """Names of the columns of profiles, all concepts of a kind after the other.

    Parameters
    ----------
    n_concepts : int
        Concepts, numbered from 0 as everywhere.
    unit : {"cell", "crop", "token"}
        What one sample is.

    Returns
    -------
    list of str

    Examples
    --------
    >>> feature_names(2, "cell")[:3]
    ['Cells_Concept_0000', 'Cells_Concept_0001', 'Cells_ConceptShare_0000']
    """
    return [feature_name(kind, c, unit) for kind in KINDS for c in range(n_concepts)]


def write_activations(
    job: Job,
    dictionary: ConceptDictionary,
    fields: Sequence[PlateField],
    known: pd.DataFrame,
    receipts: Sequence[Receipt],
) -> ConceptActivations:
    """Gather the codes of all fields in a folder of activations, a field at a time.

    Parameters
    ----------
    job : Job
        The run.
    dictionary : ConceptDictionary
        Its dictionary.
    fields : sequence of PlateField
        Fields in the order of the table.
    known : DataFrame indexed by the number of the field
        What is known of them, as `Listing.metadata` gives it; every cell gets all of it.
    receipts : sequence of Receipt
        Of their codes.

    Returns
    -------
    ConceptActivations
        Read from the folder as they are needed.
    """
    done = {receipt.number for receipt in receipts if receipt.n_units}
    with ActivationWriter(job.folder / ACTIVATIONS, dictionary) as writer:
        for place, item in enumerate(fields):
            current_task().progress(place, len(fields), "Gathering the codes of all fields")
            if item.number not in done:
                continue
            tensors, _, _ = read_shard(job.file("codes", item.number))
            rows = {name: tensors[name] for name in COLUMNS}
            codes = sparse.csr_array(
                (tensors["data"], tensors["indices"], tensors["indptr"]),
                shape=(len(tensors["label"]), dictionary.n_concepts),
            )
            units = unit_rows(item.source, item.number, rows)
            more = known.loc[item.number].drop(labels=units.columns, errors="ignore")
            units = units.assign(**{str(name): value for name, value in more.items()})
            writer.add(units, codes, tensors["whitened"])
        writer.finish()
    return open_activations(job.folder / ACTIVATIONS)


def well_profiles(
    job: Job, dictionary: ConceptDictionary, known: pd.DataFrame, receipts: Sequence[Receipt]
) -> pd.DataFrame:
    """Means over the units of every well that has any.

    Parameters
    ----------
    job : Job
        The run.
    dictionary : ConceptDictionary
        Its dictionary.
    known : DataFrame indexed by the number of the field
        What is known of the fields, as `Listing.metadata` gives it.
    receipts : sequence of Receipt
        Of their codes.

    Returns
    -------
    DataFrame
        A row a well, plates and wells in their order: what all its fields have in common as
        ``Metadata_*``, ``Metadata_Site_Count`` and ``Metadata_Object_Count`` (fields and units that
        the means are over), then `feature_names`, float32. A field without a well counts as its
        own.

    Notes
    -----
    The mean, because codes are sparse: the median of most is zero, and so is its deviation.
    """
    n_units = {r.number: r.n_units for r in receipts if r.n_units}
    usable = known.loc[sorted(n_units)]
    names = well_names(usable)
    rows: list[dict[str, object]] = []
    values: list[NDArray[np.float32]] = []
    groups = usable.groupby(names, sort=True)
    for place, (_, own) in enumerate(groups):
        current_task().progress(place, len(groups), "Averaging wells")
        numbers = own.index.tolist()
        total = sum(n_units[number] for number in numbers)
        sums = sum(read_shard(job.file("codes", number))[0]["sums"] for number in numbers)
        values.append(np.asarray(sums / total, np.float32).ravel())
        shared = {c: own[c].iloc[0] for c in own.columns if own[c].nunique(dropna=False) == 1}
        counts = {"Metadata_Site_Count": len(numbers), "Metadata_Object_Count": total}
        rows.append({**shared, **counts})
    left_out = [c for c in _OF_FIELDS if c in usable.columns]
    table = pd.DataFrame(rows).drop(columns=left_out, errors="ignore")
    features = feature_names(dictionary.n_concepts, dictionary.spec.units.kind)
    return pd.concat([table, pd.DataFrame(np.stack(values), columns=features)], axis=1)


def with_features(activations: ConceptActivations, concepts: pd.DataFrame) -> pd.DataFrame:
    """A table of concepts with the column ``feature``: what profiles call each."""
    features = feature_names(activations.n_concepts, activations.dictionary.spec.units.kind)
    concepts.insert(1, "feature", [features[concept] for concept in concepts.index])
    return concepts


def write_profiles(
    folder: Path, activations: ConceptActivations, profiles: pd.DataFrame, ranking: str
) -> list[str]:
    """Write the profiles of wells, and what the concepts are called.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    activations : ConceptActivations
        All of them.
    profiles : DataFrame
        As `well_profiles` makes it.
    ranking : str
        Name of the file of the concepts.

    Returns
    -------
    list of str
        Names of the files of profiles: CSV, Parquet where pyarrow is installed, and h5ad where
        anndata is.
    """
    write_table(with_features(activations, activations.concept_table()), folder / ranking)
    written, missing = [], []
    for suffix, write in ((".csv", write_table), (".parquet", write_table), (".h5ad", _write_h5ad)):
        try:
            write(profiles, folder / f"{WELLS}{suffix}")
            written.append(f"{WELLS}{suffix}")
        except MicrodlError as error:
            # A package that few need is not there.
            missing.append(str(error))
    for sentence in missing:
        current_task().note(sentence)
    return written


def _write_h5ad(profiles: pd.DataFrame, path: Path) -> None:
    """Profiles as AnnData: features as a dense matrix, the rest about the rows."""
    anndata = require_anndata()
    known = [name for name in profiles.columns if name.startswith(PREFIX)]
    features = [name for name in profiles.columns if not name.startswith(PREFIX)]
    rows = with_plain_texts(profiles[known].set_axis(profiles.index.astype(str)))
    columns = with_plain_texts(pd.DataFrame(index=features))
    values = profiles[features].to_numpy(np.float32)
    table = anndata.AnnData(X=values, obs=rows, var=columns)
    with write_whole(path) as partial:
        table.write_h5ad(partial)
