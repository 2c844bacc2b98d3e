"""Tables for other programs: CSV, Parquet, AnnData, and features of a Labels layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from napari_microdl.activations import ConceptActivations
from napari_microdl.errors import MicrodlError

TABLE_SUFFIXES = (".csv", ".parquet")


def write_table(table: pd.DataFrame, path: str | Path) -> Path:
    """Write a table as CSV or Parquet.

    Parameters
    ----------
    table : DataFrame
        An index with a name becomes the first column; one without is left out.
    path : str or Path
        The suffix ``.csv`` or ``.parquet`` decides.

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
        table.to_csv(path, index=False)
    elif suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise MicrodlError(
                "Parquet files need the package pyarrow: pip install "
                "'napari-microdl[export]', or save as CSV."
            ) from error
        table.to_parquet(path, engine="pyarrow", index=False)
    else:
        raise MicrodlError(
            f"'{path.name}' is neither CSV nor Parquet; end the name in "
            f"{' or '.join(TABLE_SUFFIXES)}."
        )
    return path


def to_anndata(activations: ConceptActivations) -> Any:
    """Units and their activations as an AnnData object, for scanpy and its relatives.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run.

    Returns
    -------
    anndata.AnnData
        ``X`` the codes (sparse), ``obs`` the table of units, ``var`` the ranking of concepts in
        the order of the codes, with notes and tags, ``obsm["whitened"]`` the whitened vectors and
        ``obsm["spatial"]`` x and y in pixels.

    Raises
    ------
    MicrodlError
        If the package anndata is not installed.
    """
    try:
        import anndata
    except ImportError as error:
        raise MicrodlError(
            "AnnData files need the package anndata: pip install 'napari-microdl[export]'."
        ) from error
    from scipy import sparse

    units = activations.tagged_units()
    units.index = units.index.astype(str)
    concepts = activations.ranking.sort_index()
    concepts["note"] = activations.dictionary.notes
    concepts["tag"] = activations.dictionary.tags
    concepts.index = pd.Index([f"concept_{i}" for i in concepts.index], name=None)
    return anndata.AnnData(
        X=sparse.csr_matrix(activations.codes),
        obs=_with_plain_texts(units),
        var=_with_plain_texts(concepts),
        obsm={
            "whitened": activations.vectors,
            "spatial": activations.units[["x", "y"]].to_numpy(),
        },
        uns={"model": activations.dictionary.spec.model_id},
    )


def _with_plain_texts(table: pd.DataFrame) -> pd.DataFrame:
    """The table with texts as objects: h5ad files know none of pandas' newer types of text."""
    texts = [c for c in table.columns if pd.api.types.is_string_dtype(table[c].dtype)]
    plain = table.astype(dict.fromkeys(texts, object))
    plain.index = plain.index.astype(object)
    plain.columns = plain.columns.astype(object)
    return plain


def write_anndata(activations: ConceptActivations, path: str | Path) -> Path:
    """Write `to_anndata` as an ``.h5ad`` file.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run.
    path : str or Path
        Must end in ``.h5ad``.

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
    to_anndata(activations).write_h5ad(path)
    return path


def label_features(
    activations: ConceptActivations, field: int, concepts: list[int] | None = None
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

    Returns
    -------
    DataFrame
        ``index`` (napari matches labels by it), ``condition``, ``well``, ``tag``, then one column
        a concept under its name; a name that comes twice gets the concept's number behind it.
    """
    rows = activations.rows_of_field(field)
    units = activations.units.iloc[rows]
    if concepts is None:
        table = activations.ranking
        concepts = [int(c) for c in table.index[~table["dead"]]]
    names = [activations.dictionary.names[c] for c in concepts]
    # The last two are those of a stack of labels.
    taken = {"index", "condition", "well", "tag", "field", "frame"}
    columns: dict[str, Any] = {
        "index": units["label"].to_numpy(),
        "condition": units["Metadata_condition"].to_numpy(),
        "well": units["Metadata_Well"].to_numpy(),
        "tag": activations.unit_tags[rows],
    }
    values = activations.codes[rows][:, concepts].toarray()
    for column, (concept, name) in enumerate(zip(concepts, names, strict=True)):
        unique = f"{name} ({concept})" if name in taken or names.count(name) > 1 else name
        columns[unique] = values[:, column]
    return pd.DataFrame(columns)
