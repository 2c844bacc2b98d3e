"""An autoencoder on its way: its codes, its loss, one step of Adam at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.estimators.icfl.learner import Learner, products_with_codes
from napari_microdl.estimators.icfl.plan import Plan
from napari_microdl.estimators.pursuit.coder import Coder
from napari_microdl.estimators.pursuit.torch_backend import weighted_rows

if TYPE_CHECKING:
    import torch

    from napari_microdl.estimators.pursuit import PursuitOptions

# Numbers held at a time in the products of samples and encoder.
_CHUNK_NUMBERS = 1 << 24
# As Gao et al. have it: gradients of features that are rarely active are tiny.
_ADAM_EPSILON = 6.25e-10
# Below this the samples of a batch are all the same.
_LEAST_VARIANCE = 1e-30

PARAMETERS = ("atoms", "encoder", "encoder_bias", "bias")


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
    """Codes by one linear map, of which the largest positive values are kept.

    Parameters
    ----------
    weights : torch.Tensor of shape (n_atoms, n_features)
        The map.
    bias : torch.Tensor of shape (n_atoms,)
        Added to it.
    options : PursuitOptions
        How many values are kept.
    """

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
        """Values of all features.

        Parameters
        ----------
        x : torch.Tensor of shape (n_samples, n_features)
            Samples less the bias of the decoder.

        Returns
        -------
        torch.Tensor of shape (n_samples, n_atoms)
            None is negative.
        """
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
        """Take one step of Adam down the loss of a batch.

        Parameters
        ----------
        batch : ndarray of float32, shape (n_samples, n_features)
            Samples.
        may_redraw : bool
            Not used: the auxiliary loss is what brings dead features back.
        """
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
        """Loss of a batch, with its gradients written out.

        Parameters
        ----------
        batch : ndarray of float32, shape (n_samples, n_features)
            Samples.

        Returns
        -------
        Loss
            With the decoder's gradient as it is, its part along the atoms not yet removed.
        """
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
        """Everything that is learned, copied to the processor's memory.

        Returns
        -------
        dict of str to ndarray
            By the names in `PARAMETERS`.
        """
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
