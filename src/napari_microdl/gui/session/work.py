"""What runs in the background: a run or a part of it, and the comparison of layers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.gui.session.freshness import StepName
from napari_microdl.gui.session.layers import Source
from napari_microdl.gui.session.settings import token_cache
from napari_microdl.pipeline.cache import KeptStages

if TYPE_CHECKING:
    import pandas as pd

    from napari_microdl.concepts.dictionary import ConceptDictionary
    from napari_microdl.pipeline.run import Progress, StagedRun


@dataclass(eq=False)
class Work:
    """A run up to some step, with what it is given.

    Parameters
    ----------
    step : str
        The last step.
    fields : list of Field
        Input.
    sources : list of Source
        Origin of every field.
    config : PipelineConfig
        Settings.
    dictionary : ConceptDictionary or None
        The one to apply.
    kept : KeptStages
        What earlier runs left.
    """

    step: StepName
    fields: list[Field]
    sources: list[Source]
    config: PipelineConfig
    dictionary: ConceptDictionary | None
    kept: KeptStages
    _run: StagedRun | None = field(default=None, init=False)
    _ended: bool = field(default=False, init=False)

    def steps(self) -> Generator[Progress, None, Any]:
        """The work itself; the heavy imports happen here, in the worker's thread.

        Returns
        -------
        object
            Labels of every field, `Tokens`, `Whitened` or `PipelineResult`, as the step has it.
        """
        from napari_microdl.pipeline.run import StagedRun

        self._run = run = StagedRun(
            self.fields, self.config, self.dictionary, cache=token_cache(), kept=self.kept
        )
        steps: dict[StepName, Callable[[], Generator[Progress, None, Any]]] = {
            "cells": run.labels,
            "model": run.tokens,
            "whitening": run.whitened,
            "dictionary": run.result,
        }
        result = yield from steps[self.step]()
        self._ended = True
        return result

    def finished_steps(self) -> list[StepName]:
        """Steps that are done so far; may be asked while the work is in progress."""
        stages = set() if self._run is None else self._run.finished
        last: dict[StepName, str] = {
            # Crops and patches are known once tokens are averaged over them.
            "cells": "segment" if self.config.units.kind == "cell" else "pool",
            "model": "read",
            # A dictionary that is applied has its whitening; samples are all that is needed.
            "whitening": "whiten" if self.dictionary is None else "pool",
            "dictionary": "learn",
        }
        return [
            s for s, stage in last.items() if stage in stages or (self._ended and s == self.step)
        ]


def compare_layers(
    fields: Sequence[Field], config: PipelineConfig
) -> Generator[Progress, None, pd.DataFrame]:
    """Compare the layers of the model."""
    from napari_microdl.pipeline.layer_choice import iter_layer_scores

    return (yield from iter_layer_scores(fields, config, cache=token_cache()))
