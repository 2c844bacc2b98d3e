"""What a stage reports while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from napari_microdl.estimators.icfl import FitRecord

Stage = Literal["scale", "segment", "embed", "whiten", "fit", "encode"]


@dataclass(frozen=True)
class Progress:
    """Where a run is.

    Parameters
    ----------
    stage : {"scale", "segment", "embed", "whiten", "fit", "encode"}
        What is being done.
    done, total : int
        Steps of the stage.
    message : str
        A sentence for people.
    record : FitRecord, optional
        Figures of the dictionary fit, in the stage "fit".
    stays : bool, default=False
        Whether the message should stay in view when others follow.
    """

    stage: Stage
    done: int
    total: int
    message: str
    record: FitRecord | None = None
    stays: bool = False
