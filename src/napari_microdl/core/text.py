"""Sentences about lists, numbers and durations, and words of a person as they can be shown."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Control characters but for tabs and ends of lines, and halves of characters.
_NOT_SHOWN = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\ud800-\\udfff]")


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names in quotation marks, and how many more there are."""
    quoted = [f"'{name}'" for name in names[:most]]
    rest = len(names) - most
    return ", ".join(quoted) + (f" and {rest} more" if rest > 0 else "")


def first_notes(notes: Sequence[str], most: int = 5) -> list[str]:
    """The first of the notes that were made of single fields, and how many more there are."""
    rest = len(notes) - most
    more = [f"There {'is' if rest == 1 else 'are'} {counted(rest, 'more note')} of the kind."]
    return [*notes[:most], *(more if rest > 0 else [])]


def counted(n: int, noun: str) -> str:
    """A number with its noun, in the plural where it is not one: "1 cell", "1,200 cells"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def shortened(text: str, most: int = 120) -> str:
    """A text, or the beginning of one that has more letters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def duration(seconds: float) -> str:
    """A time in seconds, or in minutes from a minute and a half on."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{max(seconds, 1):.0f} s"


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
