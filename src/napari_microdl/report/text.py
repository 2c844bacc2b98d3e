"""Tables of an evaluation in plain words, and words of a person as they can be shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from napari_microdl.core.text import one_line


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Parameters
    ----------
    key : str
        Entry of the rows of the report.
    heading : str
        A word or two.
    meaning : str
        A plain sentence.
    """

    key: str
    heading: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """How one part of a report is shown as a table.

    Parameters
    ----------
    key : str
        Part of the report.
    heading : str
        Title.
    meaning : str
        What the table tells.
    columns : tuple of Column
        From left to right; those that no row has are left out.
    """

    key: str
    heading: str
    meaning: str
    columns: tuple[Column, ...]


def columns_of(table: Table, rows: list[dict[str, Any]]) -> list[Column]:
    """Columns that some row has.

    Parameters
    ----------
    table : Table
        Which part.
    rows : list of dict
        Its rows.

    Returns
    -------
    list of Column
    """
    known = {key for row in rows for key in row}
    return [column for column in table.columns if column.key in known]


def value_text(value: Any) -> str:
    """A value as a person reads it; a dash where it is not known.

    Parameters
    ----------
    value : object
        Of a row.

    Returns
    -------
    str
    """
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def figure_text(text: object) -> str:
    r"""The same for a figure of matplotlib, where dollar signs stand around a formula.

    Every text of a person that a figure shows goes through here.

    Examples
    --------
    >>> print(figure_text(r"$\foo{$"))
    \$\foo{\$
    """
    return one_line(text).replace("$", r"\$")
