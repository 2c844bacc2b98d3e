"""A run over the fields of a table: what cannot be used is left out, with its reason."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import ImagesConfig, PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.core.text import counted
from napari_microdl.fields.field import Field, UnusableFieldsError
from napari_microdl.fields.image_files import check_whole
from napari_microdl.fields.named_files import NamedFiles
from napari_microdl.fields.tables import WrongRow, open_field, read_file_table, table_rows
from napari_microdl.pipeline.inputs import mark_controls
from napari_microdl.pipeline.run import PipelineResult, run_pipeline

# Fields whose reasons are told; the report has all.
_MOST_TOLD = 5


@dataclass(frozen=True)
class LeftOutField:
    """A row of a table that is not used.

    Parameters
    ----------
    row : int
        Counted from 1, as a spreadsheet counts below its heading.
    name : str
        Name of its field; empty where that is not known.
    reason : str
        Why, as a sentence.
    """

    row: int
    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class TableFields:
    """The fields of a table that can be used.

    Parameters
    ----------
    fields : list of Field
        Their pixels are read when they are needed.
    rows : list of int
        Row of each in the table, from 0.
    left_out : list of LeftOutField
        The others, in the order in which they were found out.
    """

    fields: list[Field]
    rows: list[int]
    left_out: list[LeftOutField]

    def without(self, reasons: dict[int, str]) -> TableFields:
        """The fields without some of them, by their places, which are left out for a reason."""
        kept = [place for place in range(len(self.fields)) if place not in reasons]
        left_out = [
            LeftOutField(self.rows[place] + 1, self.fields[place].name, reason)
            for place, reason in reasons.items()
        ]
        return TableFields(
            [self.fields[place] for place in kept],
            [self.rows[place] for place in kept],
            [*self.left_out, *left_out],
        )

    def sentence(self) -> str:
        """How many rows are left out and why; empty where none is."""
        if not self.left_out:
            return ""
        each = "; ".join(
            f"row {left.row}{f' ({left.name})' if left.name else ''}: {left.reason.rstrip('.')}"
            for left in self.left_out[:_MOST_TOLD]
        )
        more = len(self.left_out) - _MOST_TOLD
        rest = f"; and {more} more, which the report names" if more > 0 else ""
        verb = "is" if len(self.left_out) == 1 else "are"
        n = len(self.left_out) + len(self.fields)
        return f"{len(self.left_out)} of {counted(n, 'field')} {verb} left out: {each}{rest}."


def open_table(
    table: str | Path, controls: str | None = None, images: ImagesConfig | None = None
) -> TableFields:
    """Fields of a table of image files, with their controls.

    Parameters
    ----------
    table : str or Path
        As `napari_microdl.fields.tables.read_fields` takes it.
    controls : str, optional
        Query that picks the control fields, such as ``Metadata_condition == 'DMSO'``, in place of
        the marks in the table; its columns are those of `metadata_table`.
    images : ImagesConfig, optional
        How images are read; the defaults where not given.

    Returns
    -------
    TableFields
        Headers have been read, and that TIFF files do not end too soon.

    Raises
    ------
    MicrodlError
        If the table or the query cannot be used, or no row makes up a field.
    """
    path = Path(table)
    rows = table_rows(read_file_table(path), path, images)
    fields: list[Field] = []
    numbers: list[int] = []
    left_out: list[LeftOutField] = []
    for number, row in enumerate(rows):
        current_task().progress(number, len(rows), "Looking at the files of all fields")
        try:
            fields.append(_opened(row))
            numbers.append(number)
        except (MicrodlError, OSError) as error:
            left_out.append(LeftOutField(number + 1, row.name, str(error)))
    if not fields:
        first = left_out[0]
        raise MicrodlError(f"Row {first.row} of '{path.name}': {first.reason}")
    if controls is not None:
        fields = mark_controls(fields, controls)
    return TableFields(fields, numbers, left_out)


def _opened(row: NamedFiles | WrongRow) -> Field:
    if isinstance(row, WrongRow):
        raise row.error
    field = open_field(row)
    for file in (*row.files, row.labels):
        if file is not None:
            check_whole(file)
    return field


def run_table(
    table: TableFields, config: PipelineConfig, dictionary: ConceptDictionary | None = None
) -> tuple[PipelineResult, TableFields]:
    """Run on the fields of a table, without those whose pixels turn out to be of no use.

    Parameters
    ----------
    table : TableFields
        As `open_table` gives it.
    config : PipelineConfig
        Settings.
    dictionary : ConceptDictionary, optional
        The one to apply; fitted where not given.

    Returns
    -------
    result : PipelineResult
        Its report tells in ``left_out`` what is left out, and its first warning how much.
    table : TableFields
        The fields that it is about.

    Raises
    ------
    MicrodlError
        If no field can be used, or fields and settings do not fit together.
    """
    while True:
        try:
            result = run_pipeline(table.fields, config, dictionary=dictionary)
            break
        except UnusableFieldsError as error:
            if len(error.reasons) == len(table.fields):
                raise
            table = table.without(error.reasons)
    result.report["left_out"] = [asdict(left) for left in table.left_out]
    if sentence := table.sentence():
        result.warnings.insert(0, sentence)
    return result, table
