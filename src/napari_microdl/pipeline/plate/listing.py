"""The fields of a plate before any is opened: light descriptions, and those that are not there."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from napari_microdl.core.config import ImagesConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field, FieldInfo
from napari_microdl.fields.folder import FoundFields
from napari_microdl.fields.named_files import NamedFiles
from napari_microdl.fields.sources import find_source
from napari_microdl.fields.tables import open_field
from napari_microdl.pipeline.inputs import mark_controls

Status = Literal["done", "no cells", "unreadable", "not imaged"]


@dataclass(frozen=True)
class Receipt:
    """What is told of one field once it is done with; its results are in files.

    Parameters
    ----------
    number : int
        Place among the fields, from 0.
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
    notes : tuple of str
        What a user should know of it.
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
    notes: tuple[str, ...] = ()
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
        Place among the fields, from 0.
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
            if isinstance(file, Path) and not file.exists():
                raise FileNotFoundError(f"the file '{file}' does not exist")
        return open_field(self.source)

    @property
    def stamp(self) -> str:
        """Digest of the files of the field, how they are read and when they were last written."""
        # What was done to the well may be told, or marked as a control, later.
        source = dataclasses.replace(self.source, **dataclasses.asdict(FieldInfo("")))
        # Of those elsewhere only the address is known.
        named = (*source.files, source.labels, *source.illumination)
        files = [file for file in named if isinstance(file, Path) and file.is_file()]
        written = [(s.st_size, s.st_mtime_ns) for s in (file.stat() for file in files)]
        return hashlib.sha256(repr((source, written)).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Listing:
    """The fields of a plate.

    Parameters
    ----------
    fields : list of PlateField
        Those that are there.
    left_out : list of Receipt
        Those that are not, with the reason.
    columns : DataFrame, optional
        Every ``Metadata_*`` that is known of `fields`, in their order; where not given, what each
        of them says itself.
    notes : tuple of str
        How they were understood.
    """

    fields: list[PlateField]
    left_out: list[Receipt]
    columns: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()

    def metadata(self) -> pd.DataFrame:
        """What is known of the fields that are there.

        Returns
        -------
        DataFrame indexed by the number of the field
        """
        known = pd.DataFrame([field.source.info.to_metadata() for field in self.fields])
        if self.columns is not None:
            more = self.columns.columns.difference(known.columns, sort=False)
            known[more] = self.columns[more].to_numpy()
        return known.set_index(pd.Index([field.number for field in self.fields], name="field"))

    def table(self, folder: Path) -> pd.DataFrame:
        """The fields that are there, a row each, as a table in a folder names them."""
        sources = tuple(field.source for field in self.fields)
        return FoundFields(sources, metadata=self.columns).table(folder)


def list_fields(
    place: str | Path,
    controls: str | None = None,
    images: ImagesConfig | None = None,
    metadata: str | Path | None = None,
    only: Collection[Path] | None = None,
) -> Listing:
    """The fields of a table, plate or folder, none of which is opened.

    Parameters
    ----------
    place : str or Path
        As `napari_microdl.fields.sources.find_source` takes it.
    controls : str, optional
        Query that picks the control fields; the marks that are there where not given.
    images : ImagesConfig, optional
        How images are read; the defaults where not given.
    metadata : str or Path, optional
        What is known of the wells, as `find_source` takes it.
    only : collection of Path, optional
        First files of the fields that are wanted; all where not given.

    Returns
    -------
    Listing

    Raises
    ------
    MicrodlError
        If the place or the query cannot be used, or no field of it is there.
    """
    found = find_source(place, images, metadata=metadata)
    if only is not None:
        found = found.part_of(only)
    sources = list(found.fields)
    left_out = [
        Receipt(number, left.field or left.path.name, left.kind, reason=left.reason, fresh=False)
        for number, left in enumerate(found.left_out, len(sources))
        # Of a file that is part of no field nothing is missed.
        if left.kind != "no field"
    ]
    if not sources:
        why = f": {left_out[0].reason}" if left_out else "."
        raise MicrodlError(f"No field of '{Path(place).name}' is there{why}")
    if controls is not None:
        sources = mark_controls(sources, controls)
    fields = [PlateField(number, source) for number, source in enumerate(sources)]
    return Listing(fields, left_out, found.metadata, found.notes)


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
