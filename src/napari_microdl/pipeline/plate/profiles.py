"""What a plate run leaves for others: activations of all cells, and profiles of wells.

Columns are named by the convention of Cytomining, so that its tools take them as they are:
``Metadata_*`` is what is known, ``Cells_*`` (``Image_*`` of crops and tokens) what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.concepts.activations import ConceptActivations, unit_rows
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.concepts.export import (
    anndata_store,
    feature_name,
    require_anndata,
    with_plain_texts,
    write_table,
)
from napari_microdl.concepts.store import ActivationWriter, open_activations, replace_dictionary
from napari_microdl.concepts.wells import well_names
from napari_microdl.core.config import UnitKind
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import FieldInfo
from napari_microdl.fields.metadata import PREFIX
from napari_microdl.pipeline.files import DICTIONARY, RANKING
from napari_microdl.pipeline.plate.shards import read_shard
from napari_microdl.pipeline.plate.work import COLUMNS, Job
from napari_microdl.report.findings import best_concepts, chosen_figures

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


@dataclass(frozen=True)
class Coded:
    """A field with codes, as the gathering has to know it.

    Parameters
    ----------
    number : int
        Place among the fields, from 0.
    info : FieldInfo
        What is known of it.
    n_units : int
        Its units.
    """

    number: int
    info: FieldInfo
    n_units: int


@dataclass(frozen=True)
class Gathered:
    """What has come of the codes of all fields.

    Parameters
    ----------
    files : tuple of str
        Names of the files that were written.
    n_wells : int
        Wells with units.
    best : str
        A sentence that names the concepts that mark a condition best.
    """

    files: tuple[str, ...]
    n_wells: int
    best: str


def gather(job: Job, fields: Sequence[Coded], known: pd.DataFrame) -> Gathered:
    """Write what a run leaves for others, from the codes of every field.

    Parameters
    ----------
    job : Job
        The run, with its dictionary, which learns here which concept it has chosen.
    fields : sequence of Coded
        Fields with units, in the order of the table.
    known : DataFrame indexed by the number of the field
        What is known of them, as `Listing.metadata` gives it; every cell gets all of it.

    Returns
    -------
    Gathered
    """
    assert job.dictionary is not None
    dictionary = ConceptDictionary.load(job.dictionary)
    activations = _write_activations(job, dictionary, fields, known)
    if not job.applied:
        # Which concept to look for elsewhere is known only now.
        dictionary.figures |= chosen_figures(activations)
        dictionary.save(job.dictionary)
        replace_dictionary(job.folder / ACTIVATIONS, dictionary)
    profiles = _well_profiles(job, dictionary, fields, known)
    files = _write_profiles(job.folder, activations, profiles)
    names = (DICTIONARY, f"{ACTIVATIONS}/", *files, RANKING)
    return Gathered(names, len(profiles), best_concepts(activations))


def _write_activations(
    job: Job, dictionary: ConceptDictionary, fields: Sequence[Coded], known: pd.DataFrame
) -> ConceptActivations:
    """The codes of all fields in a folder of activations, a field at a time."""
    with ActivationWriter(job.folder / ACTIVATIONS, dictionary) as writer:
        for place, item in enumerate(fields):
            current_task().progress(place, len(fields), "Gathering the codes of all fields")
            tensors, _, _ = read_shard(job.file("codes", item.number))
            rows = {name: tensors[name] for name in COLUMNS}
            codes = sparse.csr_array(
                (tensors["data"], tensors["indices"], tensors["indptr"]),
                shape=(len(tensors["label"]), dictionary.n_concepts),
            )
            units = unit_rows(item.info, item.number, rows)
            more = known.loc[item.number].drop(labels=units.columns, errors="ignore")
            units = units.assign(**{str(name): value for name, value in more.items()})
            writer.add(units, codes, tensors["whitened"])
        writer.finish()
    return open_activations(job.folder / ACTIVATIONS)


def _well_profiles(
    job: Job, dictionary: ConceptDictionary, fields: Sequence[Coded], known: pd.DataFrame
) -> pd.DataFrame:
    """Means over the units of every well that has any, plates and wells in their order.

    What all fields of a well have in common as ``Metadata_*``, ``Metadata_Site_Count`` and
    ``Metadata_Object_Count`` (fields and units that the means are over), then `feature_names`. A
    field without a well counts as its own. The mean, because codes are sparse: the median of most
    is zero, and so is its deviation.
    """
    n_units = {item.number: item.n_units for item in fields}
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


def _write_profiles(
    folder: Path, activations: ConceptActivations, profiles: pd.DataFrame
) -> list[str]:
    """Write profiles as CSV, Parquet and h5ad as far as packages are installed, and concepts."""
    write_table(with_features(activations, activations.concept_table()), folder / RANKING)
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
    from anndata.io import write_elem

    known = [name for name in profiles.columns if name.startswith(PREFIX)]
    features = [name for name in profiles.columns if not name.startswith(PREFIX)]
    rows = with_plain_texts(profiles[known].set_axis(profiles.index.astype(str)))
    columns = with_plain_texts(pd.DataFrame(index=features))
    values = profiles[features].to_numpy(np.float32)
    table = anndata.AnnData(X=values, obs=rows, var=columns)
    # Its own way to write a file makes categories of texts, and fails where numbers are in them.
    with anndata_store(path) as store:
        write_elem(store, "/", table)
