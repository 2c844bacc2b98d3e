"""Tables for other programs: CSV, Parquet, AnnData, and features of a Labels layer."""

from __future__ import annotations

from collections.abc import Collection, Generator
from pathlib import Path
from typing import Any

import pandas as pd

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import whole_file
from napari_microdl.core.stepping import retold, run_through

TABLE_SUFFIXES = (".csv", ".parquet")
# Numbers written in one step: text takes the longer.
_NUMBERS_OF_TEXT = 200_000
_NUMBERS_OF_PARQUET = 4_000_000
_NUMBERS_OF_ANNDATA = 8_000_000


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
    return run_through(iter_write_table(table, path))


def iter_write_table(
    table: pd.DataFrame, path: str | Path
) -> Generator[tuple[int, int], None, Path]:
    """`write_table`, some rows an iteration.

    Parameters
    ----------
    table, path
        As for `write_table`.

    Yields
    ------
    done, total : int
        Rows; stop iterating to cancel, and nothing has changed on disk.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    MicrodlError
        As `write_table`.
    """
    path = Path(path)
    if table.index.name is not None:
        table = table.reset_index()
    suffix = path.suffix.lower()
    if suffix == ".csv":
        yield from _iter_write_csv(table, path)
    elif suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError as error:
            raise MicrodlError(
                "Parquet files need the package pyarrow: pip install "
                "'napari-microdl[export]', or save as CSV."
            ) from error
        yield from _iter_write_parquet(table, path)
    else:
        raise MicrodlError(
            f"'{path.name}' is neither CSV nor Parquet; end the name in "
            f"{' or '.join(TABLE_SUFFIXES)}."
        )
    return path


def _iter_write_csv(table: pd.DataFrame, path: Path) -> Generator[tuple[int, int], None, None]:
    rows = max(1, _NUMBERS_OF_TEXT // max(table.shape[1], 1))
    with whole_file(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        table.iloc[:0].to_csv(file, index=False)
        for begin in range(0, len(table), rows):
            yield begin, len(table)
            table.iloc[begin : begin + rows].to_csv(file, index=False, header=False)
        yield len(table), len(table)
        # On Windows a file that is open cannot be renamed.
        file.close()


def _iter_write_parquet(table: pd.DataFrame, path: Path) -> Generator[tuple[int, int], None, None]:
    import pyarrow as pa
    from pyarrow import parquet

    yield 0, len(table)
    whole = pa.Table.from_pandas(table, preserve_index=False)
    rows = max(1, _NUMBERS_OF_PARQUET // max(table.shape[1], 1))
    with whole_file(path) as partial, parquet.ParquetWriter(partial, whole.schema) as writer:
        for begin in range(0, max(len(table), 1), rows):
            yield begin, len(table)
            writer.write_table(whole.slice(begin, rows))
        writer.close()
        yield len(table), len(table)


def to_anndata(activations: ConceptActivations, concepts: pd.DataFrame | None = None) -> Any:
    """Units and their activations as an AnnData object, for scanpy and its relatives.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run.
    concepts : DataFrame indexed by concept, optional
        More columns for ``var``, such as what
        `napari_microdl.report.batch_columns` says of an evaluation.

    Returns
    -------
    anndata.AnnData
        ``X`` the codes (sparse), ``obs`` the table of units, ``var`` the ranking of concepts in
        the order of the codes, with notes, tags and `concepts`, ``obsm["whitened"]`` the whitened
        vectors and ``obsm["spatial"]`` x and y in pixels.

    Raises
    ------
    MicrodlError
        If the package anndata is not installed.
    """
    anndata = _anndata()
    from scipy import sparse

    return anndata.AnnData(
        X=sparse.csr_matrix(activations.codes),
        obsm={"whitened": activations.vectors, "spatial": _places(activations)},
        **_described(activations, concepts),
    )


def _anndata() -> Any:
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
    concepts = activations.ranking.sort_index()
    concepts["note"] = activations.dictionary.notes
    concepts["tag"] = activations.dictionary.tags
    if more is not None:
        concepts = concepts.join(more)
    concepts.index = pd.Index([f"concept_{i}" for i in concepts.index], name=None)
    return {
        "obs": _with_plain_texts(units),
        "var": _with_plain_texts(concepts),
        "uns": {"model": activations.dictionary.spec.model_id},
    }


def _with_plain_texts(table: pd.DataFrame) -> pd.DataFrame:
    """The table with texts as objects: h5ad files know none of pandas' newer types of text."""
    texts = [c for c in table.columns if pd.api.types.is_string_dtype(table[c].dtype)]
    plain = table.astype(dict.fromkeys(texts, object))
    plain.index = plain.index.astype(object)
    plain.columns = plain.columns.astype(object)
    return plain


def write_anndata(
    activations: ConceptActivations, path: str | Path, concepts: pd.DataFrame | None = None
) -> Path:
    """Write `to_anndata` as an ``.h5ad`` file.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run.
    path : str or Path
        Must end in ``.h5ad``.
    concepts : DataFrame indexed by concept, optional
        As for `to_anndata`.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    MicrodlError
        If the suffix differs or the package anndata is not installed.
    """
    return run_through(iter_write_anndata(activations, path, concepts))


def iter_write_anndata(
    activations: ConceptActivations, path: str | Path, concepts: pd.DataFrame | None = None
) -> Generator[tuple[int, int], None, Path]:
    """`write_anndata`, some units an iteration.

    Parameters
    ----------
    activations, path, concepts
        As for `write_anndata`.

    Yields
    ------
    done, total : int
        Units; stop iterating to cancel, and nothing has changed on disk.

    Returns
    -------
    Path
        The file written.

    Raises
    ------
    MicrodlError
        As `write_anndata`.
    """
    path = Path(path)
    if path.suffix.lower() != ".h5ad":
        raise MicrodlError(f"'{path.name}' is no AnnData file name; end it in .h5ad.")
    anndata = _anndata()
    yield from retold(activations.iter_ranking(), (0, len(activations.units)))
    import h5py
    from anndata.io import sparse_dataset, write_elem
    from scipy import sparse

    n, codes, vectors = len(activations.units), activations.codes, activations.vectors
    rows = max(1, _NUMBERS_OF_ANNDATA // (vectors.shape[1] + 2 * codes.nnz // max(n, 1) + 1))
    with whole_file(path) as partial:
        # The tables of rows and columns go as they are; what is large follows block by block.
        small = anndata.AnnData(
            obsm={"spatial": _places(activations)}, **_described(activations, concepts)
        )
        yield 0, n
        small.write_h5ad(partial)
        yield 0, n
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
                yield begin, n
                block = slice(begin, begin + rows)
                if begin:
                    sparse_dataset(file["X"]).append(sparse.csr_matrix(codes[block]))
                whitened[block] = vectors[block]
        yield n, n
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
        a concept under its name; a name that comes twice gets the concept's number behind it, and
        a technical concept the word.
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
        columns[f"{unique} [technical]" if concept in technical else unique] = values[:, column]
    return pd.DataFrame(columns)
