"""The run in progress of a viewer, which goes on while its dock is closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from napari.utils.notifications import show_info
from psygnal import Signal
from qtpy.QtCore import QObject
from qtpy.QtWidgets import QWidget

from napari_microdl.core.task import Progress, Stage
from napari_microdl.gui.session.freshness import StepName
from napari_microdl.gui.session.layers import Source
from napari_microdl.gui.session.run import Work, compare_layers
from napari_microdl.gui.session.session import Session
from napari_microdl.gui.widgets.jobs import JobRunner

# Stage that a run up to a step ends with.
_LAST_STAGE: dict[StepName, Stage] = {
    "cells": "cells",
    # The place in the tile is removed from tokens at the end, as a part of the whitening.
    "tokens": "whitening",
    "whitening": "whitening",
    "dictionary": "activations",
}


@dataclass(frozen=True, eq=False)
class Ended:
    """What became of a run, or of a comparison of layers.

    Parameters
    ----------
    what : str
        The step that it went up to, or "layers".
    how : {"done", "same", "cancelled", "failed"}
        It found what is shown already where it is the same.
    result : object
        What it found, where it found something.
    sources : sequence of Source
        Its images.
    finished : list of str
        Steps that it finished and that are kept.
    sentence : str
        Why it failed.
    """

    what: StepName | Literal["layers"]
    how: Literal["done", "same", "cancelled", "failed"]
    result: Any = None
    sources: Sequence[Source] = ()
    finished: list[StepName] = field(default_factory=list)
    sentence: str = ""


class Running:
    """Begins runs one at a time, and hands what they find to the session.

    Attributes
    ----------
    jobs : JobRunner
        Does the work.
    progress : Progress or None
        What the run in progress has reported last.
    records : list
        Records of its fit.

    Signals
    -------
    running_changed(bool)
        Whether there is something in progress.
    progressed(Progress)
        The run has come further.
    ended(Ended)
        The run has ended, and the session knows.
    """

    running_changed = Signal(bool)
    progressed = Signal(object)
    ended = Signal(object)

    def __init__(self, session: Session) -> None:
        self._session = session
        self._parent = QObject()
        self.jobs = JobRunner(self._parent)
        # A dock hears of it through signals of Python: when a window is destroyed, its parts may no
        # longer be asked to disconnect.
        self.jobs.running_changed.connect(self._on_running)
        self.jobs.progressed.connect(self._on_progress)
        self.jobs.succeeded.connect(self._on_success)
        self.jobs.failed.connect(self._on_failure)
        self.jobs.cancelled.connect(self._on_cancelled)
        self._what: StepName | Literal["layers"] = "dictionary"
        self._work: Work | None = None
        self.progress: Progress | None = None
        self.records: list[Any] = []

    @property
    def window(self) -> QWidget | None:
        """The window that it is for; when it is destroyed, what is in progress ends."""
        # Held by Qt: held here, it would never go.
        window: QWidget | None = self._parent.parent()
        return window

    @window.setter
    def window(self, window: QWidget) -> None:
        self._parent.setParent(window)

    @property
    def is_running(self) -> bool:
        """Whether a run is in progress; a comparison of layers is none."""
        return self.jobs.is_running and self._what != "layers"

    def run(self, step: StepName) -> None:
        """Run up to a step, after cancelling what is in progress.

        `MicrodlError` if something is missing.
        """
        self.jobs.stop()
        self._leave()
        work = self._session.begin(step)
        self._work = work
        self._start(step, work.run, "MicroDL", _LAST_STAGE[step])

    def compare_layers(self) -> None:
        """Compare the layers of the model; `MicrodlError` if something is missing."""
        fields, _, config = self._session.plan.prepare()
        self._start("layers", partial(compare_layers, fields, config), "MicroDL layers")

    def _start(
        self,
        what: StepName | Literal["layers"],
        work: Callable[[], Any],
        title: str,
        last: Stage = "activations",
    ) -> None:
        self._what, self.progress = what, None
        self.records.clear()
        self.jobs.start(work, title, last=last)

    def cancel(self) -> None:
        """Cancel what is in progress; steps that it has finished are kept for the next run."""
        self.jobs.cancel()

    def _leave(self) -> list[StepName]:
        """Let go of the run in progress; steps that it has finished."""
        work, self._work = self._work, None
        if work is None:
            return []
        self._session.leave(work)
        return work.finished_steps()

    def _on_running(self, is_running: bool) -> None:
        self.running_changed.emit(is_running)

    def _on_progress(self, progress: Progress) -> None:
        self.progress = progress
        if progress.record is not None:
            self.records.append(progress.record)
        self.progressed.emit(progress)

    def _on_success(self, result: Any) -> None:
        work = self._work
        how: Literal["done", "same"] = "done"
        sources = () if work is None else work.sources
        finished: list[StepName] = []
        if self._what == "dictionary":
            assert work is not None
            self._work = None
            if self._session.repeats(result, work.sources):
                self._session.keep()
                how = "same"
            else:
                self._session.finish(result, work.fields, work.sources)
        else:
            if self._what == "cells":
                self._session.take_cells(result, sources)
            elif self._what == "tokens":
                self._session.run.take_tokens(result)
            elif self._what == "whitening":
                self._session.run.take_whitening(result)
            finished = self._leave()
        self._tell(Ended(self._what, how, result, sources, finished))

    def _on_failure(self, sentence: str) -> None:
        self._leave()
        self._tell(Ended(self._what, "failed", sentence=sentence))

    def _on_cancelled(self) -> None:
        self._tell(Ended(self._what, "cancelled", finished=self._leave()))

    def _tell(self, ended: Ended) -> None:
        if len(self.ended):
            self.ended.emit(ended)
        elif ended.how == "failed":
            show_info(f"The run of MicroDL has failed: {ended.sentence}")
        elif ended.how != "cancelled":
            show_info("The run of MicroDL has ended; open its docks to see what it found.")
