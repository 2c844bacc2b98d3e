"""How each step stands to what is shown: the same, changed, out of date, or done anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

StepName = Literal["fields", "cells", "tokens", "whitening", "dictionary"]
StepState = Literal["changed", "out of date", "done"]
# What decides a step, cut where steps depend on one part and not on another.
Facet = Literal[
    "pixels", "controls", "plates", "conditions", "cells", "tokens", "whitening", "dictionary"
]
Facets = Mapping[Facet, Any]

_OWN: dict[StepName, tuple[Facet, ...]] = {
    "fields": ("pixels", "controls", "plates", "conditions"),
    "cells": ("cells",),
    "tokens": ("tokens",),
    "whitening": ("whitening",),
    "dictionary": ("dictionary",),
}
_NEEDED: dict[StepName, tuple[Facet, ...]] = {
    "fields": (),
    "cells": ("pixels",),
    "tokens": ("pixels",),
    "whitening": ("pixels", "controls", "plates", "cells", "tokens"),
    "dictionary": (*_OWN["fields"], "cells", "tokens", "whitening"),
}


class Freshness:
    """What decided the run that is shown, and the steps that were run by themselves since."""

    def __init__(self) -> None:
        self._shown: Facets | None = None
        self._done: dict[StepName, Facets] = {}

    def show(self, facets: Facets) -> None:
        """Note what decided the run that is shown now."""
        self._shown = facets
        self._done.clear()

    def finish(self, step: StepName, facets: Facets) -> None:
        """Note what decided a step that was run, while the run that is shown is another."""
        self._done[step] = facets

    def states(self, now: Facets) -> dict[StepName, StepState]:
        """Steps that are not as in the run that is shown, by what would decide a run now.

        They are "changed" where they were decided otherwise, "out of date" where they build on what
        was, and "done" where they were run again since.
        """
        states: dict[StepName, StepState] = {}
        for step, own in _OWN.items():
            done = self._done.get(step)
            before = self._shown if self._shown is not None else done
            if before is None:
                continue
            own_changed = _differ(own, before, now)
            changed = own_changed or _differ(_NEEDED[step], before, now)
            if done is not None and not _differ((*own, *_NEEDED[step]), done, now):
                # Said where it is news: what is shown has it too, or not.
                if changed or self._shown is None:
                    states[step] = "done"
            elif changed:
                states[step] = "changed" if own_changed else "out of date"
        return states


def _differ(facets: tuple[Facet, ...], before: Facets, now: Facets) -> bool:
    return any(before[facet] != now[facet] for facet in facets)
