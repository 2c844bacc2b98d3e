"""The TopK sparse autoencoder with the interface of `ICFL`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

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
from napari_microdl.estimators.icfl.learner import (
    Learner,
    Processes,
    directions,
    products_with_codes,
)
from napari_microdl.estimators.icfl.plan import (
    FitRecord,
    Plan,
    default_size,
    default_sparsity,
    default_steps,
)
from napari_microdl.estimators.pursuit import PursuitOptions
from napari_microdl.estimators.pursuit.coder import Coder
from napari_microdl.estimators.pursuit.torch_backend import weighted_rows

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    Samples = ArrayLike | Iterable[ArrayLike]

_BATCH_SIZE = 1024
# The rate that Gao et al. found to suit 2^14 features; it falls with the root of their number.
_RATE, _RATE_FOR = 2e-4, 2**14
_DEAD_AFTER = 10_000_000
_DEAD_AFTER_BATCHES = 100
# Numbers held at a time in the products of samples and encoder.
_CHUNK_NUMBERS = 1 << 24
# As Gao et al. have it: gradients of features that are rarely active are tiny.
_ADAM_EPSILON = 6.25e-10
# Below this the samples of a batch are all the same.
_LEAST_VARIANCE = 1e-30
PARAMETERS = ("atoms", "encoder", "encoder_bias", "bias")


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
    _noun = "autoencoder"

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
        sae._publish_learner(AutoencoderLearner(plan, w, b, e, c, gone), [])
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
        self._check()
        seed = self._seed()
        batches, n_samples = self._batches(X, seed)
        n_atoms = self.n_atoms or default_size(n_samples or 0, batches.width)[0]
        stage = Stage("", self._plan(batches.width, n_atoms, n_samples), batches)
        fit = _AutoencoderFit([stage], seed, Processes())
        self._take_all(fit.records())
        self._take_form(X, batches.width)
        self._publish_learner(fit.autoencoder, fit.history)
        return self

    def _next_learner(self, x: NDArray[np.float32], *, first: bool) -> AutoencoderLearner:
        if not first:
            return AutoencoderLearner(
                self._plan(self.n_features_in_, self.n_atoms_, n_active=self.n_active_),
                self.components_,
                self.bias_,
                self.encoder_,
                self.encoder_bias_,
                self.dead_,
            )
        seed = self._seed()
        n_atoms = self.n_atoms or default_size(*x.shape)[0]
        stage = Stage("", self._plan(x.shape[1], n_atoms), ArrayBatches(x, seed))
        return _AutoencoderFit([stage], seed, Processes()).autoencoder

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
                n_latest=self.batch_size,
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

    def _check_single_batches(self) -> None:
        self._check()

    def _check(self) -> None:
        """Refuse parameters that mean nothing."""
        self._check_counts("n_atoms", "n_active", "max_steps", "n_aux", "dead_after")
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

    def _publish_learner(self, learner: AutoencoderLearner, history: list[FitRecord]) -> None:
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


@dataclass(frozen=True)
class AutoencoderPlan(Plan):
    """Settings of one fit; `coding` picks all features in one iteration.

    Parameters
    ----------
    aux_weight : float
        Weight of the auxiliary loss.
    n_aux : int
        Dead features that it uses for each sample.
    dead_after : int
        Samples without activation after which a feature takes part in it.
    """

    aux_weight: float
    n_aux: int
    dead_after: int


class Encoder(Coder):
    """Codes by one linear map plus bias, of which the largest positive values are taken."""

    def __init__(self, weights: torch.Tensor, bias: torch.Tensor, options: PursuitOptions) -> None:
        super().__init__(weights, options)
        self._bias = bias

    def chunks(self, x: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor, torch.Tensor]]:
        """See `Coder.chunks`."""
        n_atoms = len(self.atoms)
        n_picks = min(self.options.n_picks, n_atoms)
        size = max(1, _CHUNK_NUMBERS // n_atoms)
        for start in range(0, len(x), size):
            rows = slice(start, min(start + size, len(x)))
            before = self.before_selection(x[rows])
            values, indices = before.topk(n_picks, dim=1)
            yield rows, indices, values

    def before_selection(self, x: torch.Tensor) -> torch.Tensor:
        """Values of all features of samples less the decoder's bias; none is negative."""
        return (x @ self.atoms.T).add_(self._bias).relu_()


@dataclass(frozen=True)
class Loss:
    """The loss of a batch and its gradients.

    Parameters
    ----------
    reconstruction : float
        Sum of the squared residuals over the sum of the squared distances from the batch's mean.
    auxiliary : float
        How badly dead features explain the residual, on the same scale, not yet weighted.
    gradients : dict of str to torch.Tensor
        Of the weighted sum of both, by the name of the parameter.
    indices, values : torch.Tensor of shape (n_samples, n_active)
        Codes.
    explained : float
        1 minus the energy of the residual over that of the samples less the bias.
    """

    reconstruction: float
    auxiliary: float
    gradients: dict[str, torch.Tensor]
    indices: torch.Tensor
    values: torch.Tensor
    explained: float


class AutoencoderLearner(Learner):
    """An autoencoder that is being learned; `atoms` are the rows of its decoder.

    Parameters
    ----------
    plan : AutoencoderPlan
        Settings.
    atoms, bias
        First decoder and its bias.
    encoder : ndarray of float32, shape (n_atoms, n_features), or None
        First encoder; None takes the decoder.
    encoder_bias : ndarray of float32, shape (n_atoms,), or None
        First bias of the encoder; None is zero.
    dead : ndarray of bool, shape (n_atoms,), or None
        Features that were dead in an earlier fit; None begins a new one.
    """

    plan: AutoencoderPlan

    def __init__(
        self,
        plan: AutoencoderPlan,
        atoms: NDArray[np.float32],
        bias: NDArray[np.float32],
        encoder: NDArray[np.float32] | None = None,
        encoder_bias: NDArray[np.float32] | None = None,
        dead: NDArray[np.bool_] | None = None,
    ) -> None:
        import torch

        # Nothing is drawn after the first atoms.
        super().__init__(plan, atoms, bias, np.random.RandomState(0))
        self.encoder = self.atoms.clone()
        if encoder is not None:
            self.encoder = torch.tensor(encoder, device=plan.device)
        self.encoder_bias = torch.zeros_like(self.atoms[:, 0])
        if encoder_bias is not None:
            self.encoder_bias = torch.tensor(encoder_bias, device=plan.device)
        # Samples since each feature was active.
        self.idle = np.zeros(plan.n_atoms, dtype=np.int64)
        if dead is not None:
            self.active[-1] = ~dead
            self.idle[dead] = plan.dead_after
        self._moments = {
            name: (torch.zeros_like(value), torch.zeros_like(value))
            for name, value in self._parameters()
        }

    def coder(self, n_expected: int) -> Coder:
        """See `Learner.coder`."""
        return self._encoder()

    def step(self, batch: NDArray[np.float32], *, may_redraw: bool = True) -> None:
        """Take one step of Adam; the auxiliary loss is what brings dead features back."""
        import torch

        started = time.perf_counter()
        with torch.no_grad():
            loss = self.loss(batch)
            self.r2 = loss.explained
            self._count(loss.indices, loss.values, len(batch))
            self._note_idle(loss.indices, loss.values, len(batch))
            self._descend(loss.gradients)
            self.steps += 1
            self.n_samples += len(batch)
        self.seconds += time.perf_counter() - started

    def loss(self, batch: NDArray[np.float32]) -> Loss:
        """Loss and gradients, the decoder's with its part along the atoms not yet removed."""
        import torch

        encoder = self._encoder()
        x = self.centred(batch)
        variance = max(float((x - x.mean(dim=0)).square().sum()), _LEAST_VARIANCE)
        before = encoder.before_selection(x)
        n_atoms = self.plan.n_atoms
        values, indices = before.topk(min(self.plan.coding.n_picks, n_atoms), dim=1)
        residual = x - weighted_rows(indices, values, self.atoms)
        energy = float(residual.square().sum())
        # With respect to the reconstruction; a feature at zero has no slope.
        slope = residual * (-2 / variance)
        on_codes = (slope @ self.atoms.T).gather(1, indices) * (values > 0)
        gradients = {
            "atoms": products_with_codes(indices, values, slope, n_atoms),
            "encoder": products_with_codes(indices, on_codes, x, n_atoms),
            "encoder_bias": torch.zeros_like(self.encoder_bias).index_add_(
                0, indices.flatten(), on_codes.flatten()
            ),
            "bias": slope.sum(dim=0) - weighted_rows(indices, on_codes, self.encoder).sum(dim=0),
        }
        auxiliary = 0.0
        dead = np.flatnonzero(self.idle >= self.plan.dead_after)
        if len(dead) and self.plan.aux_weight:
            where = torch.from_numpy(dead).to(x.device)
            auxiliary = self._add_auxiliary(gradients, x, before, residual, where, variance)
        whole = float(x.square().sum())
        return Loss(
            reconstruction=energy / variance,
            auxiliary=auxiliary,
            gradients=gradients,
            indices=indices,
            values=values,
            explained=1 - energy / whole if whole > 0 else 1.0,
        )

    def parameters(self) -> dict[str, NDArray[np.float32]]:
        """Everything that is learned, by the names in `PARAMETERS`, copied to the CPU's memory."""
        return {name: value.cpu().numpy().copy() for name, value in self._parameters()}

    def _add_auxiliary(
        self,
        gradients: dict[str, torch.Tensor],
        x: torch.Tensor,
        before: torch.Tensor,
        residual: torch.Tensor,
        dead: torch.Tensor,
        variance: float,
    ) -> float:
        """Let the dead features that fit best explain the residual, which itself stays fixed."""
        n_picks = min(self.plan.n_aux, len(dead))
        # Few dead features cannot explain much, and are not to pull on the others for it.
        scale = min(len(dead) / self.plan.n_aux, 1.0)
        values, places = before[:, dead].topk(n_picks, dim=1)
        indices = dead[places]
        missing = weighted_rows(indices, values, self.atoms) - residual
        slope = missing * (2 * self.plan.aux_weight * scale / variance)
        on_codes = (slope @ self.atoms[dead].T).gather(1, places) * (values > 0)
        n_atoms = self.plan.n_atoms
        gradients["atoms"] += products_with_codes(indices, values, slope, n_atoms)
        gradients["encoder"] += products_with_codes(indices, on_codes, x, n_atoms)
        gradients["encoder_bias"].index_add_(0, indices.flatten(), on_codes.flatten())
        gradients["bias"] -= weighted_rows(indices, on_codes, self.encoder).sum(dim=0)
        return scale * float(missing.square().sum()) / variance

    def _descend(self, gradients: dict[str, torch.Tensor]) -> None:
        import torch

        # Unit length is kept by moving on the sphere, so that Adam's moments are of that alone.
        slope = gradients["atoms"]
        slope -= (slope * self.atoms).sum(dim=1, keepdim=True) * self.atoms
        t = self.steps + 1
        for name, value in self._parameters():
            first, second = self._moments[name]
            first.mul_(0.9).add_(gradients[name], alpha=0.1)
            second.mul_(0.999).addcmul_(gradients[name], gradients[name], value=0.001)
            root = (second / (1 - 0.999**t)).sqrt_().add_(_ADAM_EPSILON)
            value.addcdiv_(first, root, value=-self.plan.learning_rate / (1 - 0.9**t))
        norm = torch.linalg.vector_norm(self.atoms, dim=1, keepdim=True)
        self.atoms /= torch.where(norm > 0, norm, 1.0)

    def _note_idle(self, indices: torch.Tensor, values: torch.Tensor, n_samples: int) -> None:
        self.idle += n_samples
        self.idle[indices[values > 0].cpu().numpy()] = 0

    def _encoder(self) -> Encoder:
        return Encoder(self.encoder, self.encoder_bias, self.plan.coding)

    def _parameters(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self, name)) for name in PARAMETERS]


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
