"""Iterative Codebook Feature Learning: the dictionary whose atoms are the concepts."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from napari_microdl.errors import MicrodlError
from napari_microdl.pursuit import (
    Refit,
    Selection,
    check_pursuit,
    chunk_rows,
    codes_to_csr,
    matching_pursuit,
    pursue,
    weighted_rows,
)
from napari_microdl.whitening import require_finite

if TYPE_CHECKING:
    import torch

Update = Literal["newton", "adam"]
Init = Literal["data", "linear"]

_RESET_EVERY = 100
_RESET_COSINE = 0.9
# An atom is dead if it is active in a smaller share of the samples of the last 1,000 steps.
_DEAD_SHARE = 1e-5
_DEAD_WINDOW = 1000
# Share of the old value in the running averages of the newton update.
_MEMORY = 0.8
_STEP_RANGE = (0.02, 1.0)
# The last redraw comes early enough for a redrawn atom to settle.
_SETTLING_STEPS = 50
# Samples in the closing solve, which has n_atoms unknowns for each dimension.
_SOLVE_SAMPLES_PER_ATOM = 50
# Pull of the closing solve towards the atoms as they were, relative to the mean sum of z^2.
_SOLVE_RIDGE = 1e-3
_HISTORY_LENGTH = 1000
# Samples coded, and atoms compared, between two chances to cancel or to free memory.
_SOLVE_ROWS = 2048
_PAIR_ROWS = 1024


class FewSamplesWarning(UserWarning):
    """There are fewer samples than atoms."""


@dataclass(frozen=True)
class FitRecord:
    """Where a fit stands.

    Parameters
    ----------
    step : int
        Steps done.
    total_steps : int
        Steps in all; for `ICFL.partial_fit`, the steps done so far.
    n_samples : int
        Samples seen so far, repeated ones counted again.
    r2 : float
        Share of the energy of x - bias that the codes reconstruct, over the samples of this step;
        in the last record of a fit, over samples drawn from all.
    dead_atoms : int
        Atoms active in fewer than 1e-5 of the samples of the last 1,000 steps.
    resets : int
        Atoms drawn anew so far.
    seconds : float
        Time spent so far.
    """

    step: int
    total_steps: int
    n_samples: int
    r2: float
    dead_atoms: int
    resets: int
    seconds: float


def default_size(n_samples: int, n_features: int) -> tuple[int, int, int]:
    """Size of the dictionary and sparsity of the codes that suit a number of samples.

    About 24 samples an atom, as a power of two between 16 and 8192, and never more atoms than
    samples: with fewer samples an atom, atoms of whitened cells fitted noise. Codes have at most 20
    non-zeros in four iterations of five, fewer where the dictionary has under 160 atoms or the
    samples under 80 dimensions, so that a code stays sparse against both.

    Parameters
    ----------
    n_samples : int
        Number of samples to learn from.
    n_features : int
        Width of a sample.

    Returns
    -------
    n_atoms, n_iterations, atoms_per_iteration : int
        M, J and L.

    Examples
    --------
    >>> default_size(5_000, 192)
    (256, 4, 5)
    >>> default_size(40_000_000, 1024)
    (8192, 4, 5)
    """
    exponent = round(float(np.log2(max(n_samples, 1) / 24)))
    n_atoms = min(int(np.clip(2.0**exponent, 16, 8192)), max(n_samples, 1))
    return n_atoms, *_default_sparsity(n_atoms, n_features)


def _default_sparsity(n_atoms: int, n_features: int) -> tuple[int, int]:
    n_picks = max(1, min(20, n_atoms // 8, n_features // 4))
    # Few picks are better made two at a time than one by one.
    n_iterations = min(4 if n_picks > 4 else 2, n_picks)
    return n_iterations, n_picks // n_iterations


class ICFL(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Dictionary learning by Iterative Codebook Feature Learning [1]_.

    A sample is approximated by a bias plus a few atoms, found by batched matching pursuit
    (`napari_microdl.pursuit.matching_pursuit`); the atoms are learned so that the approximation is
    good. Whiten the samples by their controls first: without, atoms go to what every well shows.

    Two updates of the atoms can be chosen. ``update="adam"`` with ``init="linear"`` is the
    published algorithm. ``update="newton"``, the default, needs 20 to 40 times less computation for
    the same dictionary: atoms begin as random samples and keep unit length; the direction of each
    is its gradient divided by its curvature (the sum of its squared coefficients), both as running
    averages; all of them move by one exact line search; and the dictionary that is optimal for the
    final codes closes the fit.

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
        Samples a step. None takes between 256 and 8192, as many as there are atoms, for "newton"
        and 8192 for "adam".
    max_steps : int or None
        Number of steps. None takes 10 passes through the samples, within 300 to 1,500 steps, for
        "newton", and 60 passes within 2,000 to 300,000 steps for "adam".
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
    random_state : int, RandomState or None
        Seed. Fits with the same seed on the same machine and number of threads are identical.

    Attributes
    ----------
    components_ : ndarray of float32, shape (n_atoms_, n_features_in_)
        Atoms in rows; of unit length for "newton".
    bias_ : ndarray of float32, shape (n_features_in_,)
        Bias; zero for "newton", because whitened samples have their origin at the controls.
    dead_ : ndarray of bool, shape (n_atoms_,)
        Atoms active in fewer than 1e-5 of the samples of the last 1,000 steps. Active means a code
        above 0, or with ``selection="absolute"`` a code other than 0.
    n_atoms_, n_iterations_, atoms_per_iteration_ : int
        M, J and L as used.
    history_ : list of FitRecord
        How the fit went, at most about 1,000 records.
    n_features_in_ : int
        Width of a sample.

    Notes
    -----
    Left open by the paper and chosen here: Adam with its usual constants and a constant rate; atoms
    of any length for "adam"; of two atoms whose cosine is above 0.9, the one that was picked less
    often in the last 100 steps is reset, and its moments with it.

    Arithmetic is in float32; `transform` codes float64 samples in float64 and rounds the codes.

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

    components_: NDArray[np.float32]
    bias_: NDArray[np.float32]
    dead_: NDArray[np.bool_]
    history_: list[FitRecord]
    n_atoms_: int
    n_iterations_: int
    atoms_per_iteration_: int
    n_features_in_: int
    _learner: _Learner | None

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
        **parameters
            Further parameters of `ICFL`; of these `update`, `selection`, `refit` and
            `allow_repeats` bear on the codes.

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
        if not width or not len(w) or b.shape != (width,) or gone.shape != (len(w),):
            raise MicrodlError(
                f"The stored dictionary is damaged: atoms, bias and dead atoms have the shapes "
                f"{w.shape}, {b.shape} and {gone.shape}, which do not belong together; load "
                "another file."
            )
        if not (np.isfinite(w).all() and np.isfinite(b).all()):
            raise MicrodlError(
                "The stored dictionary is damaged: it holds NaN or infinity; load another file."
            )
        icfl = cls(len(w), n_iterations, atoms_per_iteration, **parameters)
        plan = icfl._plan(len(w), width)
        icfl.n_features_in_ = width
        icfl._publish(plan, w, b, gone, [])
        return icfl

    def fit(self, X: ArrayLike, y: None = None) -> Self:
        """Learn a dictionary.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, at least two; whitened ones in the published method.
        y : None
            Not used; present for scikit-learn.

        Returns
        -------
        ICFL
            Itself.

        Raises
        ------
        MicrodlError
            If there are fewer than two samples, a value is not finite or a parameter is wrong.

        Warns
        -----
        FewSamplesWarning
            If there are fewer samples than atoms.
        """
        for _ in self.fit_iter(X):
            pass
        return self

    def fit_iter(self, X: ArrayLike) -> Iterator[FitRecord]:
        """Learn a dictionary step by step.

        The estimator changes once, after the last record was taken: to cancel, stop iterating, and
        it is as it was before. Input and parameters are checked at once, before the first record is
        asked for.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, at least two.

        Returns
        -------
        iterator of FitRecord
            One record a step; during the closing solve of "newton" the last step's again.

        Raises
        ------
        MicrodlError
            As `fit`.
        """
        x: NDArray[np.float32] = check_array(
            X, dtype=np.float32, ensure_all_finite=False, order="C", estimator=self
        )
        require_finite(x)
        if len(x) < 2:
            raise MicrodlError(
                f"A dictionary needs at least 2 samples but got n_samples = {len(x)}: add more."
            )
        plan = self._plan(*x.shape)
        return self._steps(X, x, plan)

    def partial_fit(self, X: ArrayLike, y: None = None) -> Self:
        """Learn from one batch more.

        The samples are gone through once, in the order given, `batch_size` at a time. The closing
        solve is left out. The first call decides the number of atoms where `n_atoms` is None, and
        draws the first atoms from its samples; later calls, also after `fit`, go on from there.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, at least one, at least two in the first call.
        y : None
            Not used; present for scikit-learn.

        Returns
        -------
        ICFL
            Itself.

        Raises
        ------
        MicrodlError
            If the samples cannot be used. What was learned before stays.
        """
        first = not hasattr(self, "components_")
        if first:
            x = check_array(X, dtype=np.float32, ensure_all_finite=False, order="C", estimator=self)
        else:
            x = validate_data(
                self, X, reset=False, dtype=np.float32, ensure_all_finite=False, order="C"
            )
        require_finite(x)
        if first and len(x) < 2:
            raise MicrodlError(
                f"A dictionary needs at least 2 samples but got n_samples = {len(x)}: add more."
            )
        learner = getattr(self, "_learner", None)
        if learner is None:
            rng = check_random_state(self.random_state)
            n_samples, width = x.shape
            if first:
                learner = _Learner.begin(self._plan(n_samples, width), x, rng)
            else:
                sizes = (self.n_atoms_, self.n_iterations_, self.atoms_per_iteration_)
                plan = self._plan(n_samples, width, sizes)
                learner = _Learner.resume(plan, self.components_, self.bias_, self.dead_, rng)
        for start in range(0, len(x), learner.plan.batch_size):
            learner.step(x[start : start + learner.plan.batch_size])
        if first:
            validate_data(self, X, reset=True, skip_check_array=True)
        history = [*getattr(self, "history_", []), learner.record()]
        components, bias = learner.arrays()
        self._publish(learner.plan, components, bias, learner.dead(), history)
        self._learner = learner
        return self

    def transform(self, X: ArrayLike) -> sparse.csr_array:
        """Sparse codes of samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, prepared as those of the fit.

        Returns
        -------
        scipy.sparse.csr_array of float32, shape (n_samples, n_atoms_)
            Codes, at most ``n_iterations_ * atoms_per_iteration_`` non-zeros a row.

        Raises
        ------
        MicrodlError
            If a sample is not finite.
        """
        check_is_fitted(self)
        x: NDArray[Any] = validate_data(
            self, X, reset=False, dtype=[np.float32, np.float64], ensure_all_finite=False
        )
        require_finite(x)
        indices, values = matching_pursuit(
            x - self.bias_.astype(x.dtype) if self.bias_.any() else x,
            self.components_,
            self.n_iterations_,
            self.atoms_per_iteration_,
            selection=self.selection,
            refit=self._refit(),
            allow_repeats=self._repeats(),
        )
        return codes_to_csr(indices, values.astype(np.float32), self.n_atoms_)

    def inverse_transform(self, X: ArrayLike | sparse.sparray | sparse.spmatrix) -> NDArray[Any]:
        """Reconstruct samples from their codes.

        Parameters
        ----------
        X : array-like or scipy.sparse matrix of shape (n_samples, n_atoms_)
            Codes.

        Returns
        -------
        ndarray of float32, shape (n_samples, n_features_in_)
            Codes times atoms, plus the bias.

        Raises
        ------
        MicrodlError
            If the width is not the number of atoms.
        """
        check_is_fitted(self)
        codes: Any = X if sparse.issparse(X) else np.asarray(X)
        if codes.ndim != 2 or codes.shape[1] != self.n_atoms_:
            raise MicrodlError(
                f"Codes have the shape (n_samples, {self.n_atoms_}), but these have "
                f"{codes.shape}: pass what transform returned."
            )
        return np.asarray(codes.astype(np.float32) @ self.components_ + self.bias_)

    @property
    def _n_features_out(self) -> int:
        return self.n_atoms_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _refit(self) -> Refit:
        if self.refit != "auto":
            return self.refit
        return "block" if self.update == "adam" else "final"

    def _repeats(self) -> bool:
        return self.update == "adam" if self.allow_repeats == "auto" else self.allow_repeats

    def _plan(self, n_samples: int, width: int, sizes: tuple[int, int, int] | None = None) -> _Plan:
        """Parameters with every default filled in, checked; sizes are M, J and L where decided."""
        if self.update not in ("newton", "adam"):
            raise MicrodlError(f"update is {self.update!r} but must be 'newton' or 'adam'.")
        if self.init not in ("data", "linear"):
            raise MicrodlError(f"init is {self.init!r} but must be 'data' or 'linear'.")
        for name in ("n_atoms", "batch_size", "max_steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MicrodlError(f"{name} is {value} but must be at least 1, or None.")
        if self.allow_repeats not in (True, False, "auto"):
            raise MicrodlError(
                f"allow_repeats is {self.allow_repeats!r} but must be True, False or 'auto'."
            )
        if not self.learning_rate > 0:
            raise MicrodlError(f"learning_rate is {self.learning_rate} but must be above 0.")
        if sizes is None:
            n_atoms = self.n_atoms or default_size(n_samples, width)[0]
            # Sparsity follows the atoms in use, not those that would have been the default.
            n_iterations, per_iteration = _default_sparsity(n_atoms, width)
            if self.n_iterations is not None:
                n_iterations = self.n_iterations
            if self.atoms_per_iteration is not None:
                per_iteration = self.atoms_per_iteration
        else:
            n_atoms, n_iterations, per_iteration = sizes
        refit = self._refit()
        check_pursuit(n_iterations, per_iteration, self.selection, refit)
        newton = self.update == "newton"
        batch_size = self.batch_size
        if batch_size is None:
            batch_size = int(np.clip(n_atoms, 256, 8192)) if newton else 8192
        steps = self.max_steps
        if steps is None:
            passes, least, most = (10, 300, 1500) if newton else (60, 2000, 300_000)
            steps = int(np.clip(passes * n_samples // batch_size, least, most))
        return _Plan(
            n_atoms=n_atoms,
            n_iterations=n_iterations,
            atoms_per_iteration=per_iteration,
            update=self.update,
            learning_rate=self.learning_rate,
            batch_size=batch_size,
            max_steps=steps,
            init=self.init,
            selection=self.selection,
            refit=refit,
            allow_repeats=self._repeats(),
        )

    def _steps(self, X: ArrayLike, x: NDArray[np.float32], plan: _Plan) -> Iterator[FitRecord]:
        rng = check_random_state(self.random_state)
        learner = _Learner.begin(plan, x, rng)
        history: list[FitRecord] = []
        batch_size = min(plan.batch_size, len(x))
        keep_every = -(-plan.max_steps // _HISTORY_LENGTH)
        order = rng.permutation(len(x))
        position = 0
        for step in range(plan.max_steps):
            if position + batch_size > len(x):
                order = rng.permutation(len(x))
                position = 0
            # Sorted rows are read in order, which matters where x is a file.
            rows = np.sort(order[position : position + batch_size])
            position += batch_size
            learner.step(x[rows], last_redraw=plan.max_steps - _SETTLING_STEPS)
            record = learner.record(plan.max_steps)
            if step % keep_every == 0:
                history.append(record)
            yield record
        most = max(_SOLVE_SAMPLES_PER_ATOM * plan.n_atoms, batch_size)
        drawn = x if len(x) <= most else x[np.sort(rng.choice(len(x), most, replace=False))]
        if plan.update == "newton":
            for _ in learner.solve(drawn):
                yield learner.record(plan.max_steps)
        learner.score(drawn[:: -(-len(drawn) // batch_size)])
        record = learner.record(plan.max_steps)
        history.append(record)
        yield record
        validate_data(self, X, reset=True, skip_check_array=True)
        components, bias = learner.arrays()
        self._publish(plan, components, bias, learner.dead(), history)
        self._learner = None

    def _publish(
        self,
        plan: _Plan,
        components: NDArray[np.float32],
        bias: NDArray[np.float32],
        dead: NDArray[np.bool_],
        history: list[FitRecord],
    ) -> None:
        self.n_atoms_ = plan.n_atoms
        self.n_iterations_ = plan.n_iterations
        self.atoms_per_iteration_ = plan.atoms_per_iteration
        self.components_ = components
        self.bias_ = bias
        self.dead_ = dead
        self.history_ = history


@dataclass(frozen=True)
class _Plan:
    """Parameters of a fit with no default left open."""

    n_atoms: int
    n_iterations: int
    atoms_per_iteration: int
    update: Update
    learning_rate: float
    batch_size: int
    max_steps: int
    init: Init
    selection: Selection
    refit: Refit
    allow_repeats: bool


class _Learner:
    """Atoms on their way, and what the update remembers between steps."""

    def __init__(
        self, plan: _Plan, atoms: torch.Tensor, bias: torch.Tensor, rng: np.random.RandomState
    ) -> None:
        import torch

        self.plan = plan
        self.atoms = atoms
        self.bias = bias
        self.rng = rng
        self.steps = 0
        self.n_samples = 0
        self.resets = 0
        self.r2 = 0.0
        self.seconds = 0.0
        # Newton: running Z'R and sum of z^2. Adam: first and second moments of atoms and bias.
        self.first = torch.zeros_like(atoms)
        self.second = torch.zeros_like(atoms if plan.update == "adam" else atoms[:, 0])
        self.bias_first = torch.zeros_like(bias)
        self.bias_second = torch.zeros_like(bias)
        buckets = _DEAD_WINDOW // _RESET_EVERY
        self.active = np.zeros((buckets, plan.n_atoms), dtype=np.int64)
        self.active_of = np.zeros(buckets, dtype=np.int64)
        self.picked = np.zeros(plan.n_atoms, dtype=np.int64)

    @classmethod
    def begin(cls, plan: _Plan, x: NDArray[np.float32], rng: np.random.RandomState) -> Self:
        """Draw the first atoms."""
        import torch

        if len(x) < plan.n_atoms:
            warnings.warn(
                f"There are {len(x)} samples for {plan.n_atoms} atoms, so that atoms may hold "
                "single samples; use more samples or fewer atoms.",
                FewSamplesWarning,
                stacklevel=4,
            )
        width = x.shape[1]
        bias = np.zeros(width, np.float32)
        if plan.init == "linear":
            # torch.nn.Linear(n_atoms, width): weights and bias uniform within 1/sqrt(n_atoms).
            bound = plan.n_atoms**-0.5
            atoms = rng.uniform(-bound, bound, (plan.n_atoms, width)).astype(np.float32)
            if plan.update == "adam":
                bias = rng.uniform(-bound, bound, width).astype(np.float32)
        else:
            atoms = _directions(rng, plan.n_atoms, width)
            rows = rng.permutation(len(x))[: plan.n_atoms]
            drawn = x[np.sort(rows)]
            norm = np.linalg.norm(drawn, axis=1, keepdims=True)
            # Where samples are too few or zero, the random directions stay.
            np.divide(drawn, norm, out=atoms[: len(rows)], where=norm > 0)
        if plan.update == "newton":
            atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
        return cls(plan, torch.from_numpy(atoms), torch.from_numpy(bias), rng)

    @classmethod
    def resume(
        cls,
        plan: _Plan,
        atoms: NDArray[np.float32],
        bias: NDArray[np.float32],
        dead: NDArray[np.bool_],
        rng: np.random.RandomState,
    ) -> Self:
        """Go on from given atoms."""
        import torch

        learner = cls(plan, torch.from_numpy(atoms.copy()), torch.from_numpy(bias.copy()), rng)
        # Alive atoms stay so until the window has passed: one small batch cannot use them all.
        learner.active[-1] = ~dead
        return learner

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Atoms and bias."""
        return self.atoms.numpy().copy(), self.bias.numpy().copy()

    def dead(self) -> NDArray[np.bool_]:
        """Atoms that are hardly ever active."""
        return cast(
            "NDArray[np.bool_]",
            self.active.sum(axis=0) < _DEAD_SHARE * max(1, self.active_of.sum()),
        )

    def record(self, total_steps: int | None = None) -> FitRecord:
        """Where the fit stands."""
        return FitRecord(
            step=self.steps,
            total_steps=self.steps if total_steps is None else total_steps,
            n_samples=self.n_samples,
            r2=self.r2,
            dead_atoms=int(self.dead().sum()),
            resets=self.resets,
            seconds=self.seconds,
        )

    def step(self, batch: NDArray[np.float32], last_redraw: int | None = None) -> None:
        """Code a batch and move the atoms."""
        import torch

        started = time.perf_counter()
        with torch.no_grad():
            x = torch.from_numpy(batch if batch.flags.writeable else batch.copy()) - self.bias
            indices, values = self._code(x)
            residual = x - weighted_rows(indices, values, self.atoms)
            self.r2 = _explained(x, residual)
            self._count(indices, values)
            if self.plan.update == "newton":
                self._newton(indices, values, residual)
            else:
                self._adam(indices, values, residual)
            self.steps += 1
            self.n_samples += len(batch)
            if self.steps % _RESET_EVERY == 0:
                if last_redraw is None or self.plan.update == "adam" or self.steps <= last_redraw:
                    self._redraw(residual)
                self.picked[:] = 0
        self.seconds += time.perf_counter() - started

    def solve(self, x: NDArray[np.float32]) -> Iterator[None]:
        """Replace the atoms by those that are optimal for the codes of the given samples.

        Yields between chunks of samples, so that a fit can be cancelled here too.
        """
        import torch

        n_atoms, width = self.atoms.shape
        squares = np.zeros((n_atoms, n_atoms))
        products = np.zeros((n_atoms, width))
        self.active[:] = 0
        self.active_of[:] = 0
        with torch.no_grad():
            gram = self.atoms @ self.atoms.T
        for start in range(0, len(x), _SOLVE_ROWS):
            started = time.perf_counter()
            chunk = x[start : start + _SOLVE_ROWS]
            with torch.no_grad():
                indices, values = self._code(torch.from_numpy(chunk), gram)
            self.active[0] += self._activity(indices, values)
            self.active_of[0] += len(chunk)
            codes = codes_to_csr(indices.numpy(), values.numpy().astype(np.float64), n_atoms)
            squares += codes.T @ codes
            products += codes.T @ chunk
            self.seconds += time.perf_counter() - started
            yield
        started = time.perf_counter()
        old = self.atoms.numpy()
        # Pulled towards the atoms as they were: unused atoms stay, rare ones move little.
        ridge = _SOLVE_RIDGE * max(float(squares.trace()) / n_atoms, 1e-30)
        squares[np.diag_indices(n_atoms)] += ridge
        products += ridge * old
        solved = cho_solve(cho_factor(squares, overwrite_a=True), products, overwrite_b=True)
        norm = np.linalg.norm(solved, axis=1, keepdims=True)
        atoms = np.divide(solved, norm, out=old.astype(np.float64), where=norm > 0)
        self.atoms = torch.from_numpy(atoms.astype(np.float32))
        self.seconds += time.perf_counter() - started

    def score(self, x: NDArray[np.float32]) -> None:
        """Measure the reconstruction of the given samples."""
        import torch

        with torch.no_grad():
            centred = torch.from_numpy(np.ascontiguousarray(x)) - self.bias
            indices, values = self._code(centred)
            residual = centred - weighted_rows(indices, values, self.atoms)
            self.r2 = _explained(centred, residual)

    def _code(
        self, x: torch.Tensor, gram: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        plan = self.plan
        if gram is None and len(x) * (plan.n_iterations - 1) > plan.n_atoms:
            gram = self.atoms @ self.atoms.T
        n_picks = plan.n_iterations * plan.atoms_per_iteration
        rows = chunk_rows(plan.n_atoms, x.shape[1], n_picks, gram is not None)
        parts = [
            pursue(
                chunk,
                self.atoms,
                plan.n_iterations,
                plan.atoms_per_iteration,
                selection=plan.selection,
                refit=plan.refit,
                allow_repeats=plan.allow_repeats,
                gram=gram,
            )
            for chunk in (x[start : start + rows] for start in range(0, len(x), rows))
        ]
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])

    def _activity(self, indices: torch.Tensor, values: torch.Tensor) -> NDArray[np.int64]:
        active = values > 0 if self.plan.selection == "signed" else values != 0
        return np.bincount(indices[active].numpy(), minlength=self.plan.n_atoms)

    def _count(self, indices: torch.Tensor, values: torch.Tensor) -> None:
        bucket = self.steps // _RESET_EVERY % len(self.active)
        if self.steps % _RESET_EVERY == 0:
            self.active[bucket] = 0
            self.active_of[bucket] = 0
        self.active[bucket] += self._activity(indices, values)
        self.active_of[bucket] += len(indices)
        self.picked += np.bincount(indices[values != 0].numpy(), minlength=self.plan.n_atoms)

    def _newton(self, indices: torch.Tensor, values: torch.Tensor, residual: torch.Tensor) -> None:
        """Diagonal Newton direction for each atom, one exact line search for all of them."""
        import torch

        pull = _products_with_codes(indices, values, residual, self.plan.n_atoms)
        curvature = torch.bincount(
            indices.flatten(), values.square().flatten(), minlength=self.plan.n_atoms
        )
        self.first.mul_(_MEMORY).add_(pull, alpha=1 - _MEMORY)
        self.second.mul_(_MEMORY).add_(curvature, alpha=1 - _MEMORY)
        # An atom that this batch does not use would move on without being seen.
        scale = torch.where(curvature > 0, 1 / self.second, 0.0)
        direction = self.first * scale[:, None]
        moved = weighted_rows(indices, values, direction)
        gain, size = float((residual * moved).sum()), float(moved.square().sum())
        if size > 0:
            self.atoms += min(max(gain / size, _STEP_RANGE[0]), _STEP_RANGE[1]) * direction
        norm = torch.linalg.vector_norm(self.atoms, dim=1, keepdim=True)
        self.atoms /= torch.where(norm > 0, norm, 1.0)

    def _adam(self, indices: torch.Tensor, values: torch.Tensor, residual: torch.Tensor) -> None:
        """Adam on the sum of squared residuals over atoms and bias, codes fixed."""
        slope = -2 * _products_with_codes(indices, values, residual, self.plan.n_atoms)
        t = self.steps + 1
        for value, gradient, first, second in (
            (self.atoms, slope, self.first, self.second),
            (self.bias, -2 * residual.sum(dim=0), self.bias_first, self.bias_second),
        ):
            first.mul_(0.9).add_(gradient, alpha=0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            root = (second / (1 - 0.999**t)).sqrt_().add_(1e-8)
            value.addcdiv_(first, root, value=-self.plan.learning_rate / (1 - 0.9**t))

    def _redraw(self, residual: torch.Tensor) -> None:
        """Reset one of each two atoms that are too close and, for newton, atoms without use."""
        import torch

        gone = self._too_close()
        if self.plan.update == "newton":
            gone |= self.picked == 0
        rows = np.flatnonzero(gone)
        if not len(rows):
            return
        fresh = _directions(self.rng, len(rows), self.atoms.shape[1])
        if self.plan.update == "newton":
            # What is least explained is where an atom is missing.
            left = residual.numpy()
            energy = np.einsum("ij,ij->i", left, left, dtype=np.float64)
            chance = energy / (energy.sum() or 1.0)
            n_drawn = min(len(rows), int(np.count_nonzero(chance)))
            if n_drawn:
                drawn = self.rng.choice(len(left), n_drawn, replace=False, p=chance)
                fresh[:n_drawn] = left[drawn] / np.sqrt(energy[drawn, None])
        where = torch.from_numpy(rows)
        self.atoms[where] = torch.from_numpy(fresh)
        self.first[where] = 0
        self.second[where] = 0
        self.active[:, rows] = 0
        self.resets += len(rows)

    def _too_close(self) -> NDArray[np.bool_]:
        import torch

        norm = torch.linalg.vector_norm(self.atoms, dim=1, keepdim=True)
        unit = self.atoms / torch.where(norm > 0, norm, 1.0)
        gone = np.zeros(self.plan.n_atoms, dtype=bool)
        for start in range(0, len(unit), _PAIR_ROWS):
            cosine = unit[start : start + _PAIR_ROWS] @ unit.T
            if self.plan.selection == "absolute":
                cosine = cosine.abs()
            close = (cosine > _RESET_COSINE).numpy()
            for one in start + np.flatnonzero(close.sum(axis=1) > 1):
                for other in np.flatnonzero(close[one - start]):
                    if gone[one]:
                        break
                    if one < other and not gone[other]:
                        gone[one if self.picked[one] < self.picked[other] else other] = True
        return gone


def _directions(rng: np.random.RandomState, count: int, width: int) -> NDArray[np.float32]:
    """Random directions, uniform on the sphere."""
    drawn = rng.standard_normal((count, width))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn.astype(np.float32)


def _explained(x: torch.Tensor, residual: torch.Tensor) -> float:
    """Share of the energy of x that the residual does not hold."""
    energy = float(x.square().sum())
    return 1 - float(residual.square().sum()) / energy if energy > 0 else 1.0


def _products_with_codes(
    indices: torch.Tensor, values: torch.Tensor, residual: torch.Tensor, n_atoms: int
) -> torch.Tensor:
    """Z'R, shape (n_atoms, width), summed atom by atom in a fixed order."""
    import torch

    flat = indices.flatten()
    order = flat.argsort(stable=True)
    counts = torch.bincount(flat, minlength=n_atoms)
    return torch.nn.functional.embedding_bag(
        (order // indices.shape[1]).int(),
        residual,
        (counts.cumsum(0) - counts).int(),
        per_sample_weights=values.flatten()[order],
        mode="sum",
    )
