"""What file names and tables say about fields: condition, control, well, site, plate."""

from __future__ import annotations

import codecs
import io
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from napari_microdl.core.csv_text import from_cell
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import guarding, read_bytes, require_file
from napari_microdl.core.task import current_task
from napari_microdl.core.text import listed
from napari_microdl.fields.field import FieldInfo

PREFIX = "Metadata_"
# What a pattern can name, and what each stands for where the text around it leaves a choice.
_PLACEHOLDERS = {
    "condition": r".+?",
    "well": r"[A-Za-z]{1,2}\d{1,3}",
    "site": r"[A-Za-z]*\d+",
    "plate": r".+?",
    "field": r".+?",
    "channel": r".+?",
    "row": r"[A-Za-z]{1,2}|\d{1,2}",
    "column": r"\d{1,3}",
    "z": r"[A-Za-z]*\d+",
    "time": r"[A-Za-z]*\d+",
}
_TAG = re.compile(r"\{(\w+)\}")
# Columns that name a field, and what else a condition is called, in the order of preference.
_NAME_COLUMNS = ("field", "name", "image", "file", "filename")
_CONDITION_COLUMNS = (
    "condition", "treatment", "compound", "perturbation", "pert_iname", "broad_sample",
)  # fmt: skip
_CONTROL_COLUMNS = ("control", "is_control")
# As the plate maps of the Broad Institute say it.
_KIND_COLUMNS = ("control_type", "pert_type")
_NEGATIVE = ("negcon", "negative control", "negative_control")
_PLACES = ("plate", "well", "site")
# What else a well is called, or given by.
_WELL_COLUMNS = ("well", "well_position", "well_id")
_ROW_COLUMNS, _COLUMN_COLUMNS = ("row",), ("column", "col")
# Of a table: bytes of text, columns, and values of a file of Parquet.
_MOST_BYTES, _MOST_COLUMNS, _MOST_CELLS = 2 * 2**30, 50_000, 200_000_000
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_YES, _NO = ("true", "1", "yes"), ("false", "0", "no", "")


def metadata_table(fields: Sequence[FieldInfo]) -> pd.DataFrame:
    """What is known about fields, one row each.

    Returns
    -------
    DataFrame
        Columns ``Metadata_Field``, ``Metadata_Plate``, ``Metadata_Well``, ``Metadata_Site``,
        ``Metadata_condition`` and ``Metadata_control``.
    """
    columns = list(FieldInfo("").to_metadata())
    return pd.DataFrame([field.to_metadata() for field in fields], columns=columns)


def read_names(names: Sequence[str], pattern: str) -> list[dict[str, str]]:
    r"""What names say, by a pattern.

    Parameters
    ----------
    names : sequence of str
        Names of images, with or without the ending of a file.
    pattern : str
        Text with the placeholders ``{condition}``, ``{well}`` (or ``{row}`` and ``{column}``),
        ``{site}``, ``{plate}``, ``{field}``, ``{channel}``, ``{z}``, ``{time}`` and ``*`` for
        anything, such as ``{well}_{site}_*``; or a regular expression with groups of these names,
        such as ``(?P<well>[A-P]\d+)``.

    Returns
    -------
    list of dict
        Value of each placeholder, empty where a name does not fit the pattern. Row and column
        are put together as the well: row 2 or B and column 3 are B03.

    Raises
    ------
    MicrodlError
        If the pattern names nothing, something unknown or is not a regular expression.

    Examples
    --------
    >>> read_names(["B02_s1_DMSO.tif"], "{well}_{site}_{condition}.tif")
    [{'well': 'B02', 'site': 's1', 'condition': 'DMSO'}]
    """
    expression = pattern if "(?P<" in pattern else _expression(pattern)
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise MicrodlError(
            f"The pattern '{pattern}' is not a regular expression ({error}); correct it, or write "
            "placeholders such as {well}_{site}."
        ) from error
    found = set(compiled.groupindex)
    unknown = sorted(found - set(_PLACEHOLDERS))
    if unknown or not found:
        what = f"holds {{{unknown[0]}}}, which is not known" if unknown else "names nothing"
        known = ", ".join(f"{{{name}}}" for name in _PLACEHOLDERS)
        raise MicrodlError(f"The pattern '{pattern}' {what}; use some of {known}.")
    matches = [compiled.fullmatch(name) for name in names]
    return [{} if match is None else _with_well(match.groupdict("")) for match in matches]


def _with_well(read: dict[str, str]) -> dict[str, str]:
    """What was read, with row and column put together."""
    row, column = read.pop("row", ""), read.pop("column", "")
    if row and column:
        letters = row_letters(int(row) - 1) if row.isdigit() else row.upper()
        read["well"] = f"{letters}{int(column):02d}"
    return read


def row_letters(row: int) -> str:
    """What a row of a plate is called, by its number from 0: A to Z, then AA to AF."""
    return (chr(ord("A") + row // 26 - 1) if row >= 26 else "") + chr(ord("A") + row % 26)


def field_name(read: Mapping[str, str]) -> str:
    """Name of the field that something was read about, empty where nothing tells it from others.

    Parameters
    ----------
    read : mapping
        As `read_names` returns it.
    """
    parts = [read.get(part, "") for part in (*_PLACES, "field", "z", "time")]
    # Numbers alone would not tell a plane from a time point.
    parts[-2:] = [
        f"{letter}{value}" if value.isdigit() else value
        for letter, value in zip("zt", parts[-2:], strict=True)
    ]
    return "_".join(part for part in parts if part)


def _expression(pattern: str) -> str:
    parts = []
    named: set[str] = set()
    for number, part in enumerate(_TAG.split(pattern)):
        if number % 2 == 0:
            parts.append(re.escape(part).replace(r"\*", ".*?"))
        elif part in named:
            parts.append(f"(?P={part})")
        else:
            named.add(part)
            parts.append(f"(?P<{part}>{_PLACEHOLDERS.get(part, '.+?')})")
    return "".join(parts)


def read_table(path: str | Path) -> pd.DataFrame:
    """A table of what is known about fields, from a CSV, TSV or Parquet file; all values as text.

    Files of Excel are taken as they come: commas, semicolons or tabs between columns, whichever the
    first line has most of; UTF-8 or UTF-16, else Windows-1252; spaces around values do not count;
    where no commas part the columns, those in columns of numbers are decimal commas.
    What is no plain CSV is noted. Texts that were kept from being calculated
    (`napari_microdl.core.csv_text.as_cell`) are as they were.

    Raises
    ------
    MicrodlError
        If the file cannot be read or is empty.
    """
    path = Path(path)
    with guarding(f"'{path.name}' cannot be read as a table: {{reason}}."):
        if path.suffix.lower() in {".parquet", ".pq"}:
            table = _read_parquet(path)
        else:
            table = _read_text(path)
        if len(table.columns) > _MOST_COLUMNS:
            raise ValueError(f"it has {len(table.columns):,} columns, at most {_MOST_COLUMNS:,}")
    if not len(table):
        raise MicrodlError(f"'{path.name}' holds no rows; choose a table with one row a field.")
    table = table.astype(object).where(table.notna(), "").astype(str)
    table.columns = [from_cell(str(name).strip()) for name in table.columns]
    return table.map(lambda text: from_cell(text.strip()))


def _read_parquet(path: Path) -> pd.DataFrame:
    require_file(path)
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise MicrodlError(
            f"'{path.name}' is a Parquet file, which needs the package pyarrow; install it with "
            "pip install 'napari-microdl[plate]', or save the table as CSV."
        ) from error
    # Values that repeat take next to no bytes in a file.
    with parquet.ParquetFile(path) as file:
        cells = file.metadata.num_rows * max(1, file.metadata.num_columns)
    if cells > _MOST_CELLS:
        raise ValueError(f"it has {cells:,} values, at most {_MOST_CELLS:,} are read")
    return pd.read_parquet(path)


def _read_text(path: Path) -> pd.DataFrame:
    content = read_bytes(path, _MOST_BYTES)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "UTF-16"
    else:
        try:
            content.decode("utf-8-sig")
            encoding = "UTF-8-SIG"
        except UnicodeDecodeError:
            encoding = "Windows-1252"
    text = content.decode(encoding)
    header = re.sub(r'"[^"]*"', "", text.lstrip("\r\n").partition("\n")[0])
    usual = "\t" if path.suffix.lower() in {".tsv", ".tab", ".txt"} else ","
    separator = max((usual, *_SEPARATORS), key=header.count)
    understood = []
    if separator != usual:
        understood.append(f"{_SEPARATORS[separator]} between columns")
    if encoding != "UTF-8-SIG":
        understood.append(f"letters as {encoding}")
    table = pd.read_csv(
        io.StringIO(text), sep=separator, dtype=str, keep_default_na=False, skipinitialspace=True
    )
    # Where commas part the columns, one inside a number may as well part its thousands.
    commas = [c for c in table.columns if separator != "," and _has_decimal_commas(table[c])]
    for name in commas:
        table[name] = table[name].str.replace(",", ".", regex=False)
    if commas:
        understood.append(f"decimal commas in {listed([str(name) for name in commas])}")
    if understood:
        current_task().note(f"'{path.name}' was read with {' and '.join(understood)}.")
    return table


def _has_decimal_commas(values: pd.Series) -> bool:
    """Whether all values are numbers as programs of half of Europe write them."""
    texts = values[values.notna() & (values != "")].str.strip()
    of_numbers = texts.str.fullmatch(r"[-+]?\d+(,\d+)?([eE][-+]?\d+)?")
    return bool(of_numbers.all() and texts.str.contains(",", regex=False).any())


def column(table: pd.DataFrame | Mapping[str, str], *names: str) -> str | None:
    """The first column of one of these names, with or without ``Metadata_``, in any case.

    Names that come first are preferred. A row with its values by column is as good as the table.
    """
    plain = _plain_names(tuple(map(str, table)))
    return next((plain[name] for name in names if name in plain), None)


# Asked for every row of a plate's table.
@lru_cache(maxsize=64)
def _plain_names(columns: tuple[str, ...]) -> dict[str, str]:
    return {name.lower().removeprefix(PREFIX.lower()): name for name in reversed(columns)}


def describe_row(table: pd.DataFrame, row: int) -> dict[str, Any]:
    """What one row of a table says about a field.

    Returns
    -------
    dict
        Those of ``condition``, ``is_control``, ``well``, ``site`` and ``plate`` that the table has.

    Raises
    ------
    MicrodlError
        If a control mark is neither true nor false.
    """
    return describe(record_of(table, row), number=row + 1)


def record_of(table: pd.DataFrame, row: int) -> dict[str, str]:
    """Values of a row by column, as text."""
    return {str(name): str(value) for name, value in table.iloc[row].items()}


def describe(record: Mapping[str, str], number: int) -> dict[str, Any]:
    """What `describe_row` returns, for a row with its values by column and its number from 1."""
    known: dict[str, Any] = {}
    for name in _PLACES:
        if (found := column(record, name)) is not None:
            known[name] = record[found]
    if "well" not in known and (well := well_of(record)) is not None:
        known["well"] = well
    if (found := column(record, *_CONDITION_COLUMNS)) is not None:
        known["condition"] = record[found]
    if (found := column(record, *_CONTROL_COLUMNS)) is not None:
        text = record[found].strip().lower()
        if text not in (*_YES, *_NO):
            raise MicrodlError(
                f"Row {number} has '{record[found]}' in the column {found}; write true or false."
            )
        known["is_control"] = text in _YES
    elif kinds := [found for name in _KIND_COLUMNS if (found := column(record, name)) is not None]:
        lowered = [record[kind].strip().lower() for kind in kinds]
        known["is_control"] = any(kind in _NEGATIVE for kind in lowered)
        if known["is_control"] and not known.get("condition"):
            # Of controls nobody may have written what they are.
            known["condition"] = next(kind for kind in lowered if kind in _NEGATIVE)
    return known


def well_of(record: Mapping[str, str]) -> str | None:
    """The well that a row is about, where it has one, or the row and column of a plate."""
    if (found := column(record, *_WELL_COLUMNS)) is not None:
        return record[found].strip()
    rows, columns = column(record, *_ROW_COLUMNS), column(record, *_COLUMN_COLUMNS)
    if rows is None or columns is None:
        return None
    # Programs that take them for numbers write 2.0.
    texts = [re.sub(r"\.0+$", "", record[name].strip()) for name in (rows, columns)]
    if not texts[1].isdigit():
        return ""
    return _with_well({"row": texts[0], "column": texts[1]}).get("well", "")


def normal_well(text: str) -> str:
    """A well with a letter and two digits: a1, A-1 and A001 are A01, aa3 is AA03; others stay."""
    match = re.fullmatch(r"([A-Za-z]{1,2})[\s_:-]?0?(\d{1,2})", text.strip())
    return f"{match[1].upper()}{int(match[2]):02d}" if match and int(match[2]) else text.strip()


def normal_site(text: str) -> str:
    """A site as a number: s1, 01, f001 and "Site 1" are 1; other texts stay."""
    match = re.fullmatch(r"(?:[A-Za-z]+[\s_-]?)?(\d+)", text.strip())
    return str(int(match[1])) if match else text.strip()


def match_table(fields: Sequence[FieldInfo], table: pd.DataFrame) -> list[int | None]:
    """Which row of a table belongs to each field.

    Fields are found by their name, where the table has a column for it (``Metadata_field``, or
    names of files, with or without folder and ending), and else by plate, well and site, as far as
    both know them; A1 and a01 are one well then, s1 and 01 one site.

    Parameters
    ----------
    fields : sequence of Field
        Fields.
    table : DataFrame
        As `read_table` returns it.

    Returns
    -------
    list of int or None
        None where the table says nothing about a field.

    Raises
    ------
    MicrodlError
        If the table has no column to find fields by, or two rows for one field.
    """
    name = column(table, *_NAME_COLUMNS) or next(
        (str(c) for c in table.columns if str(c).lower().startswith("filename_")), None
    )
    if name is not None:
        keys = [_stem(value) for value in table[name]]
        wanted = [_stem(field.name) for field in fields]
        by = name
    else:
        places = [
            (place, found)
            for place in _PLACES
            if (found := column(table, place)) is not None
            and any(getattr(field, place) for field in fields)
        ]
        if not places:
            raise MicrodlError(
                "The table has no column that tells which field a row is about; add "
                "Metadata_field with the names of the fields, or Metadata_Well."
            )
        names = [place for place, _ in places]
        cells = table[[found for _, found in places]].to_numpy(str)
        keys = ["\n".join(map(_place, names, row)) for row in cells]
        wanted = ["\n".join(_place(n, getattr(field, n)) for n in names) for field in fields]
        by = " and ".join(found for _, found in places)
    rows: dict[str, int] = {}
    for number, key in enumerate(keys):
        if key in rows and key in wanted:
            raise MicrodlError(
                f"Rows {rows[key] + 1} and {number + 1} of the table have the same {by} "
                f"('{', '.join(key.splitlines())}'); keep one row a field."
            )
        rows.setdefault(key, number)
    return [rows.get(key) for key in wanted]


def _place(name: str, value: str) -> str:
    """However it is written: A1, a01 and "A01 " are one well, s1 and 01 one site."""
    normal = {"well": normal_well, "site": normal_site}.get(name, str.strip)
    return normal(value)


def _stem(name: Any) -> str:
    last = re.split(r"[/\\]", str(name).strip())[-1]
    # napari calls a layer of A01.ome.tif A01.ome.
    return re.sub(r"(\.ome)?(\.(tiff?|png|jpe?g|bmp|zarr|npy|czi|nd2|lif))?$", "", last, flags=re.I)
