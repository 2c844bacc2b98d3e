"""The TopK sparse autoencoder with the interface of `ICFL`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils.validation import validate_data

from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.icfl.base import DictionaryEstimator
from napari_microdl.estimators.icfl.batches import (
    ArrayBatches,
    Batches,
    StreamBatches,
    is_store,
    is_stream,
)
from napari_microdl.estimators.icfl.fit import Fit, Stage
from napari_microdl.estimators.icfl.learner import Learner, directions
from napari_microdl.estimators.icfl.plan import default_size, default_sparsity, default_steps
from napari_microdl.estimators.icfl.processes import Processes
from napari_microdl.estimators.icfl.records import FitRecord
from napari_microdl.estimators.pursuit import PursuitOptions
from napari_microdl.estimators.topk_learner import AutoencoderLearner, AutoencoderPlan, Encoder

if TYPE_CHECKING:
    from collections.abc import Iterable

    Samples = ArrayLike | Iterable[ArrayLike]

_BATCH_SIZE = 1024
# The rate that Gao et al. found to suit 2^14 features; it falls with the root of their number.
_RATE, _RATE_FOR = 2e-4, 2**14
_DEAD_AFTER = 10_000_000
_DEAD_AFTER_BATCHES = 100


class TopKSAE(DictionaryEstimator):
    """TopK sparse autoencoder with the auxiliary loss for dead features [1]_.

    A sample less a bias goes through a linear map; of its positive values the k largest are kept
    and are the code; the code times the atoms, plus the bias, is the reconstruction. It is the
    baseline that the paper on `ICFL` compares with [2]_; use `ICFL` for a dictionary to work with.

    The loss is the squared residual over the squared distance from the batch's mean, plus
    `aux_weight` times the same for what is left when dead features, the `n_aux` best of them for
    each sample, explain the residual. With fewer than `n_aux` dead features, their term shrinks in
    proportion. The encoder begins as the decoder, the bias as the mean of the first samples; atoms
    keep unit length, and the part of their gradient along themselves is removed; Adam learns.

    Parameters
    ----------
    n_atoms : int or None
        M, the number of features. None takes that of `default_size`.
    n_active : int or None
        k, the most non-zeros of a code. None takes as many as `default_size` allows in all.
    learning_rate : float or None
        Rate of Adam. None takes 2e-4 / sqrt(M / 16384).
    batch_size : int
        Samples a step.
    max_steps : int or None
        Number of steps. None takes 60 passes through the samples, within 2,000 to 300,000 steps; of
        an iterable, one pass.
    aux_weight : float
        Weight of the auxiliary loss; 0 leaves it out.
    n_aux : int or None
        Dead features a sample in the auxiliary loss. None takes half the width of a sample.
    dead_after : int or None
        Samples in a row without activation after which a feature is dead for the auxiliary loss.
        None takes one pass through the samples, at most 10 million; of an iterable and for
        `partial_fit`, 100 batches.
    validation_fraction, early_stopping, tol, n_iter_no_change
        See `ICFL`.
    device : str
        Where to compute, as torch names it: "cpu", or for example "cuda".
    random_state : int, RandomState or None
        Seed. Fits with the same seed on the same machine and number of threads are identical.

    Attributes
    ----------
    components_ : ndarray of float32, shape (n_atoms_, n_features_in_)
        Atoms, the rows of the decoder, of unit length. Not to be written to.
    bias_ : ndarray of float32, shape (n_features_in_,)
        Subtracted from samples before they are coded and added to reconstructions.
    encoder_ : ndarray of float32, shape (n_atoms_, n_features_in_)
        The linear map.
    encoder_bias_ : ndarray of float32, shape (n_atoms_,)
        Its bias.
    dead_ : ndarray of bool, shape (n_atoms_,)
        Features active in fewer than 1e-5 of the samples of the last 1,000 steps.
    n_atoms_, n_active_ : int
        M and k as used.
    history_ : list of FitRecord
        How the fit went, at most about 1,000 records, of a stream 2,000. None is ever reset.
    n_features_in_ : int
        Width of a sample.

    References
    ----------
    .. [1] L. Gao et al., "Scaling and evaluating sparse autoencoders", 2024 (arXiv 2406.04093),
       sections 2.2 and 2.4 and appendix A.
    .. [2] K. Donhauser et al., "Towards scientific discovery with dictionary learning: Extracting
       biological concepts from microscopy foundation models", ICML 2025.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.random.default_rng(0).normal(size=(400, 32)).astype(np.float32)
    >>> sae = TopKSAE(n_atoms=64, n_active=6, max_steps=50, random_state=0).fit(x)
    >>> sae.transform(x).shape
    (400, 64)
    """

    encoder_: NDArray[np.float32]
    encoder_bias_: NDArray[np.float32]
    dead_: NDArray[np.bool_]
    history_: list[FitRecord]
    n_active_: int
    _learner: AutoencoderLearner | None
    _what = "An autoencoder"

    def __init__(
        self,
        n_atoms: int | None = None,
        n_active: int | None = None,
        *,
        learning_rate: float | None = None,
        batch_size: int = _BATCH_SIZE,
        max_steps: int | None = None,
        aux_weight: float = 1 / 32,
        n_aux: int | None = None,
        dead_after: int | None = None,
        validation_fraction: float | Literal["auto"] = "auto",
        early_stopping: bool = False,
        tol: float = 1e-3,
        n_iter_no_change: int = 5,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_atoms = n_atoms
        self.n_active = n_active
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_steps = max_steps
        self.aux_weight = aux_weight
        self.n_aux = n_aux
        self.dead_after = dead_after
        self.validation_fraction = validation_fraction
        self.early_stopping = early_stopping
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.device = device
        self.random_state = random_state

    @classmethod
    def from_arrays(
        cls,
        components: ArrayLike,
        bias: ArrayLike,
        encoder: ArrayLike,
        encoder_bias: ArrayLike,
        *,
        n_active: int,
        dead: ArrayLike | None = None,
        **parameters: Any,
    ) -> Self:
        """Rebuild a fitted autoencoder from its stored attributes.

        The result codes exactly as the original did, and `partial_fit` goes on from there.

        Parameters
        ----------
        components, encoder : array-like of shape (n_atoms, n_features)
            `components_` and `encoder_`.
        bias : array-like of shape (n_features,)
            `bias_`.
        encoder_bias : array-like of shape (n_atoms,)
            `encoder_bias_`.
        n_active : int
            `n_active_`.
        dead : array-like of bool, shape (n_atoms,), or None
            `dead_`; None is no dead feature.
        **parameters
            Further parameters of `TopKSAE`.

        Returns
        -------
        TopKSAE
            Fitted.

        Raises
        ------
        MicrodlError
            If the shapes do not belong together or a value is not finite.
        """
        given = (components, bias, encoder, encoder_bias)
        w, b, e, c = (np.array(values, dtype=np.float32, order="C") for values in given)
        gone = np.zeros(len(w), bool) if dead is None else np.array(dead, dtype=bool)
        width = w.shape[-1] if w.ndim == 2 else 0
        shapes = tuple(a.shape for a in (w, b, e, c, gone))
        if not w.size or shapes[1:] != ((width,), w.shape, (len(w),), (len(w),)):
            raise MicrodlError(
                "The stored autoencoder is damaged: atoms, bias, encoder, its bias and dead "
                f"features have the shapes {', '.join(map(str, shapes))}, which do not belong "
                "together; load another file."
            )
        if not all(np.isfinite(a).all() for a in (w, b, e, c)):
            raise MicrodlError(
                "The stored autoencoder is damaged: it holds NaN or infinity; load another file."
            )
        sae = cls(len(w), n_active, **parameters)
        plan = sae._plan(width, len(w))
        sae.n_features_in_ = width
        sae._publish(AutoencoderLearner(plan, w, b, e, c, gone), [])
        return sae

    def fit(self, X: Samples, y: None = None) -> Self:
        """Learn an autoencoder.

        Parameters
        ----------
        X : array of shape (n_samples, n_features), or iterable of such arrays
            Samples, at least two, in all the forms that `ICFL.fit` takes: in memory, in a file, or
            as an iterable of batches, for which `n_atoms` must be given.
        y : None
            Not used; present for scikit-learn.

        Returns
        -------
        TopKSAE
            Itself.

        Raises
        ------
        MicrodlError
            If there are fewer than two samples, a value is not finite or a parameter is wrong. The
            estimator is as it was before.

        Warns
        -----
        FewSamplesWarning
            If there are fewer samples than atoms.
        """
        for _ in self.fit_iter(X):
            pass
        return self

    def fit_iter(self, X: Samples) -> Iterator[FitRecord]:
        """Learn an autoencoder step by step.

        The estimator changes once, after the last record was taken: to cancel, stop iterating, and
        it is as it was before. Input and parameters are checked at once, before the first record is
        asked for; samples in files and streams as they are read.

        Parameters
        ----------
        X : array or iterable of arrays
            As for `fit`.

        Returns
        -------
        iterator of FitRecord
            One record a step, and one at the end.

        Raises
        ------
        MicrodlError
            As `fit`.
        """
        self._check()
        seed = self._seed()
        batches, n_samples = self._batches(X, seed)
        n_atoms = self.n_atoms or default_size(n_samples or 0, batches.width)[0]
        stage = Stage("", self._plan(batches.width, n_atoms, n_samples), batches)
        return self._run(X, _AutoencoderFit([stage], seed, Processes()))

    def partial_fit(self, X: ArrayLike, y: None = None) -> Self:
        """Learn from one batch more.

        The samples are gone through once, in the order given, `batch_size` at a time, and nothing
        is held out. The first call decides the number of atoms where `n_atoms` is None, and draws
        the first atoms from its samples; later calls, also after `fit`, go on from there.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, at least one, at least two in the first call.
        y : None
            Not used; present for scikit-learn.

        Returns
        -------
        TopKSAE
            Itself.

        Raises
        ------
        MicrodlError
            If the samples cannot be used. What was learned before stays.
        """
        first = not hasattr(self, "components_")
        x = self._next_samples(X, first=first)
        self._check()
        learner = getattr(self, "_learner", None)
        if learner is None and not first:
            learner = AutoencoderLearner(
                self._plan(self.n_features_in_, self.n_atoms_, n_active=self.n_active_),
                self.components_,
                self.bias_,
                self.encoder_,
                self.encoder_bias_,
                self.dead_,
            )
        elif learner is None:
            seed = self._seed()
            self._require_two(len(x))
            n_atoms = self.n_atoms or default_size(*x.shape)[0]
            stage = Stage("", self._plan(x.shape[1], n_atoms), ArrayBatches(x, seed))
            learner = _AutoencoderFit([stage], seed, Processes()).autoencoder
        for start in range(0, len(x), learner.plan.batch_size):
            learner.step(x[start : start + learner.plan.batch_size])
        if first:
            validate_data(self, X, reset=True, skip_check_array=True)
        self._publish(learner, [*getattr(self, "history_", []), learner.record(learner.steps)])
        # With the moments of Adam, which the attributes do not tell.
        self._learner = learner
        return self

    def _coder(self, dtype: type[np.floating[Any]]) -> Encoder:
        import torch

        weights, bias = (
            torch.tensor(values.astype(dtype), device=self.device)
            for values in (self.encoder_, self.encoder_bias_)
        )
        return Encoder(weights, bias, PursuitOptions(1, self.n_active_))

    def _batches(self, X: Any, seed: int) -> tuple[Batches, int | None]:
        """Where batches come from, and of how many samples, where that is known."""
        if is_stream(X):
            self._require_n_atoms()
            stream = StreamBatches(
                X,
                n_kept=self.batch_size,
                n_held_out=self._n_held_out_of_stream(self.batch_size),
                once=self.max_steps is None,
            )
            return stream, None
        x = self._matrix(X)
        n_samples = int(x.shape[0])
        self._require_two(n_samples)
        in_memory = not is_store(x)
        n_held_out = self._n_held_out(n_samples)
        return ArrayBatches(x, seed, n_held_out=n_held_out, in_memory=in_memory), n_samples

    def _check(self) -> None:
        """Refuse parameters that mean nothing."""
        for name in ("n_atoms", "n_active", "max_steps", "n_aux", "dead_after"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MicrodlError(f"{name} is {value} but must be at least 1, or None.")
        if self.batch_size < 1:
            raise MicrodlError(f"batch_size is {self.batch_size} but must be at least 1.")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise MicrodlError(
                f"learning_rate is {self.learning_rate} but must be above 0, or None."
            )
        if not 0 <= self.aux_weight < np.inf:
            raise MicrodlError(f"aux_weight is {self.aux_weight} but must be at least 0.")
        self._check_stopping()

    def _plan(
        self,
        width: int,
        n_atoms: int,
        n_samples: int | None = None,
        n_active: int | None = None,
    ) -> AutoencoderPlan:
        """Parameters with every default filled in, checked; k is given where decided."""
        self._check()
        n_active = n_active or self.n_active
        if n_active is None:
            n_iterations, per_iteration = default_sparsity(n_atoms, width)
            n_active = n_iterations * per_iteration
        if n_active > n_atoms:
            raise MicrodlError(
                f"n_active is {n_active} but there are only {n_atoms} atoms: set it lower."
            )
        steps = self.max_steps
        if steps is None and n_samples is not None:
            steps = default_steps("adam", n_samples, self.batch_size)
        one_pass = n_samples or _DEAD_AFTER_BATCHES * self.batch_size
        return AutoencoderPlan(
            n_atoms=n_atoms,
            coding=PursuitOptions(1, n_active),
            update="adam",
            learning_rate=self.learning_rate or _RATE / (n_atoms / _RATE_FOR) ** 0.5,
            batch_size=self.batch_size,
            max_steps=steps,
            init="data",
            early_stopping=self.early_stopping,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            device=self.device,
            aux_weight=self.aux_weight,
            n_aux=self.n_aux or max(1, width // 2),
            dead_after=self.dead_after or min(one_pass, _DEAD_AFTER),
        )

    def _run(self, X: Any, fit: _AutoencoderFit) -> Iterator[FitRecord]:
        yield from fit.records()
        self._take_form(X, fit.learner.atoms.shape[1])
        self._publish(fit.autoencoder, fit.history)

    def _publish(self, learner: AutoencoderLearner, history: list[FitRecord]) -> None:
        values = learner.parameters()
        values["atoms"].flags.writeable = False
        self.n_atoms_ = learner.plan.n_atoms
        self.n_active_ = learner.plan.coding.n_picks
        self.components_ = values["atoms"]
        self.bias_ = values["bias"]
        self.encoder_ = values["encoder"]
        self.encoder_bias_ = values["encoder_bias"]
        self.dead_ = learner.dead()
        self.history_ = history
        self._learner = None


class _AutoencoderFit(Fit):
    """A fit whose one stage learns an autoencoder."""

    @property
    def autoencoder(self) -> AutoencoderLearner:
        assert isinstance(self.learner, AutoencoderLearner)
        return self.learner

    def _begin(self, before: Learner | None = None) -> Learner:
        first = super()._begin(before)
        plan, batches = self._stages[0].plan, self._stages[0].batches
        assert isinstance(plan, AutoencoderPlan)
        bias = batches.first(plan.batch_size).mean(axis=0)
        # Gao et al. draw decoder rows at random, which leaves more features alive than samples do.
        atoms = directions(first.rng, plan.n_atoms, batches.width)
        return AutoencoderLearner(plan, atoms, bias)
