"""Other learners of sparse codes behind one interface, each trained the way its authors do it.

The packages come with the extra `benchmark`; see README.md beside this file. Nothing here is part
of napari-microdl.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# Samples without use after which a latent counts as dead, so that the AuxK loss revives it. The
# packages take millions, more than these trainings see.
_DEAD_AFTER = 250_000


def shuffled_batches(x: Floats, batch_size: int, seed: int) -> Iterator[Floats]:
    """Batches without end, each pass through the samples in a new order.

    Parameters
    ----------
    x : ndarray of shape (n_samples, width)
        Samples.
    batch_size : int
        Samples in a batch; those left over at the end of a pass are skipped.
    seed : int
        Seed of the order.

    Yields
    ------
    ndarray of shape (batch_size, width)
        A copy of the samples.
    """
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(len(x))
        for start in range(0, len(x) - batch_size + 1, batch_size):
            yield x[np.sort(order[start : start + batch_size])]


class Learner(ABC):
    """A dictionary learner that is fed one batch at a time.

    Attributes
    ----------
    name : str
        What tables call it.
    rates : tuple of float
        Learning rates to choose from, or what takes their place.
    batch_size : int
        Samples a step.
    samples_seen : int
        Samples learned from so far, repeated ones counted again.
    """

    name: ClassVar[str]
    rates: ClassVar[tuple[float, ...]]
    batch_size: ClassVar[int] = 1024
    samples_seen: int

    def begin(self, x: Floats, n_atoms: int, n_active: int, rate: float, seed: int) -> None:
        """Draw the first atoms.

        Parameters
        ----------
        x : ndarray of float32, shape (n_samples, width)
            Samples to learn from; never changed.
        n_atoms : int
            Size of the dictionary.
        n_active : int
            Non-zeros of a code.
        rate : float
            One of `rates`.
        seed : int
            Seed of the first atoms and of the order of the samples.
        """
        self.samples_seen = 0
        self._batches = shuffled_batches(x, self.batch_size, seed)
        torch.manual_seed(seed)
        self._begin(x, n_atoms, n_active, rate, seed)

    def step(self) -> None:
        """Learn from the next batch."""
        self._learn(next(self._batches))
        self.samples_seen += self.batch_size

    @abstractmethod
    def atoms(self) -> Floats:
        """Atoms as they are now, in rows."""

    @abstractmethod
    def reconstruct(self, x: Floats) -> Floats:
        """What the learner's own encoder and its atoms make of samples."""

    @abstractmethod
    def _begin(self, x: Floats, n_atoms: int, n_active: int, rate: float, seed: int) -> None: ...

    @abstractmethod
    def _learn(self, batch: Floats) -> None: ...


class _SAELens(Learner):
    """An autoencoder of SAELens, driven by its own trainer.

    `SAETrainer.step` is the step that `SAETrainer.fit` repeats: forward pass, loss with the
    auxiliary loss of dead latents, gradients clipped to norm 1, Adam. Settings are those of its
    synthetic benchmark: batch 1024, Adam at a constant rate without warm-up. Samples are scaled to
    a mean length of the square root of their width, as its training guide has it.
    """

    _kind: ClassVar[str]

    def _begin(self, x: Floats, n_atoms: int, n_active: int, rate: float, seed: int) -> None:
        from sae_lens.config import SAETrainerConfig
        from sae_lens.training.sae_trainer import SAETrainer

        config = SAETrainerConfig(
            total_training_samples=10**12,
            train_batch_size_samples=self.batch_size,
            lr=rate,
            # Not used by a constant rate, but asked for.
            lr_end=rate / 10,
            dead_feature_window=_DEAD_AFTER // self.batch_size,
        )
        self._sae = self._autoencoder(x.shape[1], n_atoms, n_active)
        tensors = (torch.from_numpy(batch) for batch in self._batches)
        self._trainer: Any = SAETrainer(config, self._sae, tensors)
        self._trainer.activation_scaler.estimate_scaling_factor(
            x.shape[1], tensors, n_batches_for_norm_estimate=4
        )

    def _autoencoder(self, width: int, n_atoms: int, n_active: int) -> Any:
        import sae_lens

        make = getattr(sae_lens, f"{self._kind}TrainingSAE")
        configure = getattr(sae_lens, f"{self._kind}TrainingSAEConfig")
        return make(
            configure(
                d_in=width,
                d_sae=n_atoms,
                normalize_activations="expected_average_only_in",
                **self._sparsity(n_active),
            )
        )

    def _sparsity(self, n_active: int) -> dict[str, Any]:
        return {"k": n_active}

    def _learn(self, batch: Floats) -> None:
        self._trainer.step(torch.from_numpy(batch))
        self._trainer.n_training_steps += 1

    def atoms(self) -> Floats:
        """Rows of the decoder."""
        return self._sae.W_dec.detach().numpy().copy()

    @torch.inference_mode()
    def reconstruct(self, x: Floats) -> Floats:
        """Decoder of encoder, at the scale of the training."""
        scaler = self._trainer.activation_scaler
        self._sae.eval()
        codes = self._sae.encode(scaler.scale(torch.from_numpy(x)))
        return scaler.unscale(self._sae.decode(codes)).numpy()


class SAELensTopK(_SAELens):
    """TopK autoencoder of Gao et al. with the auxiliary loss, from SAELens."""

    name = "SAELens TopK"
    rates = (2e-3, 5e-3, 1e-2)
    _kind = "TopK"


class SAELensBatchTopK(_SAELens):
    """BatchTopK autoencoder from SAELens, the architecture that it recommends.

    Its codes have n_active non-zeros on average over a batch, here also in `reconstruct`.
    """

    name = "SAELens BatchTopK"
    rates = (2e-3, 5e-3, 1e-2)
    _kind = "BatchTopK"


class SAELensMatchingPursuit(_SAELens):
    """Matching-pursuit autoencoder from SAELens, set up as its guide says for a fixed sparsity."""

    name = "SAELens pursuit"
    rates = (3e-3, 1e-2, 2e-2, 3e-2)

    _kind = "MatchingPursuit"

    def _sparsity(self, n_active: int) -> dict[str, Any]:
        return {
            "residual_threshold": 0.0,
            "max_iterations": n_active,
            "stop_on_duplicate_support": True,
            "decoder_init_norm": 1.0,
        }


class _Sparsify(Learner):
    """TopK autoencoder of EleutherAI's sparsify.

    Its trainer takes samples from a language model alone, so that the step of its `Trainer.fit` is
    repeated here around its own modules: the first bias is the mean, the decoder has unit rows and
    no gradient along them, the loss is the unexplained variance plus 1/32 of the AuxK loss.
    """

    _auxk: ClassVar[float] = 1 / 32

    def _begin(self, x: Floats, n_atoms: int, n_active: int, rate: float, seed: int) -> None:
        from sparsify import SparseCoder, SparseCoderConfig

        config = SparseCoderConfig(num_latents=n_atoms, k=n_active)
        self._coder = SparseCoder(x.shape[1], config, dtype=torch.float32)
        self._idle = torch.zeros(n_atoms, dtype=torch.long)
        self._optimizer = self._optimizer_of(rate)

    def _optimizer_of(self, rate: float) -> Any:
        raise NotImplementedError

    def _learn(self, batch: Floats) -> None:
        coder = self._coder
        x = torch.from_numpy(batch)
        if not self.samples_seen:
            coder.b_dec.data = x.mean(0)
        coder.set_decoder_norm_to_unit_norm()
        out = coder(x, dead_mask=self._idle > _DEAD_AFTER)
        (out.fvu + self._auxk * out.auxk_loss).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._idle += len(x)
        self._idle[out.latent_indices.flatten()] = 0

    def atoms(self) -> Floats:
        """Rows of the decoder."""
        return self._coder.W_dec.detach().numpy().copy()

    @torch.inference_mode()
    def reconstruct(self, x: Floats) -> Floats:
        """Decoder of encoder."""
        return self._coder(torch.from_numpy(x)).sae_out.numpy()


class SparsifySignum(_Sparsify):
    """sparsify with its default optimizer, schedule-free descent along the signs."""

    name = "sparsify signum"
    rates = (2e-3, 4e-3, 8e-3, 1.6e-2)

    def _optimizer_of(self, rate: float) -> Any:
        from schedulefree import ScheduleFreeWrapper
        from sparsify.sign_sgd import SignSGD

        optimizer = ScheduleFreeWrapper(SignSGD(self._coder.parameters(), lr=rate), momentum=0.95)
        optimizer.train()
        return optimizer

    def atoms(self) -> Floats:
        """Rows of the averaged decoder, which is what the optimizer's result is."""
        self._optimizer.eval()
        atoms = super().atoms()
        self._optimizer.train()
        return atoms

    def reconstruct(self, x: Floats) -> Floats:
        """Averaged decoder of averaged encoder."""
        self._optimizer.eval()
        reconstruction = super().reconstruct(x)
        self._optimizer.train()
        return reconstruction


class SparsifyAdam(_Sparsify):
    """sparsify with Adam, the other optimizer that its trainer offers, at a constant rate.

    The trainer lets the rate fall to 0 over a training of known length. Within these budgets that
    left rare atoms behind, so that it would be no help here.
    """

    name = "sparsify Adam"
    rates = (1e-3, 2e-3, 4e-3)

    def _optimizer_of(self, rate: float) -> Any:
        return torch.optim.Adam(self._coder.parameters(), lr=rate)


class ScikitLearn(Learner):
    """MiniBatchDictionaryLearning of scikit-learn, fed by its `partial_fit`.

    The penalty takes the place of the learning rate. Samples are scaled to a mean length of 1, the
    first atoms are samples of unit length, and codes are positive, as the planted ones are.
    """

    name = "scikit-learn"
    rates = (0.2, 0.3, 0.4)
    batch_size = 256

    def _begin(self, x: Floats, n_atoms: int, n_active: int, rate: float, seed: int) -> None:
        from sklearn.decomposition import MiniBatchDictionaryLearning

        rng = np.random.default_rng(seed)
        first = x[np.sort(rng.choice(len(x), n_atoms, replace=False))]
        length = np.linalg.norm(first, axis=1, keepdims=True)
        self._scale = np.float32(1 / length.mean())
        self._model = MiniBatchDictionaryLearning(
            n_atoms,
            alpha=rate,
            batch_size=self.batch_size,
            fit_algorithm="cd",
            positive_code=True,
            dict_init=first / length,
            random_state=seed,
        )
        self._n_active = n_active

    def _learn(self, batch: Floats) -> None:
        self._model.partial_fit(batch * self._scale)

    def atoms(self) -> Floats:
        """Atoms as they are now."""
        return np.ascontiguousarray(self._model.components_, dtype=np.float32)

    def reconstruct(self, x: Floats) -> Floats:
        """Orthogonal matching pursuit, which is the default of its `transform`.

        Called by itself, because a model of positive codes refuses it.
        """
        from sklearn.decomposition import sparse_encode

        atoms = self._model.components_
        codes = sparse_encode(x, atoms, algorithm="omp", n_nonzero_coefs=self._n_active)
        return (codes @ atoms).astype(np.float32)


PEERS: tuple[type[Learner], ...] = (
    SAELensTopK,
    SAELensBatchTopK,
    SAELensMatchingPursuit,
    SparsifySignum,
    SparsifyAdam,
    ScikitLearn,
)


class Coder(ABC):
    """A way to code samples in a given dictionary.

    Attributes
    ----------
    name : str
        What tables call it.
    is_pursuit : bool
        Whether atoms are picked in rounds. The encoder of an autoencoder is one product.
    is_package : bool
        Whether someone else publishes it.
    variants : tuple of tuple (str, int)
        Settings to choose the fastest of: what `prepare` takes, and samples at a time.
    """

    name: ClassVar[str]
    is_pursuit: ClassVar[bool] = True
    is_package: ClassVar[bool] = True
    variants: ClassVar[tuple[tuple[str, int], ...]] = (("", 64), ("", 256), ("", 1024), ("", 4096))

    @abstractmethod
    def prepare(self, atoms: Floats, n_iterations: int, per_iteration: int, setting: str) -> None:
        """Take a dictionary.

        Parameters
        ----------
        atoms : ndarray of float32, shape (n_atoms, width)
            Atoms of unit length, in rows.
        n_iterations, per_iteration : int
            J and L; a coder that picks one at a time makes J * L rounds.
        setting : str
            The first of one of `variants`.
        """

    @abstractmethod
    def encode(self, x: Floats) -> Any:
        """Codes of a batch, in whatever form the coder gives them."""

    @abstractmethod
    def decode(self, codes: Any) -> Floats:
        """The samples that codes stand for."""


class PlainTorch(Coder):
    """The published formulas as one writes them in PyTorch: `topk`, gather, batched Cholesky."""

    name = "plain torch"
    is_package = False

    def prepare(self, atoms: Floats, n_iterations: int, per_iteration: int, setting: str) -> None:
        """Take a dictionary."""
        self._atoms = torch.from_numpy(atoms)
        self._rounds = n_iterations
        self._per_round = per_iteration
        # Two atoms that are nearly the same must not break the factorisation.
        self._ridge = 1e-6 * torch.eye(per_iteration)

    @torch.no_grad()
    def encode(self, x: Floats) -> tuple[torch.Tensor, torch.Tensor]:
        """Picks and coefficients."""
        return self._pursue(torch.from_numpy(x))

    def _pursue(self, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        picks, values = [], []
        for _ in range(self._rounds):
            new = (residual @ self._atoms.T).topk(self._per_round, dim=1).indices
            w = self._atoms[new]
            gram = w @ w.mT + self._ridge
            factor = torch.linalg.cholesky(gram)
            z = torch.cholesky_solve(w @ residual[:, :, None], factor)
            residual = residual - (z.mT @ w)[:, 0]
            picks.append(new)
            values.append(z[:, :, 0])
        return torch.cat(picks, 1), torch.cat(values, 1)

    @torch.inference_mode()
    def decode(self, codes: tuple[torch.Tensor, torch.Tensor]) -> Floats:
        """Sum of weighted atoms."""
        picks, values = codes
        return torch.nn.functional.embedding_bag(
            picks, self._atoms, per_sample_weights=values, mode="sum"
        ).numpy()


class CompiledTorch(PlainTorch):
    """The same through `torch.compile`, whose compiling is not counted."""

    name = "plain torch, compiled"

    def prepare(self, atoms: Floats, n_iterations: int, per_iteration: int, setting: str) -> None:
        """Take a dictionary."""
        super().prepare(atoms, n_iterations, per_iteration, setting)
        self._compiled = torch.compile(super()._pursue)

    def _pursue(self, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._compiled(residual)


class SAELensPursuitEncoder(Coder):
    """Matching pursuit of SAELens, one atom a round; its tests for an early end, off, cost time."""

    name = "SAELens pursuit"

    def prepare(self, atoms: Floats, n_iterations: int, per_iteration: int, setting: str) -> None:
        """Take a dictionary."""
        from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig

        self._sae = MatchingPursuitSAE(
            MatchingPursuitSAEConfig(
                d_in=atoms.shape[1],
                d_sae=len(atoms),
                residual_threshold=0.0,
                max_iterations=n_iterations * per_iteration,
                stop_on_duplicate_support=False,
            )
        )
        self._sae.W_dec.data = torch.from_numpy(atoms)

    @torch.inference_mode()
    def encode(self, x: Floats) -> torch.Tensor:
        """Dense codes."""
        return self._sae.encode(torch.from_numpy(x))

    @torch.inference_mode()
    def decode(self, codes: torch.Tensor) -> Floats:
        """The decoder of the autoencoder."""
        return self._sae.decode(codes).numpy()


class ScikitLearnOMP(Coder):
    """Orthogonal matching pursuit of scikit-learn, through the Gram matrix or without.

    "gram" is `sparse_encode`, which copies the Gram matrix for every sample; "products" is
    `orthogonal_mp`, which multiplies by all atoms in every round.
    """

    name = "scikit-learn OMP"
    variants = (("gram", 16), ("products", 16))

    def prepare(self, atoms: Floats, n_iterations: int, per_iteration: int, setting: str) -> None:
        """Take a dictionary."""
        self._atoms = atoms
        self._gram = atoms @ atoms.T if setting == "gram" else None
        self._n_active = n_iterations * per_iteration

    def encode(self, x: Floats) -> Floats:
        """Dense codes."""
        from sklearn.decomposition import sparse_encode
        from sklearn.linear_model import orthogonal_mp

        if self._gram is None:
            return orthogonal_mp(self._atoms.T, x.T, n_nonzero_coefs=self._n_active).T
        return sparse_encode(
            x,
            self._atoms,
            gram=self._gram,
            algorithm="omp",
            n_nonzero_coefs=self._n_active,
            check_input=False,
        )

    def decode(self, codes: Floats) -> Floats:
        """Codes times atoms."""
        return (codes @ self._atoms).astype(np.float32)


class SAELensTopKEncoder(Coder):
    """Encoder of a TopK autoencoder of SAELens with the atoms as its weights."""

    name = "SAELens TopK encoder"
    is_pursuit = False

    def prepare(self, atoms: Floats, n_iterations: int, per_iteration: int, setting: str) -> None:
        """Take a dictionary."""
        from sae_lens import TopKSAE, TopKSAEConfig

        self._sae = TopKSAE(
            TopKSAEConfig(d_in=atoms.shape[1], d_sae=len(atoms), k=n_iterations * per_iteration)
        )
        self._sae.W_dec.data = torch.from_numpy(atoms)
        self._sae.W_enc.data = torch.from_numpy(atoms).T.contiguous()

    @torch.inference_mode()
    def encode(self, x: Floats) -> torch.Tensor:
        """Dense codes."""
        return self._sae.encode(torch.from_numpy(x))

    @torch.inference_mode()
    def decode(self, codes: torch.Tensor) -> Floats:
        """The decoder of the autoencoder."""
        return self._sae.decode(codes).numpy()


class SparsifyEncoder(Coder):
    """Encoder of a TopK autoencoder of sparsify with the atoms as its weights."""

    name = "sparsify encoder"
    is_pursuit = False

    def prepare(self, atoms: Floats, n_iterations: int, per_iteration: int, setting: str) -> None:
        """Take a dictionary."""
        from sparsify import SparseCoder, SparseCoderConfig

        n_active = n_iterations * per_iteration
        config = SparseCoderConfig(num_latents=len(atoms), k=n_active)
        self._coder = SparseCoder(atoms.shape[1], config, dtype=torch.float32)
        self._coder.encoder.weight.data = torch.from_numpy(atoms)
        self._coder.W_dec.data = torch.from_numpy(atoms)

    @torch.inference_mode()
    def encode(self, x: Floats) -> Any:
        """Coefficients and picks."""
        return self._coder.encode(torch.from_numpy(x))

    @torch.inference_mode()
    def decode(self, codes: Any) -> Floats:
        """The decoder of the autoencoder."""
        return self._coder.decode(codes.top_acts, codes.top_indices).numpy()


CODERS: tuple[type[Coder], ...] = (
    PlainTorch,
    CompiledTorch,
    SAELensPursuitEncoder,
    ScikitLearnOMP,
    SAELensTopKEncoder,
    SparsifyEncoder,
)
