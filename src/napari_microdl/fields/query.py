"""Queries that pick rows of a table by comparing its columns, and can do nothing else."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.text import shortened

_EXAMPLE = "Metadata_condition == 'DMSO'"
_MOST_CHARACTERS = 10_000
# Text in quotes, which stays, or a column in backticks, whose name may hold anything.
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"|`([^`]+)`", re.DOTALL)
_ORDERS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
Answer = NDArray[np.bool_]


def select(table: pd.DataFrame, query: str) -> Answer:
    """Rows that a query picks, in the style of pycytominer.

    Settings files travel between people, so a query is read into a tree of comparisons, ``and``,
    ``or``, ``not``, ``in``, columns and plain values; whatever else stands in it is refused, and
    nothing of it is run.

    Parameters
    ----------
    table : DataFrame
        Columns ``Metadata_*``.
    query : str
        For example ``Metadata_condition == 'DMSO'`` or ``Metadata_well in ['A01', 'A02']``; columns
        whose names hold spaces stand in backticks. A column of text is compared with a number where
        all of its values are numbers.

    Returns
    -------
    ndarray of bool, shape (n_rows,)

    Raises
    ------
    MicrodlError
        If the query cannot be understood or does not say yes or no for each row.
    """
    if len(query) > _MOST_CHARACTERS:
        raise MicrodlError(
            f"The query has {len(query)} characters; up to {_MOST_CHARACTERS} are read. Put the "
            "controls into a table instead."
        )
    in_backticks: dict[str, str] = {}
    shown = shortened(" ".join(query.split()))

    def plain_name(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        name = f"column_in_backticks_{len(in_backticks)}"
        in_backticks[name] = match[1]
        return name

    try:
        tree = ast.parse(_QUOTED.sub(plain_name, query).strip(), mode="eval").body
        return _Rows(table, in_backticks).answer(tree)
    except MicrodlError as error:
        raise MicrodlError(f"The query '{shown}' {error}") from None
    except (SyntaxError, TypeError, ValueError, MemoryError, RecursionError):
        raise MicrodlError(
            f"The query '{shown}' cannot be read; write for example {_EXAMPLE}."
        ) from None


class _Rows:
    """Answers of the rows of one table."""

    def __init__(self, table: pd.DataFrame, in_backticks: dict[str, str]) -> None:
        self.table = table
        self.in_backticks = in_backticks

    def answer(self, node: ast.expr) -> Answer:
        """Yes or no for every row."""
        match node:
            case ast.BoolOp(op, parts):
                join = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return np.asarray(join.reduce([self.answer(part) for part in parts]), bool)
            case ast.BinOp(left, ast.BitAnd(), right):
                return self.answer(left) & self.answer(right)
            case ast.BinOp(left, ast.BitOr(), right):
                return self.answer(left) | self.answer(right)
            case ast.UnaryOp(ast.Not() | ast.Invert(), part):
                return ~self.answer(part)
            case ast.Compare(first, orders, rest):
                sides = [first, *rest]
                pairs = zip(sides[:-1], orders, sides[1:], strict=True)
                answers = [self.compared(*pair) for pair in pairs]
                return np.asarray(np.logical_and.reduce(answers), bool)
            case ast.Name():
                column = self.column(node)
                if column.dtype == bool:
                    return np.asarray(column, bool)
        if isinstance(node, ast.Name | ast.Constant):
            raise MicrodlError(f"is not a yes-or-no question; write for example {_EXAMPLE}.")
        raise _does_more()

    def compared(self, left: ast.expr, order: ast.cmpop, right: ast.expr) -> Answer:
        """One comparison, of two columns, or of a column and values."""
        if isinstance(order, ast.In | ast.NotIn):
            if not isinstance(right, ast.List | ast.Tuple | ast.Set):
                raise MicrodlError("looks for a value in no list; write in ['A01', 'A02'].")
            found = np.zeros(len(self.table), bool)
            for element in right.elts:
                found |= self.compared(left, ast.Eq(), element)
            return ~found if isinstance(order, ast.NotIn) else found
        if type(order) not in _ORDERS:
            raise _does_more()
        values = self.value(left), self.value(right)
        if not any(isinstance(value, pd.Series) for value in values):
            raise MicrodlError("compares values with each other; name a column.")
        one, other = self.alike(*values), self.alike(*reversed(values))
        return np.asarray(_ORDERS[type(order)](one, other), bool)

    def value(self, node: ast.expr) -> Any:
        """A column or a plain value."""
        match node:
            case ast.Name():
                return self.column(node)
            case ast.Constant(str() | bool() | int() | float() as value):
                return value
            case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as number)):
                return -number
        raise _does_more()

    def column(self, node: ast.Name) -> pd.Series:
        name = self.in_backticks.get(node.id, node.id)
        places = np.flatnonzero(self.table.columns == name)
        if len(places) != 1:
            columns = ", ".join(map(str, self.table.columns))
            problem = (
                "which there is no column" if not len(places) else "which there are two columns"
            )
            raise MicrodlError(f"names '{name}', of {problem}; the columns are {columns}.")
        return self.table.iloc[:, places[0]]

    def alike(self, value: Any, other: Any) -> Any:
        """A side of a comparison as the other one is: numbers, yes or no, or text."""
        kind, wanted = _kind(value), _kind(other)
        if kind == wanted:
            return value
        if kind == "text" and wanted == "a number" and isinstance(value, pd.Series):
            numbers = pd.to_numeric(value.where(value != "", np.nan), errors="coerce")
            if not (numbers.isna() & (value != "")).any():
                return numbers
        if kind == "a number" and wanted == "text" and isinstance(other, pd.Series):
            # That is read as numbers, or refused.
            return value
        names = [repr(x.name) if isinstance(x, pd.Series) else repr(x) for x in (value, other)]
        raise MicrodlError(
            f"compares {names[0]}, which is {kind}, with {names[1]}, which is {wanted}; text "
            "stands in quotes, numbers and True and False do not."
        )


def _does_more() -> MicrodlError:
    return MicrodlError(f"does more than compare columns; write for example {_EXAMPLE}.")


def _kind(value: Any) -> str:
    if isinstance(value, pd.Series):
        if value.dtype == bool:
            return "yes or no"
        return "a number" if pd.api.types.is_numeric_dtype(value.dtype) else "text"
    if isinstance(value, bool):
        return "yes or no"
    return "text" if isinstance(value, str) else "a number"
