"""Tags of units, kept from run to run for as long as the units are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.core.text import counted

if TYPE_CHECKING:
    from napari_microdl.gui.session.session import Run

# What has to be equal for two units to be the same; centre and area stand for the outline.
_SAME = ["kind", "image", "label", "y", "x", "area"]


class KeptTags:
    """What a person saw in units, of all runs so far.

    A cell is the same where the field has the same name and the cell the same number, centre and
    area. Crops and patches lie alike in every image, so of those the image has to be the same open
    layer, too.
    """

    def __init__(self) -> None:
        self._known = pd.DataFrame(columns=[*_SAME, "tag"])

    def follow(self, before: Run | None, now: Run) -> str:
        """Carry tags from one run to the next.

        Parameters
        ----------
        before, now : Run
            The run that was shown, None for none, and the new one, whose units are tagged. One
            that was opened from a folder has its own tags and is given none.

        Returns
        -------
        str
            A sentence about tags that the new run has not; empty where it has all.
        """
        tagged = 0 if before is None else self._note(before)
        if not now.has_images:
            return ""
        rows, numbers = self._places(now)
        now.result.activations.unit_tags[rows] = self._known["tag"].to_numpy(str)[numbers]
        # The last ones are those of the run before.
        missing = tagged - int((numbers >= len(self._known) - tagged).sum())
        if before is None or not missing:
            return ""
        unit = before.result.config.units.kind
        was = "has lost its tag" if missing == 1 else "have lost their tags"
        return (
            f"{counted(missing, f'tagged {unit}')} of the run before {was}: this run does not have "
            f"the same {unit}s. The tags come back in a run that has."
        )

    def _note(self, run: Run) -> int:
        """Take in the tags of a run, in place of what was known of its units; how many it has."""
        tags = run.result.activations.unit_tags
        tagged = np.flatnonzero(tags != "")
        # Of a unit whose tag was taken away nothing is known any more.
        _, numbers = self._places(run)
        known = self._known.drop(self._known.index[numbers])
        new = _described(run, tagged).assign(tag=tags[tagged])
        self._known = pd.concat([known, new], ignore_index=True) if len(known) else new
        return len(tagged)

    def _places(self, run: Run) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows of a run's units that are known, and the number of each in what is known."""
        labels = run.result.activations.units["label"].to_numpy()
        # Of a million units few have a number that was tagged, and only those are compared.
        candidates = np.flatnonzero(np.isin(labels, self._known["label"].to_numpy(labels.dtype)))
        if not len(candidates):
            return np.empty(0, np.int64), np.empty(0, np.int64)
        units = _described(run, candidates).assign(row=candidates)
        known = self._known[_SAME].assign(number=np.arange(len(self._known)))
        both = units.merge(known, on=_SAME)
        return both["row"].to_numpy(np.int64), both["number"].to_numpy(np.int64)


def _described(run: Run, rows: NDArray[np.int64]) -> pd.DataFrame:
    """What tells units of a run from all others, in the columns of `_SAME`."""
    unit = run.result.config.units.kind
    units = run.result.activations.units.iloc[rows]
    images = units["Metadata_Field"].astype(str).to_numpy(object)
    if unit != "cell":
        # An image that is not open can be none of another run.
        open_ones = {
            number: str(source.key)
            for number, source in enumerate(run.sources)
            if source.layer() is not None
        }
        fields = units["field"].tolist()
        images = np.array([open_ones.get(f, f"{run.run_id} {f}") for f in fields], object)
    return pd.DataFrame(
        {
            "kind": unit,
            "image": images,
            **{name: units[name].to_numpy(np.float64) for name in ("y", "x", "area")},
            "label": units["label"].to_numpy(np.int64),
        }
    )[_SAME]
