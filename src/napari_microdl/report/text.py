"""Tables of an evaluation in plain words, and words of a person as they can be shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

# Control characters but for tabs and ends of lines, and halves of characters.
_NOT_SHOWN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


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


def plain_text(text: object) -> str:
    """A text of a person as any page and file can hold it.

    Parameters
    ----------
    text : object
        A name, a note, a condition.

    Returns
    -------
    str
        Control characters, and halves of characters, which some programs leave in names, became
        the sign for what cannot be shown.
    """
    return _NOT_SHOWN.sub("\N{REPLACEMENT CHARACTER}", str(text))


def one_line(text: object) -> str:
    """The same in one line."""
    return plain_text(" ".join(str(text).split()))


def figure_text(text: object) -> str:
    r"""The same for a figure of matplotlib, where dollar signs stand around a formula.

    Every text of a person that a figure shows goes through here.

    Examples
    --------
    >>> print(figure_text(r"$\foo{$"))
    \$\foo{\$
    """
    return one_line(text).replace("$", r"\$")
