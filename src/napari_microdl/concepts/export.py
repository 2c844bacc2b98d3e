"""Tables for other programs: CSV, Parquet, AnnData, and features of a Labels layer."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.dictionary import unnamed
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_whole
from napari_microdl.core.task import current_task

TABLE_SUFFIXES = (".csv", ".parquet")
_SAVING = "Saving the table"


def write_table(
    table: pd.DataFrame, path: str | Path, *, numbers_at_once: int | None = None
) -> Path:
    """Write a table as CSV or Parquet.

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
        table.iloc[:0].to_csv(file, index=False)
        for begin in range(0, len(table), rows):
            current_task().progress(begin, len(table), _SAVING)
            table.iloc[begin : begin + rows].to_csv(file, index=False, header=False)
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
    units = activations.tagged_units()
    units.index = units.index.astype(str)
    concepts = activations.concept_table().sort_index()
    if more is not None:
        concepts = concepts.join(more)
    concepts.index = pd.Index([f"concept_{i}" for i in concepts.index], name=None)
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
    """Write units and their activations as AnnData (``.h5ad``), for scanpy and its relatives.

    ``X`` holds the codes (sparse), ``obs`` the table of units, ``var`` the ranking of concepts in
    the order of the codes, with ids, notes, tags and `concepts`, ``obsm["whitened"]`` the whitened
    vectors and ``obsm["spatial"]`` x and y in pixels.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run.
    path : str or Path
        Must end in ``.h5ad``.
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
        If the suffix differs or the package anndata is not installed.
    """
    path = Path(path)
    if path.suffix.lower() != ".h5ad":
        raise MicrodlError(f"'{path.name}' is no AnnData file name; end it in .h5ad.")
    anndata = require_anndata()
    current_task().progress(0, len(activations.units), _SAVING)
    import h5py
    from anndata.io import sparse_dataset, write_elem
    from scipy import sparse

    n, codes, vectors = len(activations.units), activations.codes, activations.vectors
    rows = max(1, numbers_at_once // (vectors.shape[1] + 2 * codes.nnz // max(n, 1) + 1))
    with write_whole(path) as partial:
        # The tables of rows and columns go as they are; what is large follows block by block.
        small = anndata.AnnData(
            obsm={"spatial": activations.units[["x", "y"]].to_numpy()},
            **_described(activations, concepts),
        )
        current_task().progress(0, n, _SAVING)
        small.write_h5ad(partial)
        current_task().progress(0, n, _SAVING)
        with h5py.File(partial, "r+") as file:
            if "X" in file:
                del file["X"]
            write_elem(file, "X", sparse.csr_matrix(codes[:rows]))
            write_elem(file["obsm"], "whitened", vectors[:0])
            attributes = dict(file["obsm/whitened"].attrs)
            del file["obsm/whitened"]
            whitened = file["obsm"].create_dataset("whitened", vectors.shape, vectors.dtype)
            whitened.attrs.update(attributes)
            for begin in range(0, n, rows):
                current_task().progress(begin, n, _SAVING)
                block = slice(begin, begin + rows)
                if begin:
                    sparse_dataset(file["X"]).append(sparse.csr_matrix(codes[block]))
                whitened[block] = vectors[block]
        current_task().progress(n, n, _SAVING)
    return path


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
