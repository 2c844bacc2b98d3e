"""What the next run has before it: fields and cells a side, and how long it will take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from napari_microdl.core.text import counted, duration
from napari_microdl.gui.session.freshness import Facet, Facets
from napari_microdl.gui.session.layers import ImageRow
from napari_microdl.gui.session.plan import Plan

# What decides which cells there are.
_OF_CELLS: tuple[Facet, ...] = ("pixels", "cells")


class Outlook:
    """Tells fields and cells of controls and of the others, before a run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        # Cells by image, and what they were found with.
        self._cells: Mapping[Any, int] = {}
        self._found_with: tuple[Any, ...] | None = None

    def take_cells(self, counts: Mapping[Any, int], facets: Facets) -> None:
        """Take in how many cells the images have, by the key of their `Source`."""
        self._cells, self._found_with = counts, tuple(facets[name] for name in _OF_CELLS)

    def sentence(self, facets: Facets) -> str:
        """Fields and cells a side, and the expected time; empty without an image in use."""
        rows = self._plan.images.first_rows()
        if not rows:
            return ""
        sides = [[row for row in rows if row.is_control == side] for side in (True, False)]
        controls, others = (len(side) for side in sides)
        counts = f"{counted(controls, 'control')}, {others} other{'' if others == 1 else 's'}"
        found_with = tuple(facets[name] for name in _OF_CELLS)
        of_cells = self._plan.settings.shown_config().units.kind == "cell"
        few = ""
        if of_cells and found_with == self._found_with:
            cells, more = (self._counted(side) for side in sides)
            counts += f" ({cells:,} and {more:,} cells)"
            few = self._few(cells)
        expected = ""
        if (found := self._plan.model.expected_seconds()) is not None:
            seconds, is_all = found
            expected = f"; about {duration(seconds)}{'' if is_all else ' to read images'}"
        return f"{counts}{expected}.{few}"

    def _counted(self, rows: Sequence[ImageRow]) -> int:
        return sum(self._cells.get(row.key, 0) for row in rows)

    def _few(self, controls: int) -> str:
        """What to do where there are fewer cells of controls than a token has numbers."""
        width = self._plan.model.token_width()
        if self._plan.settings.applied is not None or width is None or controls > width:
            return ""
        return (
            f" {counted(controls, 'control cell')} are few to whiten {width} numbers with: add "
            "controls, or take crops as the unit (step 2)."
        )
