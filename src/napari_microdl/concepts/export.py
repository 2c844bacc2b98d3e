"""Tables for other programs: CSV, Parquet, AnnData, and features of a Labels layer.

Where columns have the names of Cytomining, ``Metadata_*`` is what is known, and ``Cells_*``
(``Image_*`` of crops and tokens) what was measured.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.dictionary import unnamed
from napari_microdl.core.config import UnitKind
from napari_microdl.core.csv_text import csv_safe
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_whole, write_whole_folder
from napari_microdl.core.task import current_task

TABLE_SUFFIXES = (".csv", ".parquet")
_SAVING = "Saving the table"
# What Cytomining calls the columns of units that have no prefix here.
_METADATA = {
    "field": "Metadata_ImageNumber",
    "label": "Metadata_ObjectNumber",
    "y": "Metadata_Location_Center_Y",
    "x": "Metadata_Location_Center_X",
    "area": "Metadata_AreaShape_Area",
}


def feature_name(kind: str, number: int, unit: UnitKind) -> str:
    """What a column of numbers is called by the convention of Cytomining.

    Parameters
    ----------
    kind : str
        Such as "Concept".
    number : int
        From 0, as concepts are counted everywhere.
    unit : {"cell", "crop", "token"}
        What one sample is.

    Examples
    --------
    >>> feature_name("Concept", 7, "cell")
    'Cells_Concept_0007'
    """
    return f"{'Cells' if unit == 'cell' else 'Image'}_{kind}_{number:04d}"


def as_metadata(units: pd.DataFrame) -> pd.DataFrame:
    """A table of units in which everything is ``Metadata_*``.

    Parameters
    ----------
    units : DataFrame
        As `ConceptActivations.units`.

    Returns
    -------
    DataFrame
        ``label`` is called ``Metadata_ObjectNumber``, ``field`` ``Metadata_ImageNumber``, both from
        where they count here; ``x`` and ``y`` ``Metadata_Location_Center_X`` and ``_Y`` (pixels),
        ``area`` ``Metadata_AreaShape_Area`` (pixels).
    """
    return units.rename(columns=_METADATA)


def write_table(
    table: pd.DataFrame, path: str | Path, *, numbers_at_once: int | None = None
) -> Path:
    """Write a table as CSV or Parquet.

    In CSV texts that a spreadsheet would calculate have a quotation mark before them, see
    `napari_microdl.core.csv_text.as_cell`.

    Parameters
    ----------
    table : DataFrame
        An index with a name becomes the first column; one without is left out.
    path : str or Path
        The suffix ``.csv`` or ``.parquet`` decides.
    numbers_at_once : int, optional
        Written between two looks at whether the task was cancelled; 200,000 of text, which takes
        the longer, and 4,000,000 of Parquet where not given.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    MicrodlError
        If the suffix is neither, or Parquet is asked for without pyarrow.
    """
    path = Path(path)
    if table.index.name is not None:
        table = table.reset_index()
    suffix = path.suffix.lower()
    if suffix == ".csv":
        _write_csv(table, path, numbers_at_once or 200_000)
    elif suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise MicrodlError(
                "Parquet files need the package pyarrow: pip install "
                "'napari-microdl[export]', or save as CSV."
            ) from error
        _write_parquet(table, path, numbers_at_once or 4_000_000)
    else:
        raise MicrodlError(
            f"'{path.name}' is neither CSV nor Parquet; end the name in "
            f"{' or '.join(TABLE_SUFFIXES)}."
        )
    return path


def _write_csv(table: pd.DataFrame, path: Path, numbers_at_once: int) -> None:
    rows = max(1, numbers_at_once // max(table.shape[1], 1))
    with write_whole(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        csv_safe(table.iloc[:0]).to_csv(file, index=False)
        for begin in range(0, len(table), rows):
            current_task().progress(begin, len(table), _SAVING)
            some = csv_safe(table.iloc[begin : begin + rows])
            some.to_csv(file, index=False, header=False)
        current_task().progress(len(table), len(table), _SAVING)
        # On Windows a file that is open cannot be renamed.
        file.close()


def _write_parquet(table: pd.DataFrame, path: Path, numbers_at_once: int) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    current_task().progress(0, len(table), _SAVING)
    whole = pa.Table.from_pandas(table, preserve_index=False)
    rows = max(1, numbers_at_once // max(table.shape[1], 1))
    with write_whole(path) as partial, parquet.ParquetWriter(partial, whole.schema) as writer:
        for begin in range(0, max(len(table), 1), rows):
            current_task().progress(begin, len(table), _SAVING)
            writer.write_table(whole.slice(begin, rows))
        writer.close()
        current_task().progress(len(table), len(table), _SAVING)


def require_anndata() -> Any:
    """The package anndata.

    Raises
    ------
    MicrodlError
        Says how to install it, where it is not there.
    """
    try:
        import anndata
    except ImportError as error:
        raise MicrodlError(
            "AnnData files need the package anndata: pip install 'napari-microdl[export]'."
        ) from error
    return anndata


def _places(activations: ConceptActivations) -> Any:
    """Centres of the units as x and y."""
    return activations.units[["x", "y"]].to_numpy()


def _described(activations: ConceptActivations, more: pd.DataFrame | None) -> dict[str, Any]:
    """What an AnnData object says of the rows, of the columns, and of the whole."""
    units = as_metadata(activations.tagged_units())
    units.index = units.index.astype(str)
    concepts = activations.concept_table().sort_index()
    if more is not None:
        concepts = concepts.join(more)
    unit = activations.dictionary.spec.units.kind
    concepts.index = pd.Index([feature_name("Concept", i, unit) for i in concepts.index])
    return {
        "obs": with_plain_texts(units),
        "var": with_plain_texts(concepts),
        "uns": {"model": activations.dictionary.spec.model.id},
    }


def with_plain_texts(table: pd.DataFrame) -> pd.DataFrame:
    """The table with texts as objects: h5ad files know none of pandas' newer types of text."""
    texts = [c for c in table.columns if pd.api.types.is_string_dtype(table[c].dtype)]
    plain = table.astype(dict.fromkeys(texts, object))
    plain.index = plain.index.astype(object)
    plain.columns = plain.columns.astype(object)
    return plain


def write_anndata(
    activations: ConceptActivations,
    path: str | Path,
    concepts: pd.DataFrame | None = None,
    *,
    numbers_at_once: int = 8_000_000,
) -> Path:
    """Write units and their activations as AnnData, for scanpy and its relatives.

    ``X`` holds the codes (CSR), ``obs`` the table of units as `as_metadata` names it, ``var`` the
    ranking of concepts in the order of the codes, by their `feature_name`, with ids, notes, tags
    and `concepts`, ``obsm["whitened"]`` the whitened vectors and ``obsm["spatial"]`` x and y in
    pixels.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run.
    path : str or Path
        Ends in ``.h5ad``, or in ``.zarr`` for a new folder.
    concepts : DataFrame indexed by concept, optional
        More columns for ``var``, such as what
        `napari_microdl.report.batch_columns` says of an evaluation.
    numbers_at_once : int, default=8,000,000
        As for `write_table`.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    MicrodlError
        If the suffix differs, the folder exists, or a package is not installed.
    """
    path = Path(path)
    if path.suffix.lower() not in (".h5ad", ".zarr"):
        raise MicrodlError(f"'{path.name}' is no AnnData name; end it in .h5ad or .zarr.")
    anndata = require_anndata()
    current_task().progress(0, len(activations.units), _SAVING)
    from anndata.io import sparse_dataset, write_elem
    from scipy import sparse

    n, codes, vectors = len(activations.units), activations.codes, activations.vectors
    rows = max(1, numbers_at_once // (vectors.shape[1] + 2 * codes.nnz // max(n, 1) + 1))
    with anndata_store(path) as store:
        # The tables of rows and columns go as they are; what is large follows block by block.
        small = anndata.AnnData(
            obsm={"spatial": activations.units[["x", "y"]].to_numpy()},
            **_described(activations, concepts),
        )
        current_task().progress(0, n, _SAVING)
        write_elem(store, "/", small)
        current_task().progress(0, n, _SAVING)
        if "X" in store:
            del store["X"]
        write_elem(store, "X", sparse.csr_matrix(codes[:rows]))
        write_elem(store["obsm"], "whitened", vectors[:0])
        attributes = dict(store["obsm/whitened"].attrs)
        del store["obsm/whitened"]
        create = getattr(store["obsm"], "create_array", store["obsm"].create_dataset)
        whitened = create("whitened", shape=vectors.shape, dtype=vectors.dtype)
        whitened.attrs.update(attributes)
        for begin in range(0, n, rows):
            current_task().progress(begin, n, _SAVING)
            block = slice(begin, begin + rows)
            if begin:
                sparse_dataset(store["X"]).append(sparse.csr_matrix(codes[block]))
            whitened[block] = vectors[block]
        current_task().progress(n, n, _SAVING)
    return path


@contextmanager
def anndata_store(path: Path) -> Iterator[Any]:
    """A new file of HDF5 or folder of zarr for AnnData, whole or not at all.

    Parameters
    ----------
    path : Path
        Its suffix decides which.

    Yields
    ------
    h5py.File or zarr.Group

    Raises
    ------
    MicrodlError
        If a package is not installed.
    """
    if path.suffix.lower() == ".h5ad":
        import h5py

        with write_whole(path) as partial, h5py.File(partial, "w") as file:
            yield file
            file.close()
        return
    try:
        import zarr
    except ImportError as error:
        raise MicrodlError(
            f"Folders of zarr need the package zarr ({error}): pip install 'napari-microdl[plate]'."
        ) from error
    with write_whole_folder(path) as partial:
        yield zarr.open_group(partial, mode="w")


def label_features(
    activations: ConceptActivations,
    field: int,
    concepts: list[int] | None = None,
    technical: Collection[int] = (),
) -> pd.DataFrame:
    """Activations of one field's units as a Labels layer wants its features.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run.
    field : int
        Number of the field.
    concepts : list of int, optional
        Which concepts; all that are active in the run where not given.
    technical : collection of int, optional
        Concepts whose column is to say that they are technical.

    Returns
    -------
    DataFrame
        ``index`` (napari matches labels by it), ``condition``, ``well``, ``tag``, then one column
        a concept under its name; a name that a person gave has the concept's number behind it, and
        a technical concept the word.
    """
    rows = activations.rows_of_field(field)
    units = activations.units.iloc[rows]
    if concepts is None:
        table = activations.ranking
        concepts = [int(c) for c in table.index[~table["dead"]]]
    names = [activations.dictionary.names[c] for c in concepts]
    columns: dict[str, Any] = {
        "index": units["label"].to_numpy(),
        "condition": units["Metadata_condition"].to_numpy(),
        "well": units["Metadata_Well"].to_numpy(),
        "tag": activations.unit_tags[rows],
    }
    values = activations.codes[rows][:, concepts].toarray()
    for column, (concept, name) in enumerate(zip(concepts, names, strict=True)):
        # By itself, it could be that of another concept, or of a column.
        unique = name if name == unnamed(concept) else f"{name} ({concept})"
        columns[f"{unique} [technical]" if concept in technical else unique] = values[:, column]
    return pd.DataFrame(columns)
