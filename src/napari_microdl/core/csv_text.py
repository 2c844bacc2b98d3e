"""Words of a person as cells of a CSV file, which spreadsheets take for formulas."""

from __future__ import annotations

import re

import pandas as pd

from napari_microdl.core.text import plain_text

# What a spreadsheet calculates, behind quotation marks that were put there before.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)|-+")


def as_cell(text: str) -> str:
    """A text that a spreadsheet shows and does not calculate; numbers stay numbers.

    Examples
    --------
    >>> as_cell("=1+1"), as_cell("-0.5"), as_cell("DMSO")
    ("'=1+1", '-0.5', 'DMSO')
    """
    text = plain_text(text)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def from_cell(text: str) -> str:
    """The text that `as_cell` was given."""
    return text[1:] if text[:1] == "'" and _FORMULA.match(text) else text


def csv_safe(table: pd.DataFrame) -> pd.DataFrame:
    """A table as it may be written: every text, and every heading, as `as_cell` gives it.

    Parameters
    ----------
    table : DataFrame
        It is left as it is.

    Returns
    -------
    DataFrame
    """
    safe = table.copy(deep=False)
    for place in range(table.shape[1]):
        values = table.iloc[:, place]
        if pd.api.types.is_numeric_dtype(values.dtype):
            continue
        # Of a million cells there are few different texts.
        codes, found = pd.factorize(values)
        texts = [as_cell(text) if isinstance(text, str) else text for text in found]
        if list(found) != texts:
            safe.isetitem(place, pd.Series([*texts, None], dtype=object).to_numpy()[codes])
    return safe.set_axis([as_cell(str(name)) for name in table.columns], axis=1)
