"""Arrays and tables in ``.npy`` files that rows are appended to, and how they are read again.

A column of texts is an array of places in a list of the different ones, which stands elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import require_file
from napari_microdl.core.task import current_task

# Numbers, and yes or no.
_PLAIN_KINDS = "biuf"
_VALUES_AT_ONCE = 2_000_000


class GrowingArray:
    """A ``.npy`` file that rows are appended to; the header is written anew at the end."""

    def __init__(self, path: Path, dtype: Any, row: tuple[int, ...] = ()) -> None:
        self._file = path.open("wb")
        self.dtype, self.row = np.dtype(dtype), row
        self.length = 0
        self._write_header()
        self._begin = self._file.tell()

    def _write_header(self) -> None:
        # NumPy leaves room in the header for the first axis to grow.
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.length, *self.row),
        }
        np.lib.format.write_array_header_1_0(self._file, header)

    def append(self, rows: NDArray[Any]) -> None:
        """Add rows at the end."""
        rows = np.ascontiguousarray(rows, self.dtype)
        self._file.write(rows.data.cast("B") if rows.size else b"")
        self.length += len(rows)

    def close(self) -> None:
        """Write the true length."""
        self._file.seek(0)
        self._write_header()
        assert self._file.tell() == self._begin
        self._file.close()

    def abandon(self) -> None:
        """Close without a header that says how long it is."""
        self._file.close()


class _GrowingColumn:
    """A column of a table in a file that rows are appended to: numbers, or texts by number."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.array: GrowingArray | None = None
        self.texts: dict[str, int] | None = None

    def append(self, values: pd.Series) -> None:
        """Add rows at the end; what is there becomes what holds both."""
        numbers = values.to_numpy() if pd.api.types.is_numeric_dtype(values.dtype) else None
        if numbers is not None and numbers.dtype.kind not in _PLAIN_KINDS:
            numbers = None
        if self.array is None:
            self._begin(None if numbers is None else numbers.dtype)
        elif self.texts is None:
            dtype = None if numbers is None else _holds_both(self.array.dtype, numbers.dtype)
            # To NumPy None is the type of 64-bit numbers.
            if dtype is None or dtype != self.array.dtype:
                self._begin_again(dtype)
        assert self.array is not None
        if self.texts is None:
            assert numbers is not None
            self.array.append(numbers)
        else:
            self.array.append(self._places(values, self.texts))

    def _begin(self, dtype: Any) -> None:
        self.texts = {} if dtype is None else None
        self.array = GrowingArray(self.path, np.int32 if dtype is None else dtype)

    def _begin_again(self, dtype: Any) -> None:
        """Write the rows that are there as another type, as texts where it is None."""
        assert self.array is not None
        self.array.close()
        before = self.path.with_suffix(".before")
        self.path.replace(before)
        rows = np.load(before, mmap_mode="r")
        self._begin(dtype)
        for begin in range(0, len(rows), _VALUES_AT_ONCE):
            current_task().check()
            self.append(
                pd.Series(np.array(rows[begin : begin + _VALUES_AT_ONCE])).astype(
                    object if dtype is None else dtype
                )
            )
        del rows
        before.unlink()

    @staticmethod
    def _places(values: pd.Series, texts: dict[str, int]) -> NDArray[np.int32]:
        """Numbers of the texts, of which new ones are added."""
        plain = values.astype(object).where(values.notna(), "").astype(str)
        numbers, different = pd.factorize(plain)
        known = [texts.setdefault(str(text), len(texts)) for text in different]
        places: NDArray[np.int32] = np.array(known, np.int32)[numbers]
        return places


def _holds_both(one: np.dtype[Any], other: np.dtype[Any]) -> np.dtype[Any] | None:
    """Type of the numbers that holds both; None where yes or no meets numbers."""
    if (one.kind == "b") != (other.kind == "b"):
        return None
    return np.promote_types(one, other)


class GrowingTable:
    """A table that rows are appended to, a file a column."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._columns: dict[str, _GrowingColumn] = {}
        self.length = 0

    def append(self, table: pd.DataFrame) -> None:
        """Add rows at the end; all of them have the columns of the first."""
        names = [str(name) for name in table.columns]
        if not self._columns:
            for number, name in enumerate(names):
                path = self._folder / f"{self._name}.{number:02d}.npy"
                self._columns[name] = _GrowingColumn(path)
        if set(names) != self._columns.keys() or len(names) != len(self._columns):
            raise MicrodlError(
                f"The columns {names} are not those of the rows before: {list(self._columns)}."
            )
        for name, heading in zip(names, table.columns, strict=True):
            self._columns[name].append(table[heading])
        self.length += len(table)

    def close(self) -> list[dict[str, Any]]:
        """Write the true length; what the manifest is to say of the columns is returned."""
        described = []
        for name, column in self._columns.items():
            if column.array is not None:
                column.array.close()
            entry: dict[str, Any] = {"name": name, "file": column.path.name}
            if column.texts is not None:
                entry["texts"] = list(column.texts)
            described.append(entry)
        return described

    def abandon(self) -> None:
        """Close without headers that say how long it is."""
        for column in self._columns.values():
            if column.array is not None:
                column.array.abandon()


def read_rows(folder: Path, columns: list[dict[str, Any]], n: int) -> pd.DataFrame:
    """A table as `GrowingTable` wrote it."""
    found = {}
    for column in columns:
        current_task().check()
        # A file of this folder, whatever the manifest says.
        array = np.array(mapped_array(folder / Path(column["file"]).name))
        if array.shape != (n,):
            raise ValueError(f"{column['file']} does not hold {n} entries")
        if "texts" in column:
            texts = np.array([str(text) for text in column["texts"]], object)
            if array.dtype.kind not in "iu" or (
                len(array) and not 0 <= array.min() <= array.max() < len(texts)
            ):
                raise ValueError(f"{column['file']} points outside of its texts")
            array = texts[array]
        if column["name"] in found:
            raise ValueError(f"there are two columns '{column['name']}'")
        found[column["name"]] = array
    return pd.DataFrame(found)


def mapped_array(path: Path) -> NDArray[Any]:
    """A memory map of an array of plain numbers; archives and pickles are none."""
    require_file(path)
    array: NDArray[Any] = np.lib.format.open_memmap(path, mode="r")
    if array.dtype.kind not in _PLAIN_KINDS:
        raise ValueError(f"{path.name} holds {array.dtype}, not numbers")
    return array
