"""Activations of very many cells in a folder of plain arrays, read as they are needed.

A million cells with a hundred active concepts each have a hundred million codes. They are kept
twice, by cell and by concept, so that a cell's concepts and a concept's cells are each one
contiguous read.

The manifest names the folder inside in which the arrays lie. One rename replaces it, so whoever
opens the folder finds all of the old set or all of the new one, whenever a writer was killed.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from glob import escape as glob_escape
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.dictionary import TAGS, ConceptDictionary
from napari_microdl.concepts.growing_files import (
    GrowingArray,
    GrowingTable,
    mapped_array,
    read_rows,
)
from napari_microdl.concepts.localisation import unknown_places
from napari_microdl.core.digests import content_digest, file_digest
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import flush_file, flush_folder, write_text
from napari_microdl.core.locks import locked, try_lock
from napari_microdl.core.reading import read_json, refusing, require_file
from napari_microdl.core.safetensors_files import note_missing_digest
from napari_microdl.core.task import Task, current_task
from napari_microdl.tokens import TokenGrid
from napari_microdl.tokens.units import Units

MANIFEST = "activations.json"
DICTIONARY = "dictionary.microdl.safetensors"
SCHEMA_VERSION = 2
# Arrays lie in a folder of this name and digits of its own; those of schema 1 beside the manifest.
_DATA = "data-"
_LOCK = ".lock"
_OF_SCHEMA_1 = (DICTIONARY, "codes.", "columns.", "vectors.", "lengths.", "units.", "ranking.")
_OURS = (MANIFEST, f".{Path(MANIFEST).stem}-", _LOCK, _DATA, *_OF_SCHEMA_1)
# A set that is being written holds a file that its writer has locked.
_WRITING = ".writing"
_ABANDONED_SECONDS = 24 * 3600
_MOST_COLUMNS = 10_000
# Of a matrix of codes.
_PARTS = ("data", "indices", "indptr")
_TAG = "Metadata_tag"
# What the ranking of concepts needs of the table of units.
_OF_RANKING = (
    "Metadata_Field",
    "Metadata_Plate",
    "Metadata_Well",
    "Metadata_condition",
    "Metadata_control",
    "field",
)
# Columns of the ranking under the names that earlier versions gave them.
_OLDER_NAMES = {"q_value": "q_cells"}
# Places are 32 bits wide: SciPy copies arrays into memory to make two widths equal.
_MOST_VALUES = 2**31 - 1
_VALUES_AT_ONCE = 2_000_000


class ActivationWriter:
    """Writes activations to a folder, some cells at a time.

    Used in a ``with`` statement. All is written beside the folder and moved there by `finish`;
    without it nothing is left, and what the folder held before stays as it was.

    Parameters
    ----------
    folder : str or Path
        Made by `finish` where it is missing; activations that it holds are replaced.
    dictionary : ConceptDictionary
        The concepts.
    most_values : int, default=2^31 - 1
        Codes that the folder may hold.
    values_at_once : int, default=2,000,000
        Codes that are turned round between two looks at whether the task was cancelled.

    Raises
    ------
    MicrodlError
        If the folder holds other files.
    """

    def __init__(
        self,
        folder: str | Path,
        dictionary: ConceptDictionary,
        *,
        most_values: int = _MOST_VALUES,
        values_at_once: int = _VALUES_AT_ONCE,
    ) -> None:
        self.folder = Path(folder)
        self._most_values, self._values_at_once = most_values, values_at_once
        self._dictionary = dictionary
        if self.folder.exists() and not (
            self.folder.is_dir() and all(p.name.startswith(_OURS) for p in self.folder.iterdir())
        ):
            raise MicrodlError(
                f"'{self.folder}' holds other files; choose a new folder for the activations."
            )
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        _clear_abandoned(self.folder)
        self._partial, self._writing = _folder_beside(self.folder)
        k = dictionary.directions.shape[1]
        self._data = GrowingArray(self._partial / "codes.data.npy", np.float32)
        self._indices = GrowingArray(self._partial / "codes.indices.npy", np.int32)
        self._vectors = GrowingArray(self._partial / "vectors.npy", np.float32, (k,))
        self._norms = GrowingArray(self._partial / "lengths.npy", np.float32)
        self._ends = GrowingArray(self._partial / "codes.indptr.npy", np.int32)
        self._ends.append(np.zeros(1, np.int32))
        self._units = GrowingTable(self._partial, "units")
        self._ranking = GrowingTable(self._partial, "ranking")

    @property
    def _arrays(self) -> tuple[GrowingArray, ...]:
        return self._data, self._indices, self._vectors, self._norms, self._ends

    def __enter__(self) -> ActivationWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._writing.close()
        for array in self._arrays:
            array.abandon()
        self._units.abandon()
        self._ranking.abandon()
        shutil.rmtree(self._partial, ignore_errors=True)

    def add(
        self, units: pd.DataFrame, codes: sparse.csr_array, vectors: NDArray[np.floating]
    ) -> None:
        """Add cells.

        Parameters
        ----------
        units : DataFrame of n rows
            As `unit_table` makes it, with or without ``Metadata_tag``.
        codes : csr_array of shape (n, n_concepts)
            Their codes.
        vectors : ndarray of shape (n, k)
            The cells in the space of the dictionary.

        Raises
        ------
        MicrodlError
            If the shapes do not fit together, or the folder would hold too many codes.
        """
        wanted = (len(units), self._dictionary.n_concepts), (len(units), self._vectors.row[0])
        if (codes.shape, vectors.shape) != wanted:
            raise MicrodlError(
                f"Codes of {codes.shape} and vectors of {vectors.shape} do not fit {len(units)} "
                f"cells of a dictionary of {wanted[0][1]} concepts in {wanted[1][1]} dimensions."
            )
        if self._data.length + codes.nnz > self._most_values:
            raise MicrodlError(
                f"A folder holds {self._most_values:,} codes at most; write the cells that follow "
                "to another one."
            )
        self._units.append(units)
        self._ends.append(self._data.length + codes.indptr[1:] - codes.indptr[0])
        # A slice of a larger table has its own values, but need not begin at 0.
        part = slice(int(codes.indptr[0]), int(codes.indptr[-1]))
        self._data.append(codes.data[part])
        self._indices.append(codes.indices[part])
        self._vectors.append(vectors)
        self._norms.append(np.linalg.norm(vectors, axis=1))

    def finish(self, ranking: pd.DataFrame | None = None) -> None:
        """Write the codes by concept, the table of units and the ranking, and move all in place.

        Parameters
        ----------
        ranking : DataFrame, optional
            As `ConceptActivations.ranking`, where it is known; found out where not given.

        Raises
        ------
        MicrodlError
            If no cell was added.
        """
        if not self._data.length:
            raise MicrodlError("No activations were added, so there is nothing to write.")
        for array in self._arrays:
            array.close()
        columns, folder = self._units.close(), self._partial
        n_concepts = self._dictionary.n_concepts
        _write_by_concept(folder, n_concepts, self._values_at_once)
        self._dictionary.save(folder / DICTIONARY)
        current_task().check()
        manifest: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "n_units": self._units.length,
            "n_concepts": n_concepts,
            "n_dimensions": self._vectors.row[0],
            "n_values": self._data.length,
            "units": columns,
        }
        if ranking is None:
            wanted = [column for column in columns if column["name"] in _OF_RANKING]
            units = read_rows(folder, wanted, self._units.length)
            # Let go of before the files are moved, which some systems refuse while they are read.
            ranking = _assemble(folder, manifest, self._dictionary, units, [], []).ranking
            del units
        self._ranking.append(ranking.reset_index())
        manifest["ranking"] = self._ranking.close()
        manifest["digests"] = {}
        for path in sorted(folder.glob("*.npy")):
            manifest["digests"][path.name] = file_digest(path)
            flush_file(path)
        current_task().check()
        # From here on it is not cancelled any more.
        with Task().active():
            self._take_place(manifest)

    def _take_place(self, manifest: dict[str, Any]) -> None:
        """Make what was written the activations of the folder."""
        self.folder.mkdir(exist_ok=True)
        with locked(self.folder / _LOCK):
            data, is_there = self._place_of_data(manifest["digests"])
            manifest["data"] = data.name
            manifest["digest"] = content_digest({}, json.dumps(manifest))
            if is_there:
                (self._partial / DICTIONARY).replace(data / DICTIONARY)
            else:
                if sys.platform == "win32":
                    # No folder is moved there while a file in it is open.
                    self._writing.close()
                self._partial.replace(data)
                self._writing.close()
                (data / _WRITING).unlink()
            flush_folder(self.folder)
            try:
                write_text(json.dumps(manifest, indent=1), self.folder / MANIFEST)
            except BaseException:
                if not is_there:
                    shutil.rmtree(data, ignore_errors=True)
                raise
            self._clear_but(data)

    def _clear_but(self, data: Path) -> None:
        """Remove what the manifest does not name any more, or never did."""
        for path in self.folder.iterdir():
            if path.name in (MANIFEST, _LOCK, data.name) or not path.name.startswith(_OURS):
                continue
            # On Windows files that somebody reads stay, until the next time.
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                with suppress(OSError):
                    path.unlink()

    def _place_of_data(self, digests: dict[str, str]) -> tuple[Path, bool]:
        """Where the arrays are to lie, named by what they hold, and whether they lie there already.

        Runs that come to the same are then the same, file by file.
        """
        digest = content_digest({}, json.dumps(digests))
        data = self.folder / f"{_DATA}{digest[:8]}"
        if not data.exists():
            return data, False
        whole = all(
            (data / name).is_file() and file_digest(data / name) == expected
            for name, expected in digests.items()
        )
        # What is damaged goes once the manifest names another.
        return (data, True) if whole else (self.folder / f"{_DATA}{uuid4().hex[:8]}", False)


def replace_dictionary(folder: Path, dictionary: ConceptDictionary) -> None:
    """Write the dictionary of a folder of activations again, as with other names of its concepts.

    Raises
    ------
    MicrodlError
        If the folder holds no activations, or those of another dictionary.
    """
    with locked(folder / _LOCK):
        manifest = _manifest(folder)
        with _cannot_be_read(folder):
            place = folder / _data_of(manifest) / DICTIONARY
        if ConceptDictionary.load(place).fingerprint != dictionary.fingerprint:
            raise MicrodlError(f"'{folder}' holds activations of another dictionary.")
        dictionary.save(place)


def _folder_beside(folder: Path) -> tuple[Path, BinaryIO]:
    """A folder to write to, and the file in it that is locked while it is written."""
    while True:
        partial = folder.with_name(f".{folder.name[:64]}-{uuid4().hex}")
        partial.mkdir()
        # Another writer may take it for abandoned as long as it holds no locked file.
        with suppress(FileNotFoundError):
            writing = (partial / _WRITING).open("wb")
            if try_lock(writing.fileno()) and (partial / _WRITING).exists():
                return partial, writing
            writing.close()


def _clear_abandoned(folder: Path) -> None:
    """Remove what writers that were killed left beside a folder."""
    for path in folder.parent.glob(f".{glob_escape(folder.name[:64])}-*"):
        writing = path / _WRITING
        with suppress(OSError):
            if writing.is_file():
                with writing.open("r+b") as file:
                    if try_lock(file.fileno()):
                        shutil.rmtree(path, ignore_errors=True)
            elif time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                # As an earlier version left it.
                shutil.rmtree(path)
            else:
                path.rmdir()


def _write_by_concept(folder: Path, n_concepts: int, values_at_once: int) -> None:
    """The codes turned round, a few million values at a time."""
    indptr = np.load(folder / "codes.indptr.npy", mmap_mode="r")
    indices = np.load(folder / "codes.indices.npy", mmap_mode="r")
    data = np.load(folder / "codes.data.npy", mmap_mode="r")
    count = np.zeros(n_concepts, np.int64)
    for begin in range(0, len(indices), values_at_once):
        current_task().check()
        count += np.bincount(indices[begin : begin + values_at_once], minlength=n_concepts)
    columns = np.concatenate([[0], np.cumsum(count)])
    np.save(folder / "columns.indptr.npy", columns.astype(np.int32))
    rows_of, values_of = (
        np.lib.format.open_memmap(folder / f"columns.{name}.npy", "w+", dtype, (len(data),))
        for name, dtype in (("indices", np.int32), ("data", np.float32))
    )
    # Where the next value of each concept goes.
    place = columns[:-1].copy()
    begin, n = 0, len(indptr) - 1
    while begin < n:
        current_task().check()
        end = int(np.searchsorted(indptr, int(indptr[begin]) + values_at_once, "right")) - 1
        end = min(max(end, begin + 1), n)
        part = slice(int(indptr[begin]), int(indptr[end]))
        rows = sparse.csr_array(
            (data[part], indices[part], indptr[begin : end + 1] - indptr[begin]),
            shape=(end - begin, n_concepts),
        )
        turned = sparse.csc_array(rows)
        here = np.diff(turned.indptr)
        to = np.arange(rows.nnz) + np.repeat(place - turned.indptr[:-1], here)
        rows_of[to], values_of[to] = turned.indices + np.int32(begin), turned.data
        place += here
        begin = end
    rows_of.flush()
    values_of.flush()


def save_activations(
    activations: ConceptActivations,
    folder: str | Path,
    *,
    units_at_once: int = 16_384,
    values_at_once: int = _VALUES_AT_ONCE,
) -> Path:
    """Write the activations of a run to a folder that `open_activations` reads.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run. Tokens and places of the units are not written.
    folder : str or Path
        Made where it is missing.
    units_at_once, values_at_once : int
        Written between two looks at whether the task was cancelled.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    MicrodlError
        If the folder holds other files, or is the one that these activations are read from.
    """
    folder = Path(folder)
    source = getattr(activations.vectors, "filename", None)
    if source is not None and folder.resolve() in Path(source).resolve().parents:
        raise MicrodlError(
            f"The activations are being read from '{folder}'; choose another folder to write to."
        )
    units = activations.tagged_units()
    task = current_task()
    writer = ActivationWriter(folder, activations.dictionary, values_at_once=values_at_once)
    with writer:
        n = len(units)
        for begin in range(0, n, units_at_once):
            # Turning the codes round takes longer than writing them.
            task.progress(begin // 4, n, "Saving activations")
            rows = slice(begin, begin + units_at_once)
            writer.add(
                units.iloc[rows],
                sparse.csr_array(activations.codes[rows]),
                activations.vectors[rows],
            )
        task.progress(n // 4, n)
        ranking = activations.ranking
        task.progress(n // 2, n)
        writer.finish(ranking)
    return folder


def open_activations(
    folder: str | Path,
    grids: Sequence[TokenGrid] = (),
    geometry: Sequence[Units] = (),
    *,
    values_at_once: int = _VALUES_AT_ONCE,
) -> ConceptActivations:
    """Activations of a folder, whose codes and vectors stay on disk.

    Parameters
    ----------
    folder : str or Path
        As `ActivationWriter` or `save_activations` wrote it.
    grids : sequence of TokenGrid, optional
        Tokens of every field, where they are at hand; heatmaps need them.
    geometry : sequence of Units, optional
        Units of every field, where they are at hand; pictures of units need them.
    values_at_once : int, default=2,000,000
        Codes that are checked between two looks at whether the task was cancelled.

    Returns
    -------
    ConceptActivations

    Raises
    ------
    MicrodlError
        If a file is missing or damaged: sizes, types, and every place that the codes point to are
        checked before anything is used. Nothing of the folder is executed.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    while True:
        try:
            return _opened(folder, manifest, list(grids), list(geometry), values_at_once)
        except MicrodlError:
            # Another process may have written a new set since the manifest was read.
            now = _manifest(folder)
            if now == manifest:
                raise
            manifest = now


def _manifest(folder: Path) -> dict[str, Any]:
    """What a folder says of itself, as it was written."""
    with refusing(f"'{folder}' holds no whole set of activations: {MANIFEST} is missing."):
        require_file(folder / MANIFEST)
    with _cannot_be_read(folder):
        manifest = dict(read_json(folder / MANIFEST))
        version = manifest["schema_version"]
    if version not in (1, SCHEMA_VERSION):
        raise MicrodlError(
            f"'{folder}' was written by another version (format {version}, here {SCHEMA_VERSION}); "
            "update napari-microdl."
        )
    if version == 1:
        return manifest
    stated = manifest.pop("digest", None)
    if stated != content_digest({}, json.dumps(manifest)):
        with _cannot_be_read(folder):
            raise ValueError(f"{MANIFEST} is not what was written")
    return manifest


def _data_of(manifest: dict[str, Any]) -> str:
    """Name of the folder inside that holds the arrays."""
    if manifest["schema_version"] == 1:
        return "."
    name = str(manifest["data"])
    if not name.startswith(_DATA) or Path(name).name != name:
        raise ValueError(f"'{name}' is no folder of arrays")
    return name


def _cannot_be_read(folder: Path) -> AbstractContextManager[None]:
    return refusing(f"The activations in '{folder}' cannot be read ({{reason}}); write them again.")


def _opened(
    folder: Path,
    manifest: dict[str, Any],
    grids: list[TokenGrid],
    geometry: list[Units],
    values_at_once: int,
) -> ConceptActivations:
    """The set that a manifest names, checked."""
    with _cannot_be_read(folder):
        data = folder / _data_of(manifest)
        for name in ("n_units", "n_concepts", "n_dimensions", "n_values"):
            if type(manifest[name]) is not int or not 0 <= manifest[name] <= _MOST_VALUES:
                raise ValueError(f"{name} is {manifest[name]!r}")
        digests = manifest.get("digests", {})
        for path in (data / name for name in _files_of(manifest)):
            if not path.exists():
                raise FileNotFoundError(f"{path.name} is missing")
            if digests and file_digest(path) != digests.get(path.name):
                raise ValueError(f"{path.name} is not what was written")
        # What there is to be said of its age is said of the folder.
        with current_task().taking_notes():
            dictionary = ConceptDictionary.load(data / DICTIONARY)
        units = read_rows(data, manifest["units"], manifest["n_units"])
        ranking = read_rows(data, manifest["ranking"], manifest["n_concepts"])
        found = _assemble(data, manifest, dictionary, units, grids, geometry)
        for codes, n in ((found.codes, found.n_concepts), (found.columns, len(found.units))):
            assert codes is not None
            _check_places(codes.indptr, codes.indices, n, values_at_once)
        ranking = ranking.rename(columns=_OLDER_NAMES)
        concepts = ranking["concept"].to_numpy()
        if concepts.dtype.kind not in "iu" or sorted(concepts) != list(range(found.n_concepts)):
            raise ValueError("the ranking does not hold every concept once")
        if not digests:
            _check_numbers(found, values_at_once)
    if not digests:
        note_missing_digest(folder.name)
    # Folders from before it was looked at know nothing of where concepts lie, nor both shares.
    nothing = np.full(len(ranking), np.nan)
    known = {
        **unknown_places(len(ranking)),
        "rate_label": nothing,
        "rate_controls": nothing,
    }
    missing = {name: values for name, values in known.items() if name not in ranking.columns}
    found.ranking = ranking.assign(**missing).set_index("concept")
    return found


def _files_of(manifest: dict[str, Any]) -> list[str]:
    """Names of all arrays, which lie in the folder of the others whatever the manifest says."""
    columns = [*manifest["units"], *manifest["ranking"]]
    if len(columns) > _MOST_COLUMNS:
        raise ValueError(f"there are {len(columns)} columns, at most {_MOST_COLUMNS} are read")
    of_tables = [Path(column["file"]).name for column in columns]
    of_codes = [f"{n}.{part}.npy" for n in ("codes", "columns") for part in _PARTS]
    return [*of_codes, "vectors.npy", "lengths.npy", *of_tables]


def _check_numbers(found: ConceptActivations, at_once: int) -> None:
    """Refuse numbers of a folder without digests that are none, or contradict each other."""
    codes, columns = found.codes, found.columns
    assert columns is not None
    n = found.n_concepts
    counts, sums = np.zeros(n, np.int64), np.zeros(n)
    for begin in range(0, codes.nnz, at_once):
        current_task().check()
        part = slice(begin, begin + at_once)
        counts += np.bincount(codes.indices[part], minlength=n)
        sums += np.bincount(codes.indices[part], codes.data[part], minlength=n)
    if not np.isfinite(sums).all():
        raise ValueError("codes are NaN or infinite")
    by_concept = np.zeros(n)
    if codes.nnz:
        begins = columns.indptr[:-1][counts > 0]
        by_concept[counts > 0] = np.add.reduceat(columns.data, begins, dtype=np.float64)
    if (np.diff(columns.indptr) != counts).any() or not np.allclose(by_concept, sums, rtol=1e-4):
        raise ValueError("codes by concept are not those by cell")
    rows = max(1, at_once // max(1, found.vectors.shape[1]))
    for begin in range(0, len(found.vectors), rows):
        current_task().check()
        lengths = np.linalg.norm(found.vectors[begin : begin + rows], axis=1)
        if not np.allclose(lengths, found.lengths[begin : begin + rows], rtol=1e-3, atol=1e-6):
            raise ValueError("lengths are not those of the vectors")


def _assemble(
    folder: Path,
    manifest: dict[str, Any],
    dictionary: ConceptDictionary,
    units: pd.DataFrame,
    grids: list[TokenGrid],
    geometry: list[Units],
) -> ConceptActivations:
    """Activations over memory maps, not yet checked for what the codes point to."""
    n, m = manifest["n_units"], manifest["n_concepts"]
    k, values = manifest["n_dimensions"], manifest["n_values"]
    if (dictionary.n_concepts, dictionary.directions.shape[1]) != (m, k):
        raise ValueError(f"{DICTIONARY} is of another size")
    # Empty, and no memory until some are given.
    tags = np.zeros(n, f"<U{max(map(len, TAGS))}")
    if _TAG in units:
        tags[:] = units.pop(_TAG).to_numpy(str)
    by_cell, by_concept = (
        tuple(
            _array(folder, f"{name}.{part}.npy", dtype, shape)
            for part, dtype, shape in zip(
                _PARTS,
                (np.float32, np.int32, np.int32),
                ((values,), (values,), (length + 1,)),
                strict=True,
            )
        )
        for name, length in (("codes", n), ("columns", m))
    )
    found = ConceptActivations(
        units,
        sparse.csr_array(by_cell, shape=(n, m), copy=False),
        _array(folder, "vectors.npy", np.float32, (n, k)),
        dictionary,
        grids,
        geometry,
        tags,
        sparse.csc_array(by_concept, shape=(n, m), copy=False),
    )
    found.lengths = _array(folder, "lengths.npy", np.float32, (n,))
    return found


def _array(folder: Path, name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    """A memory map of one array, of the type and shape that is meant."""
    array = mapped_array(folder / name)
    if array.dtype != dtype or array.shape != shape:
        raise ValueError(f"{name} is {array.dtype} of {array.shape}, not {np.dtype(dtype)} {shape}")
    return array


def _check_places(
    indptr: NDArray[np.integer], indices: NDArray[np.integer], n: int, values_at_once: int
) -> None:
    """Refuse codes that point outside of their table, which compiled code would follow."""
    sound = indptr[0] == 0 and indptr[-1] == len(indices) and (np.diff(indptr) >= 0).all()
    for begin in range(0, len(indices), values_at_once):
        current_task().check()
        part = indices[begin : begin + values_at_once]
        sound = sound and part.min() >= 0 and part.max() < n
    if not sound:
        raise ValueError("codes point outside of their table")
