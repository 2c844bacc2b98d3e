"""The fields of a plate before any is opened: light descriptions, and those that are not there."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.fields.metadata import describe_row, field_name, read_table
from napari_microdl.fields.tables import NamedFiles, open_field, table_rows
from napari_microdl.pipeline.files import add_columns, mark_controls

Status = Literal["done", "no cells", "unreadable", "not imaged"]
# What a table says of a file that nobody has taken.
_NOT_THERE = ("there is no file", "does not exist")


@dataclass(frozen=True)
class Receipt:
    """What is told of one field once it is done with; its results are in files.

    Parameters
    ----------
    number : int
        Row of the table, from 0.
    name : str
        Name of the field.
    status : {"done", "no cells", "unreadable", "not imaged"}
        What has become of it.
    n_units : int
        Cells, crops or tokens.
    reason : str
        Why it is left out.
    digest : str
        Of what was written for it.
    order : tuple of float
        Places the field among others whatever the order of the table, as `order_by_content` does.
    pixel_size : float, optional
        Micrometres a pixel, where that is known.
    seconds : float
        What it took.
    fresh : bool
        Whether it was made now, and not found from before.
    """

    number: int
    name: str
    status: Status
    n_units: int = 0
    reason: str = ""
    digest: str = ""
    order: tuple[float, ...] = ()
    pixel_size: float | None = None
    seconds: float = 0.0
    fresh: bool = True

    @property
    def is_usable(self) -> bool:
        """Whether the field was read, with or without a cell."""
        return self.status in ("done", "no cells")


@dataclass(frozen=True)
class PlateField:
    """One field of a plate, not opened.

    Parameters
    ----------
    number : int
        Row of the table, from 0.
    source : NamedFiles
        Its files, and what is known of it.
    sampled : bool
        Whether it is one of those from which the position component is measured.
    """

    number: int
    source: NamedFiles
    sampled: bool = False

    def open(self) -> Field:
        """Look into the files; pixels are read when they are needed.

        Raises
        ------
        FileNotFoundError
            If a file is gone.
        MicrodlError
            If a file cannot be used.
        """
        for file in self.source.files:
            if not file.exists():
                raise FileNotFoundError(f"the file '{file}' does not exist")
        return open_field(self.source)

    @property
    def stamp(self) -> str:
        """Digest of what is known of the field and of when its files were last written."""
        source = self.source
        files = (*source.files, *([] if source.labels is None else [source.labels]))
        written = [(s.st_size, s.st_mtime_ns) for s in (f.stat() for f in files if f.exists())]
        return hashlib.sha256(repr((source, written)).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Listing:
    """The fields that a table names.

    Parameters
    ----------
    fields : list of PlateField
        Those that are there.
    left_out : list of Receipt
        Those that are not, with the reason.
    table : Path
        The table.
    """

    fields: list[PlateField]
    left_out: list[Receipt]
    table: Path

    def metadata(self) -> pd.DataFrame:
        """What is known of the fields that are there, with every ``Metadata_*`` of the table.

        Returns
        -------
        DataFrame indexed by the number of the field
        """
        numbers = [field.number for field in self.fields]
        rows = [field.source.info.to_metadata() for field in self.fields]
        known = pd.DataFrame(rows).assign(field=numbers)
        add_columns(known, self.table)
        return known.set_index("field")


def list_fields(table: str | Path, controls: str | None = None) -> Listing:
    """The fields of a table, none of which is opened.

    Parameters
    ----------
    table : str or Path
        As `napari_microdl.fields.tables.read_fields` takes it.
    controls : str, optional
        Query that picks the control fields; the marks in the table where not given.

    Returns
    -------
    Listing

    Raises
    ------
    MicrodlError
        If the table or the query cannot be used, or no field of it is there.
    """
    table = Path(table)
    rows = table_rows(table)
    with current_task().taking_notes():
        # How it was read has been told.
        values = read_table(table)
    sources: list[NamedFiles] = []
    numbers: list[int] = []
    left_out: list[Receipt] = []
    for number, row in enumerate(rows):
        if isinstance(row, MicrodlError):
            status: Status = "not imaged" if _not_there(row) else "unreadable"
            name = _name(values, number)
            left_out.append(Receipt(number, name, status, reason=str(row), fresh=False))
        else:
            sources.append(row)
            numbers.append(number)
    if not sources:
        raise MicrodlError(f"No field of '{table.name}' is there: {left_out[0].reason}")
    if controls is not None:
        sources = mark_controls(sources, controls)
    fields = [PlateField(number, source) for number, source in zip(numbers, sources, strict=True)]
    return Listing(fields, left_out, table)


def _not_there(error: MicrodlError) -> bool:
    return any(text in str(error) for text in _NOT_THERE)


def _name(table: pd.DataFrame, row: int) -> str:
    """What a field is called of which no file is there."""
    try:
        name = field_name(describe_row(table, row))
    except MicrodlError:
        name = ""
    return name or f"row {row + 1}"


def left_out_of(field: PlateField, status: Status, reason: str, seconds: float = 0.0) -> Receipt:
    """Receipt of a field that cannot be used."""
    return Receipt(field.number, field.source.name, status, reason=reason, seconds=seconds)


def in_order(receipts: Sequence[Receipt]) -> list[Receipt]:
    """Fields with units in the order in which they are learned from: that of a run in one piece."""
    return sorted((r for r in receipts if r.n_units), key=lambda r: (r.order, r.number))


def named(receipts: Sequence[Receipt], status: Status) -> list[dict[str, str]]:
    """Names of the fields of one status, with reasons where there are any."""
    found = [r for r in receipts if r.status == status]
    return [
        {k: v for k, v in dataclasses.asdict(r).items() if k in ("name", "reason") and v}
        for r in found
    ]
