"""Iterative Codebook Feature Learning: the dictionary whose atoms are the concepts."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from napari_microdl.core.config import Init, Refit, Selection, Update
from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.icfl.base import DictionaryEstimator
from napari_microdl.estimators.icfl.batches import (
    ArrayBatches,
    StreamBatches,
    is_store,
    is_stream,
)
from napari_microdl.estimators.icfl.checkpoint import Checkpoint
from napari_microdl.estimators.icfl.fit import Fit, Stage
from napari_microdl.estimators.icfl.learner import Learner, Processes
from napari_microdl.estimators.icfl.plan import (
    FitRecord,
    Plan,
    default_batch,
    default_size,
    default_sparsity,
    default_steps,
)
from napari_microdl.estimators.pursuit import PursuitOptions
from napari_microdl.estimators.pursuit.coder import Coder

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch.distributed import ProcessGroup

    Samples = ArrayLike | Iterable[ArrayLike]
    # Atoms, what was asked for, and what codes so.
    _CoderOf = tuple[NDArray[np.float32], tuple[PursuitOptions, type, str, bool], Coder]

# What the atoms of a fit are called: of a plain one, and of the two stages of a control-first one.
ANY = "any"
SEEN_IN_CONTROLS = "seen in controls"
ONLY_IN_TREATED = "only in treated"
ATOM_GROUPS = (ANY, SEEN_IN_CONTROLS, ONLY_IN_TREATED)

# Latest samples of a stream, for each atom, that the final solve takes.
_LATEST_SAMPLES_PER_ATOM = 8


class ICFL(DictionaryEstimator):
    """Dictionary learning by Iterative Codebook Feature Learning [1]_.

    A sample is approximated by a bias plus a few atoms, found by batched matching pursuit
    (`napari_microdl.estimators.pursuit.matching_pursuit`); the atoms are learned so that the
    approximation is good. Whiten the samples by their controls first: without, atoms go to what
    every well shows.

    Two updates of the atoms can be chosen. ``update="adam"`` with ``init="linear"`` is the
    published algorithm. ``update="newton"``, the default, comes to the same dictionary in a small
    part of the time (``benchmarks/recovery.py``): atoms begin as random samples and keep unit
    length; the direction of each is its gradient divided by its curvature (the sum of its squared
    coefficients), both as running averages; all of them move by one exact line search; and the
    dictionary that is optimal for the final codes closes the fit.

    A control-first dictionary (``control_atoms``; not in the paper) learns some atoms on controls
    alone, freezes them, and learns the others on what they leave of the treated samples, so that
    every atom is known to be seen in controls or only in treated samples. Take it to ask what
    treated cells show that controls never show; take the plain fit to describe all cells alike.

    Parameters
    ----------
    n_atoms, n_iterations, atoms_per_iteration : int or None
        M, J and L: the number of atoms, and the rounds of a pursuit and the atoms picked in each.
        None takes `default_size` of the samples.
    update : {"newton", "adam"}
        How atoms are learned.
    learning_rate : float
        Rate of "adam"; not used by "newton". The default is the paper's, for 300,000 steps; a short
        fit needs about 3e-3.
    batch_size : int or None
        Samples a step. None takes half as many as there are atoms, between 256 and 8192, for
        "newton" and 8192 for "adam".
    max_steps : int or None
        Number of steps, in each of the two stages of a control-first fit. None takes 10 passes
        through the samples, within 300 to 1,500 steps, for "newton", and 60 passes within 2,000 to
        300,000 steps for "adam"; of an iterable, one pass.
    init : {"data", "linear"}
        First atoms: random samples at unit length, or PyTorch's default for the weights and bias of
        a linear layer, as published.
    selection : {"signed", "absolute"}
        See `matching_pursuit`. "signed" is the printed one.
    refit : {"auto", "block", "full", "final"}
        See `matching_pursuit`. "auto" is "block", as printed, for "adam" and "final" for "newton".
    allow_repeats : bool or "auto"
        Whether an atom may be picked twice for a sample. "auto" allows it, as printed, for "adam"
        and not for "newton".
    positive_code : bool
        Whether codes may not be negative; see `matching_pursuit`.
    control_atoms : int or None
        Atoms of the M that are learned on controls and frozen; None learns all atoms on all
        samples.
    validation_fraction : float or "auto"
        Share of the samples, at most 2,048 and at most one batch, that are never learned from and
        tell how well the dictionary reconstructs what it has not seen. Fewer than 8 are not held
        out. "auto" is 0.05 of 10,000 samples or more or with `early_stopping`, and 0 otherwise: of
        few samples, each is needed. Of an iterable, one batch is held out unless this is 0.
    early_stopping : bool
        Whether to stop once R2 on the held-out samples has not grown by `tol` in
        `n_iter_no_change` measurements in a row, one every 20 steps.
    tol : float
        Growth of R2 that counts.
    n_iter_no_change : int
        Measurements without growth that end the fit.
    transform_algorithm : {"exact", "quantized"}
        How `transform` codes. "quantized" picks by rounded numbers, which is faster the larger the
        dictionary, and solves for the coefficients of the picks without rounding: see
        `matching_pursuit`. The fit is exact either way.
    device : str
        Where to compute, as torch names it: "cpu", or for example "cuda".
    random_state : int, RandomState or None
        Seed. Fits with the same seed on the same machine and number of threads are identical.

    Attributes
    ----------
    components_ : ndarray of float32, shape (n_atoms_, n_features_in_)
        Atoms in rows; of unit length for "newton". Not to be written to.
    bias_ : ndarray of float32, shape (n_features_in_,)
        Bias; zero for "newton", because whitened samples have their origin at the controls.
    dead_ : ndarray of bool, shape (n_atoms_,)
        Atoms active in fewer than 1e-5 of the samples of the last 1,000 steps. Active means a code
        above 0, or with ``selection="absolute"`` a code other than 0.
    groups_ : ndarray of str, shape (n_atoms_,)
        "seen in controls" or "only in treated" of a control-first fit, "any" of a plain one.
    n_atoms_, n_iterations_, atoms_per_iteration_ : int
        M, J and L as used.
    history_ : list of FitRecord
        How the fit went, at most about 1,000 records a stage, of a stream 2,000.
    n_features_in_ : int
        Width of a sample.

    Notes
    -----
    Left open by the paper and chosen here: Adam with its usual constants and a constant rate; atoms
    of any length for "adam"; of two atoms whose cosine is above 0.9, the one that was picked less
    often in the last 100 steps is reset, and its moments with it.

    Arithmetic is in float32; `transform` codes float64 samples in float64, unless it is
    "quantized", and rounds the codes.

    References
    ----------
    .. [1] K. Donhauser et al., "Towards scientific discovery with dictionary learning: Extracting
       biological concepts from microscopy foundation models", ICML 2025, section on Iterative
       Codebook Feature Learning.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(400, 32)).astype(np.float32)
    >>> icfl = ICFL(n_atoms=64, n_iterations=2, atoms_per_iteration=3, random_state=0).fit(x)
    >>> icfl.transform(x).shape
    (400, 64)
    """

    dead_: NDArray[np.bool_]
    groups_: NDArray[np.str_]
    history_: list[FitRecord]
    n_iterations_: int
    atoms_per_iteration_: int
    _learner: Learner | None
    _noun = "dictionary"
    _last_coder: list[_CoderOf]

    def __init__(
        self,
        n_atoms: int | None = None,
        n_iterations: int | None = None,
        atoms_per_iteration: int | None = None,
        *,
        update: Update = "newton",
        learning_rate: float = 5e-5,
        batch_size: int | None = None,
        max_steps: int | None = None,
        init: Init = "data",
        selection: Selection = "signed",
        refit: Refit | Literal["auto"] = "auto",
        allow_repeats: bool | Literal["auto"] = "auto",
        positive_code: bool = False,
        control_atoms: int | None = None,
        validation_fraction: float | Literal["auto"] = "auto",
        early_stopping: bool = False,
        tol: float = 1e-3,
        n_iter_no_change: int = 5,
        transform_algorithm: Literal["exact", "quantized"] = "exact",
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_atoms = n_atoms
        self.n_iterations = n_iterations
        self.atoms_per_iteration = atoms_per_iteration
        self.update = update
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_steps = max_steps
        self.init = init
        self.selection = selection
        self.refit = refit
        self.allow_repeats = allow_repeats
        self.positive_code = positive_code
        self.control_atoms = control_atoms
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.transform_algorithm = transform_algorithm
        self.device = device
        self.random_state = random_state

    @classmethod
    def from_arrays(
        cls,
        components: ArrayLike,
        bias: ArrayLike | None = None,
        *,
        n_iterations: int,
        atoms_per_iteration: int,
        dead: ArrayLike | None = None,
        groups: ArrayLike | None = None,
        **parameters: Any,
    ) -> Self:
        """Rebuild a fitted dictionary from its stored attributes.

        The result codes exactly as the original did, and `partial_fit` goes on from its atoms.

        Parameters
        ----------
        components : array-like of shape (n_atoms, n_features)
            `components_`.
        bias : array-like of shape (n_features,) or None
            `bias_`; None is zero.
        n_iterations, atoms_per_iteration : int
            `n_iterations_` and `atoms_per_iteration_`.
        dead : array-like of bool, shape (n_atoms,), or None
            `dead_`; None is no dead atom.
        groups : array-like of str, shape (n_atoms,), or None
            `groups_`; None is "any".
        **parameters
            Further parameters of `ICFL`; of these `update`, `selection`, `refit`, `allow_repeats`
            and `positive_code` bear on the codes.

        Returns
        -------
        ICFL
            Fitted.

        Raises
        ------
        MicrodlError
            If the shapes do not belong together or a value is not finite.
        """
        w = np.array(components, dtype=np.float32, order="C")
        width = w.shape[-1] if w.ndim == 2 else 0
        b = np.zeros(width, np.float32) if bias is None else np.array(bias, dtype=np.float32)
        gone = np.zeros(len(w), bool) if dead is None else np.array(dead, dtype=bool)
        kinds = np.full(len(w), ANY) if groups is None else np.array(groups, dtype=np.str_)
        shapes = (w.shape, b.shape, gone.shape, kinds.shape)
        if not width or not len(w) or shapes[1:] != ((width,), (len(w),), (len(w),)):
            raise MicrodlError(
                f"The stored dictionary is damaged: atoms, bias, dead atoms and groups have the "
                f"shapes {', '.join(map(str, shapes))}, which do not belong together; load "
                "another file."
            )
        if not (np.isfinite(w).all() and np.isfinite(b).all()):
            raise MicrodlError(
                "The stored dictionary is damaged: it holds NaN or infinity; load another file."
            )
        unknown = sorted(set(kinds.tolist()) - set(ATOM_GROUPS))
        if unknown:
            raise MicrodlError(
                f"The stored dictionary is damaged: it has atoms of the group {unknown[0]!r}; load "
                "another file."
            )
        icfl = cls(len(w), n_iterations, atoms_per_iteration, **parameters)
        plan = icfl._plan(len(w), len(w), width)
        icfl.n_features_in_ = width
        icfl._publish(plan, w, b, gone, kinds, [])
        return icfl

    def fit(
        self,
        X: Samples,
        y: None = None,
        *,
        controls: Samples | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_minutes: float = 5.0,
        resume: bool = False,
        process_group: ProcessGroup | None = None,
    ) -> Self:
        """Learn a dictionary.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), or iterable of such arrays
            Samples, at least two; whitened ones in the published method. A memory map, a zarr or a
            dask array is read piece by piece. An iterable of batches (a generator, a loader) is
            taken in its order, so shuffle it; one that can be iterated over again is, if
            `max_steps` needs more. Its first samples are held out, and the latest eight an atom are
            kept for the final solve; `n_atoms` must be given.
        y : None
            Not used; present for scikit-learn.
        controls : array of bool, shape (n_samples,), or samples
            For a control-first fit: which samples are controls; or, in any of the forms of X, the
            control samples themselves, X being the treated ones.
        checkpoint : str or Path, optional
            File to keep the state of the fit in, as safetensors. It is written every
            `checkpoint_minutes`, when a fit is cancelled or meets a bad sample, and at the end.
        checkpoint_minutes : float
            Time between two checkpoints.
        resume : bool
            Whether to go on from the checkpoint, where there is one. With the same samples, seed,
            machine and number of threads, the result is that of a fit that was not interrupted.
        process_group : torch.distributed.ProcessGroup, optional
            Processes that share the fit, for example ``torch.distributed.group.WORLD``. Every
            process calls `fit` with the same samples (a memory map of the same file) and the same
            integer `random_state`, codes its share of each batch, and ends with the same atoms.

        Returns
        -------
        ICFL
            Itself.

        Raises
        ------
        MicrodlError
            If there are fewer than two samples, a value is not finite, a parameter is wrong or a
            checkpoint is of another fit. The estimator is as it was before.

        Warns
        -----
        FewSamplesWarning
            If there are fewer samples than atoms.
        """
        records = self.fit_iter(
            X,
            controls=controls,
            checkpoint=checkpoint,
            checkpoint_minutes=checkpoint_minutes,
            resume=resume,
            process_group=process_group,
        )
        self._take_all(records)
        return self

    def fit_iter(
        self,
        X: Samples,
        *,
        controls: Samples | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_minutes: float = 5.0,
        resume: bool = False,
        process_group: ProcessGroup | None = None,
    ) -> Generator[FitRecord, None, None]:
        """Learn a dictionary step by step.

        The estimator changes once, after the last record was taken: to cancel, stop iterating, and
        it is as it was before. Input and parameters are checked at once, before the first record is
        asked for; samples in files and streams as they are read. The final solve, before the last
        record, takes seconds; cancelling the current task ends it, too.

        Parameters
        ----------
        X, controls, checkpoint, checkpoint_minutes, resume, process_group
            As for `fit`.

        Returns
        -------
        iterator of FitRecord
            One record a step, one between the two stages of a control-first fit, and one at the
            end.

        Raises
        ------
        MicrodlError
            As `fit`.
        """
        stored = None
        if checkpoint is not None:
            stored = Checkpoint(checkpoint, checkpoint_minutes, resume=resume)
        if self.random_state is None and stored is not None and stored.seed is not None:
            seed = stored.seed
        else:
            seed = self._seed()
        stages = self._stages(X, controls, seed)
        fit = Fit(stages, seed, Processes(process_group, self.device), stored)
        return self._run(X, fit)

    def _check_single_batches(self) -> None:
        if self.control_atoms is not None:
            raise MicrodlError(
                "partial_fit learns all atoms on all samples: use fit for a control-first "
                "dictionary, or set control_atoms to None."
            )

    def _next_learner(self, x: NDArray[np.float32], *, first: bool) -> Learner:
        seed = self._seed()
        n_samples, width = x.shape
        if first:
            n_atoms = self.n_atoms or default_size(n_samples, width)[0]
            plan = self._plan(n_atoms, n_atoms, width, n_samples)
            stage = Stage(ANY, plan, ArrayBatches(x, seed))
            return Fit([stage], seed, Processes()).learner
        sizes = (self.n_iterations_, self.atoms_per_iteration_)
        plan = self._plan(self.n_atoms_, self.n_atoms_, width, n_samples, sizes)
        return Learner.resume(
            plan, self.components_, self.bias_, self.dead_, np.random.RandomState(seed)
        )

    def _publish_learner(self, learner: Learner, history: list[FitRecord]) -> None:
        groups = getattr(self, "groups_", np.full(learner.plan.n_atoms, ANY))
        components, bias = learner.arrays()
        self._publish(learner.plan, components, bias, learner.dead(), groups, history)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "_last_coder" in state:
            # Made anew from the atoms, and large.
            state["_last_coder"] = []
        return state

    def _coding_dtype(self, dtype: np.dtype[Any]) -> type[np.floating[Any]]:
        quantized = self.transform_algorithm == "quantized"
        return np.float32 if quantized else super()._coding_dtype(dtype)

    def _coder(self, dtype: type[np.floating[Any]]) -> Coder:
        """What codes in the atoms, kept with its Gram matrix for the next samples."""
        import torch

        if self.transform_algorithm not in ("exact", "quantized"):
            raise MicrodlError(
                f"transform_algorithm is {self.transform_algorithm!r} but must be 'exact' or "
                "'quantized'."
            )
        quantized = self.transform_algorithm == "quantized"
        options = self._coding(self.n_iterations_, self.atoms_per_iteration_)
        asked = (options, dtype, self.device, quantized)
        for atoms, what, coder in self._last_coder:
            if atoms is self.components_ and what == asked:
                return coder
        tensor = torch.tensor(self.components_.astype(dtype), device=self.device)
        coder = Coder(tensor, options, method="quantized" if quantized else "auto")
        self._last_coder[:] = [(self.components_, asked, coder)]
        return coder

    def _coding(self, n_iterations: int, per_iteration: int) -> PursuitOptions:
        """How samples are coded, with "auto" decided."""
        printed = self.update == "adam"
        return PursuitOptions(
            n_iterations,
            per_iteration,
            self.selection,
            ("block" if printed else "final") if self.refit == "auto" else self.refit,
            printed if self.allow_repeats == "auto" else self.allow_repeats,
            self.positive_code,
        )

    def _stages(self, X: Samples, controls: Samples | None, seed: int) -> list[Stage]:
        """What to learn from which samples."""
        if (controls is None) != (self.control_atoms is None):
            raise MicrodlError(
                "A control-first fit needs both control_atoms and controls: pass "
                "fit(X, controls=...) to an ICFL(control_atoms=...), or neither."
            )
        self._check()
        if controls is None:
            return [self._stage(ANY, X, seed)]
        is_control = controls if isinstance(controls, np.ndarray) else None
        if is_control is None and isinstance(controls, (list, tuple)) and not is_stream(controls):
            is_control = np.asarray(controls)
        if is_control is None or is_control.ndim != 1:
            first = self._stage(SEEN_IN_CONTROLS, controls, seed)
            second = self._stage(ONLY_IN_TREATED, X, seed, before=first.plan)
            if first.batches.width != second.batches.width:
                raise MicrodlError(
                    f"Controls have {first.batches.width} features but treated samples "
                    f"{second.batches.width}: prepare both in the same way."
                )
            return [first, second]
        if is_stream(X):
            raise MicrodlError(
                "An iterable cannot be divided by marks: pass the control samples themselves as "
                "controls, and an iterable of treated samples."
            )
        x = self._matrix(X)
        n_samples = int(x.shape[0])
        if is_control.dtype != bool or len(is_control) != n_samples:
            raise MicrodlError(
                f"controls has {len(is_control)} entries of type {is_control.dtype} but must have "
                f"one bool for each of the {n_samples} samples."
            )
        if is_control.all() or not is_control.any():
            raise MicrodlError(
                f"{is_control.sum()} of {n_samples} samples are controls: a control-first fit "
                "needs controls and treated samples."
            )
        rows = np.flatnonzero(is_control)
        first = self._array_stage(SEEN_IN_CONTROLS, x, seed, rows)
        rows = np.flatnonzero(~is_control)
        return [first, self._array_stage(ONLY_IN_TREATED, x, seed, rows, first.plan)]

    def _stage(self, group: str, X: Samples, seed: int, before: Plan | None = None) -> Stage:
        if is_stream(X):
            return self._stream_stage(group, X, before)
        return self._array_stage(group, self._matrix(X), seed, before=before)

    def _array_stage(
        self,
        group: str,
        x: Any,
        seed: int,
        rows: NDArray[np.intp] | None = None,
        before: Plan | None = None,
    ) -> Stage:
        n_rows, width = (int(size) for size in x.shape)
        n_samples = n_rows if rows is None else len(rows)
        self._require_two(n_samples)
        n_all, n_new = self._sizes(n_rows, width, before)
        plan = self._plan(n_all, n_new, width, n_samples)
        batches = ArrayBatches(
            x,
            seed,
            rows=rows,
            n_held_out=self._n_held_out(n_samples, plan.batch_size),
            in_memory=not is_store(x),
        )
        return Stage(group, plan, batches)

    def _stream_stage(self, group: str, X: Any, before: Plan | None) -> Stage:
        self._require_n_atoms()
        n_all, n_new = self._sizes(0, 0, before)
        # The width is known with the first batch only, and bears on the sparsity alone.
        batch_size = self.batch_size or default_batch(self.update, n_new)
        batches = StreamBatches(
            X,
            n_latest=max(_LATEST_SAMPLES_PER_ATOM * n_all, batch_size),
            n_held_out=self._n_held_out_of_stream(batch_size),
            once=self.max_steps is None,
        )
        return Stage(group, self._plan(n_all, n_new, batches.width, None), batches)

    def _sizes(self, n_samples: int, width: int, before: Plan | None) -> tuple[int, int]:
        """Atoms at the end of a stage, and those among them that it learns."""
        n_atoms = self.n_atoms or default_size(n_samples, width)[0]
        if self.control_atoms is None:
            return n_atoms, n_atoms
        if not 0 < self.control_atoms < n_atoms:
            raise MicrodlError(
                f"control_atoms is {self.control_atoms} but must be at least 1 and leave some of "
                f"the {n_atoms} atoms for treated samples."
            )
        if before is None:
            return self.control_atoms, self.control_atoms
        return n_atoms, n_atoms - self.control_atoms

    def _check(self) -> None:
        """Refuse parameters that mean nothing."""
        if self.update not in ("newton", "adam"):
            raise MicrodlError(f"update is {self.update!r} but must be 'newton' or 'adam'.")
        if self.init not in ("data", "linear"):
            raise MicrodlError(f"init is {self.init!r} but must be 'data' or 'linear'.")
        self._check_counts("n_atoms", "batch_size", "max_steps")
        if self.allow_repeats not in (True, False, "auto"):
            raise MicrodlError(
                f"allow_repeats is {self.allow_repeats!r} but must be True, False or 'auto'."
            )
        if not self.learning_rate > 0:
            raise MicrodlError(f"learning_rate is {self.learning_rate} but must be above 0.")
        self._check_stopping()

    def _plan(
        self,
        n_atoms: int,
        n_new: int,
        width: int,
        n_samples: int | None = None,
        sparsity: tuple[int, int] | None = None,
    ) -> Plan:
        """Parameters with every default filled in, checked; J and L are given where decided."""
        self._check()
        if sparsity is None:
            # Sparsity follows the atoms in use, not those that would have been the default.
            n_iterations, per_iteration = default_sparsity(self.n_atoms or n_atoms, width)
            if self.n_iterations is not None:
                n_iterations = self.n_iterations
            if self.atoms_per_iteration is not None:
                per_iteration = self.atoms_per_iteration
        else:
            n_iterations, per_iteration = sparsity
        batch_size = self.batch_size or default_batch(self.update, n_new)
        steps = self.max_steps
        if steps is None and n_samples is not None:
            steps = default_steps(self.update, n_samples, batch_size)
        return Plan(
            n_atoms=n_atoms,
            coding=self._coding(n_iterations, per_iteration),
            update=self.update,
            learning_rate=self.learning_rate,
            batch_size=batch_size,
            max_steps=steps,
            init=self.init,
            early_stopping=self.early_stopping,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            device=self.device,
        )

    def _run(self, X: Samples, fit: Fit) -> Generator[FitRecord, None, None]:
        yield from fit.records()
        self._take_form(X, fit.learner.atoms.shape[1])
        learner = fit.learner
        components, bias = learner.arrays()
        self._publish(learner.plan, components, bias, fit.dead(), fit.groups(), fit.history)
        self._learner = None

    def _publish(
        self,
        plan: Plan,
        components: NDArray[np.float32],
        bias: NDArray[np.float32],
        dead: NDArray[np.bool_],
        groups: NDArray[np.str_],
        history: list[FitRecord],
    ) -> None:
        # What is kept for coding is made from the atoms once.
        components.flags.writeable = False
        self.n_atoms_ = plan.n_atoms
        self.n_iterations_ = plan.coding.n_iterations
        self.atoms_per_iteration_ = plan.coding.atoms_per_iteration
        self.components_ = components
        self.bias_ = bias
        self.dead_ = dead
        self.groups_ = groups
        self.history_ = history
        # A list, because a transform is not to change an attribute.
        self._last_coder = []
