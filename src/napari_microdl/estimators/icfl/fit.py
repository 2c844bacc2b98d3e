"""A whole fit: steps, checkpoints, held-out samples, the final solve."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import refusing
from napari_microdl.core.task import current_task
from napari_microdl.estimators.icfl.batches import Batches, EndOfSamplesError
from napari_microdl.estimators.icfl.checkpoint import Checkpoint, State
from napari_microdl.estimators.icfl.learner import Learner, Processes, directions
from napari_microdl.estimators.icfl.plan import FewSamplesWarning, FitRecord, Plan

# The last redraw comes early enough for a redrawn atom to settle.
_SETTLING_STEPS = 50
_SCORE_EVERY = 20
# Samples in the final solve, which has n_atoms unknowns for each dimension.
SOLVE_SAMPLES_PER_ATOM = 16
_FEWEST_SOLVE_SAMPLES = 8192
# Of these, samples that one process codes between two chances to cancel.
_SOLVE_ROWS = 2048
HISTORY_LENGTH = 1000
# See the table of control-first fits in docs/engine.md: with 5.2 it found more than a plain fit,
# with 2.6 less.
_LEAST_CONTROLS_PER_ATOM = 5


@dataclass(frozen=True)
class Stage:
    """Atoms that are learned together.

    Parameters
    ----------
    group : str
        What their atoms are called.
    plan : Plan
        Settings; its number of atoms counts those of earlier stages too.
    batches : Batches
        What they are learned from.
    """

    group: str
    plan: Plan
    batches: Batches


def _set_aside(
    pieces: Iterable[NDArray[np.float32]], every: int, aside: list[NDArray[np.float32]]
) -> Iterator[NDArray[np.float32]]:
    """Pass pieces on, and copy one of so many of their samples."""
    begin = 0
    for piece in pieces:
        current_task().check()
        # Where the next of these samples lies in this piece.
        aside.append(piece[-begin % every :: every].copy())
        begin += len(piece)
        yield piece


class Fit:
    """One run through all stages.

    Parameters
    ----------
    stages : sequence of Stage
        In their order; atoms of earlier stages are frozen in later ones.
    seed : int
        Of all draws.
    processes : Processes
        Who shares the fit.
    checkpoint : Checkpoint or None
        Where to keep the state.
    history_length : int
        About as many records are remembered of a stage, of a stream twice as many.
    solve_samples_per_atom : int
        Samples in the final solve, for each atom.

    Attributes
    ----------
    learner : Learner
        The atoms.
    history : list of FitRecord
        Some of the records, evenly spaced.

    Raises
    ------
    MicrodlError
        If the checkpoint is of another fit, or there are more processes than samples in a batch.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        seed: int,
        processes: Processes,
        checkpoint: Checkpoint | None = None,
        *,
        history_length: int = HISTORY_LENGTH,
        solve_samples_per_atom: int = SOLVE_SAMPLES_PER_ATOM,
    ) -> None:
        self._stages = stages
        self._seed = seed
        self._processes = processes
        self._checkpoint = checkpoint
        self._history_length = history_length
        self._solve_samples_per_atom = solve_samples_per_atom
        self.history: list[FitRecord] = []
        self._number = 0
        self._finished = False
        self._record_every = 1
        self._best_r2 = -np.inf
        self._scores_since_best = 0
        self._dead_before = np.ones(0, dtype=bool)
        self._require_shares()
        state = checkpoint.begin(self._identity()) if checkpoint is not None else None
        if state is None:
            self.learner = self._begin()
        else:
            with refusing(
                "The parts of the checkpoint do not fit together ({reason}): delete it to begin "
                "anew."
            ):
                self._restore(state)

    @property
    def total_steps(self) -> int | None:
        """Steps of all stages, None where that is not known."""
        before = self.learner.steps_before
        later = [stage.plan.max_steps for stage in self._stages[self._number :]]
        known = [steps for steps in later if steps is not None]
        return before + sum(known) if len(known) == len(later) else None

    def dead(self) -> NDArray[np.bool_]:
        """Atoms hardly ever active in the samples that they were learned from and in later ones."""
        dead = self.learner.dead()
        dead[: len(self._dead_before)] &= self._dead_before
        return dead

    def groups(self) -> NDArray[np.str_]:
        """Group of each atom, by the names of the stages."""
        sizes = np.diff([0, *(stage.plan.n_atoms for stage in self._stages)])
        return np.repeat([stage.group for stage in self._stages], sizes)

    def records(self) -> Generator[FitRecord, None, None]:
        """Learn, step by step.

        Yields
        ------
        FitRecord
            One a step, one after a stage that others follow, and one at the end.

        Raises
        ------
        MicrodlError
            If a sample read on the way cannot be used. What was learned so far is in the
            checkpoint.
        """
        if self._finished:
            yield self.history[-1]
            return
        while True:
            stage = self._stages[self._number]
            yield from self._steps(stage)
            self._end(stage)
            if self._number + 1 == len(self._stages):
                break
            yield self.history[-1]
            self._dead_before = self.dead()
            before = self.learner
            self._number += 1
            self._best_r2, self._scores_since_best = -np.inf, 0
            self.learner = self._begin(before)
        self._finished = True
        self._save()
        yield self.history[-1]

    def _steps(self, stage: Stage) -> Iterator[FitRecord]:
        plan, learner = stage.plan, self.learner
        last = np.inf if plan.max_steps is None else plan.max_steps
        stage.batches.skip_to(learner.steps, plan.batch_size)
        while learner.steps < last and not self._plateau(plan):
            try:
                batch = stage.batches.batch(learner.steps, plan.batch_size)
            except EndOfSamplesError:
                break
            except Exception:
                # A bad sample, or a drive that cannot be read for now.
                if learner.steps:
                    self._save()
                raise
            learner.step(
                np.ascontiguousarray(batch[self._processes.share]),
                may_redraw=learner.steps < last - _SETTLING_STEPS,
            )
            if learner.steps % _SCORE_EVERY == 0:
                self._score(stage)
            record = learner.record(self.total_steps)
            if (learner.steps - 1) % self._record_every == 0:
                self._remember(record)
            if self._checkpoint is not None and self._checkpoint.due:
                self._save()
            try:
                yield record
            except GeneratorExit:
                # Who stops iterating here can go on later.
                self._save()
                raise
        self._save()

    def _end(self, stage: Stage) -> None:
        """Solve for the atoms where the update does, and score the fit."""
        from napari_microdl.estimators.icfl.final_solve import solve_atoms

        plan, learner = stage.plan, self.learner
        wanted = max(self._solve_samples_per_atom * plan.n_atoms, _FEWEST_SOLVE_SAMPLES)
        n_samples = stage.batches.n_drawn(wanted)
        if n_samples:
            # A batch from all over the samples is set aside to score the fit by.
            few: list[NDArray[np.float32]] = []
            drawn = stage.batches.drawn(wanted, _SOLVE_ROWS * self._processes.count)
            pieces = _set_aside(drawn, -(-n_samples // plan.batch_size), few)
            if plan.update == "newton":
                solve_atoms(learner, pieces, n_samples)
            else:
                for _ in pieces:
                    pass
            learner.r2 = learner.score(np.concatenate(few))
        if len(stage.batches.held_out):
            learner.held_out_r2 = learner.score(stage.batches.held_out)
        self._remember(learner.record(self.total_steps))

    def _begin(self, before: Learner | None = None) -> Learner:
        """Draw the first atoms of a stage."""
        stage = self._stages[self._number]
        plan, batches = stage.plan, stage.batches
        self._record_every = max(1, -(-(plan.max_steps or 0) // self._history_length))
        # Each stage has its own numbers, so that they do not depend on the draws of earlier ones.
        rng = np.random.RandomState([self._seed, self._number])
        n_new = plan.n_atoms - (before.plan.n_atoms if before is not None else 0)
        if batches.n_samples is not None and batches.n_samples < n_new:
            current_task().note(
                f"There are {batches.n_samples} samples for {n_new} atoms, so that atoms may hold "
                "single samples; use more samples or fewer atoms.",
                FewSamplesWarning,
            )
        elif (
            len(self._stages) > 1
            and before is None
            and batches.n_samples is not None
            and batches.n_samples < _LEAST_CONTROLS_PER_ATOM * n_new
        ):
            current_task().note(
                f"There are {batches.n_samples} controls for {n_new} control atoms: with fewer "
                f"than {_LEAST_CONTROLS_PER_ATOM} each, a control-first dictionary can find less "
                "than a plain one; use more controls or fewer control atoms.",
                FewSamplesWarning,
            )
        bias = np.zeros(batches.width, np.float32) if before is None else before.arrays()[1]
        if plan.init == "linear":
            # torch.nn.Linear(n_atoms, width): weights and bias uniform within 1/sqrt(n_atoms).
            bound = n_new**-0.5
            atoms = rng.uniform(-bound, bound, (n_new, batches.width)).astype(np.float32)
            if plan.update == "adam" and before is None:
                bias = rng.uniform(-bound, bound, batches.width).astype(np.float32)
        else:
            atoms = directions(rng, n_new, batches.width)
            drawn = batches.first(n_new)
            if before is not None:
                drawn = before.residual(drawn)
            norm = np.linalg.norm(drawn, axis=1, keepdims=True)
            # Where samples are too few or zero, the random directions stay.
            np.divide(drawn, norm, out=atoms[: len(drawn)], where=norm > 0)
        if plan.update == "newton":
            atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
        if before is None:
            return Learner(plan, atoms, bias, rng, self._processes)
        frozen = before.arrays()[0]
        learner = Learner(
            plan,
            np.concatenate([frozen, atoms]),
            bias,
            rng,
            self._processes,
            n_frozen=len(frozen),
        )
        learner.steps_before = before.steps_before + before.steps
        for name in ("n_samples", "resets", "seconds"):
            setattr(learner, name, getattr(before, name))
        return learner

    def _score(self, stage: Stage) -> None:
        if not len(stage.batches.held_out):
            return
        score = self.learner.score(stage.batches.held_out)
        self.learner.held_out_r2 = score
        if score > self._best_r2 + stage.plan.tol:
            self._best_r2, self._scores_since_best = score, 0
        else:
            self._scores_since_best += 1

    def _plateau(self, plan: Plan) -> bool:
        return plan.early_stopping and self._scores_since_best >= plan.n_iter_no_change

    def _remember(self, record: FitRecord) -> None:
        self.history.append(record)
        if len(self.history) <= 2 * self._history_length:
            return
        # Of a stream without end, every other record goes whenever there are too many.
        begun = sum(earlier.step <= self.learner.steps_before for earlier in self.history)
        if len(self.history) - begun > 2 * self._history_length:
            self.history[begun:] = self.history[begun::2]
            self._record_every *= 2

    def _require_shares(self) -> None:
        for stage in self._stages:
            size = min(stage.plan.batch_size, stage.batches.n_samples or stage.plan.batch_size)
            if size < self._processes.count:
                raise MicrodlError(
                    f"A batch of {size} samples cannot be shared by {self._processes.count} "
                    "processes: set a larger batch_size or use fewer processes."
                )

    def _identity(self) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "settings": [dataclasses.asdict(stage.plan) for stage in self._stages],
            "samples": [stage.batches.fingerprint() for stage in self._stages],
        }

    def _save(self) -> None:
        if self._checkpoint is None or self._processes.rank != 0:
            return
        arrays, numbers = self.learner.state()
        numbers |= {
            "stage": self._number,
            "finished": self._finished,
            "keep_every": self._record_every,
            "best_r2": self._best_r2 if np.isfinite(self._best_r2) else None,
            "scores_since_best": self._scores_since_best,
            "history": [dataclasses.astuple(record) for record in self.history],
        }
        self._checkpoint.save(State({**arrays, "dead_before": self._dead_before}, numbers))

    def _restore(self, state: State) -> None:
        numbers = state.numbers
        self._number = numbers["stage"]
        self._finished = numbers["finished"]
        self._record_every = numbers["keep_every"]
        self._best_r2 = -np.inf if numbers["best_r2"] is None else numbers["best_r2"]
        self._scores_since_best = numbers["scores_since_best"]
        self.history = [FitRecord(*record) for record in numbers["history"]]
        self._dead_before = state.arrays["dead_before"]
        stage = self._stages[self._number]
        self.learner = Learner(
            stage.plan,
            np.zeros((stage.plan.n_atoms, stage.batches.width), np.float32),
            np.zeros(stage.batches.width, np.float32),
            np.random.RandomState(0),
            self._processes,
            n_frozen=len(self._dead_before),
        )
        for name, expected in self.learner.state()[0].items():
            if state.arrays[name].shape != expected.shape:
                raise ValueError(f"{name} of shape {state.arrays[name].shape}")
        self.learner.restore(state.arrays, numbers)
