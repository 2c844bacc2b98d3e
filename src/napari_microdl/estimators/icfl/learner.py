"""Atoms on their way: one step, one redraw, one record at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Self, cast

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.arrays import torch_threads
from napari_microdl.estimators.icfl.plan import FitRecord, Plan
from napari_microdl.estimators.pursuit.coder import Coder
from napari_microdl.estimators.pursuit.torch_backend import as_tensor, weighted_rows

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

_RESET_EVERY = 100
_RESET_COSINE = 0.9
# An atom is dead if it is active in a smaller share of the samples of the last 1,000 steps.
_DEAD_SHARE = 1e-5
_DEAD_WINDOW = 1000
# Share of the old value in the running averages of the newton update.
_MEMORY = 0.8
_STEP_RANGE = (0.02, 1.0)
# Atoms compared at a time.
_PAIR_ROWS = 1024

_TENSORS = ("atoms", "bias", "first", "second", "bias_first", "bias_second")
_COUNTS = ("active", "active_of", "picked")
_NUMBERS = ("steps", "steps_before", "n_samples", "resets", "r2", "held_out_r2", "seconds")


class Processes:
    """The processes of a fit, of which each codes its share of every batch.

    All of them hold the same atoms and draw the same random numbers, so that only sums need to be
    exchanged.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup or None
        Processes that fit together, for example ``torch.distributed.group.WORLD``; None is this
        process alone.
    device : str
        Device of the atoms, as torch names it.
    """

    def __init__(self, group: ProcessGroup | None = None, device: str = "cpu") -> None:
        self._group = group
        self.rank = 0
        self.count = 1
        self._through: str | None = None
        if group is not None:
            import torch.distributed

            self.rank = group.rank()
            self.count = group.size()
            # NCCL adds up what lies on the accelerators only.
            if torch.distributed.get_backend(group) == "nccl":
                self._through = device

    @property
    def share(self) -> slice:
        """Rows of a batch that are this process's to code."""
        return slice(self.rank, None, self.count)

    def sum(self, *values: torch.Tensor) -> None:
        """Add up over the processes, in place; shapes are the same in every process."""
        if self._group is None:
            return
        import torch.distributed

        for value in values:
            if self._through is None or value.device.type != "cpu":
                torch.distributed.all_reduce(value, group=self._group)
            else:
                moved = value.to(self._through)
                torch.distributed.all_reduce(moved, group=self._group)
                value.copy_(moved)


class Learner:
    """A dictionary that is being learned, and what the update remembers between steps.

    Parameters
    ----------
    plan : Plan
        Settings.
    atoms : ndarray of float32, shape (n_atoms, n_features)
        First atoms.
    bias : ndarray of float32, shape (n_features,)
        First bias.
    rng : numpy.random.RandomState
        Source of every later draw.
    processes : Processes
        Who shares the fit.
    n_frozen : int
        Number of first atoms that take part in the coding but stay as they are.
    """

    def __init__(
        self,
        plan: Plan,
        atoms: NDArray[np.float32],
        bias: NDArray[np.float32],
        rng: np.random.RandomState,
        processes: Processes | None = None,
        n_frozen: int = 0,
    ) -> None:
        import torch

        self.plan = plan
        self.rng = rng
        self.processes = processes or Processes()
        self.n_frozen = n_frozen
        self.atoms = torch.tensor(atoms, device=plan.device)
        self.bias = torch.tensor(bias, device=plan.device)
        self.steps = 0
        self.steps_before = 0
        self.n_samples = 0
        self.resets = 0
        self.r2 = 0.0
        self.held_out_r2: float | None = None
        self.seconds = 0.0
        # Newton: running Z'R and sum of z^2. Adam: first and second moments of atoms and bias.
        self.first = torch.zeros_like(self.atoms)
        self.second = torch.zeros_like(
            self.atoms if plan.update == "adam" else self.atoms[:, 0].contiguous()
        )
        self.bias_first = torch.zeros_like(self.bias)
        self.bias_second = torch.zeros_like(self.bias)
        buckets = _DEAD_WINDOW // _RESET_EVERY
        self.active = np.zeros((buckets, plan.n_atoms), dtype=np.int64)
        self.active_of = np.zeros(buckets, dtype=np.int64)
        self.picked = np.zeros(plan.n_atoms, dtype=np.int64)

    @classmethod
    def resume(
        cls,
        plan: Plan,
        atoms: NDArray[np.float32],
        bias: NDArray[np.float32],
        dead: NDArray[np.bool_],
        rng: np.random.RandomState,
    ) -> Self:
        """Go on from given atoms, of which some were dead."""
        learner = cls(plan, atoms, bias, rng)
        # Alive atoms stay so until the window has passed: one small batch cannot use them all.
        learner.active[-1] = ~dead
        return learner

    def arrays(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Atoms and bias, copied to the CPU's memory."""
        return self.atoms.cpu().numpy().copy(), self.bias.cpu().numpy().copy()

    def dead(self) -> NDArray[np.bool_]:
        """Atoms that are hardly ever active."""
        return cast(
            "NDArray[np.bool_]",
            self.active.sum(axis=0) < _DEAD_SHARE * max(1, self.active_of.sum()),
        )

    def record(self, total_steps: int | None) -> FitRecord:
        """Where the fit stands."""
        return FitRecord(
            step=self.steps_before + self.steps,
            total_steps=total_steps,
            n_samples=self.n_samples,
            r2=self.r2,
            dead_atoms=int(self.dead().sum()),
            resets=self.resets,
            seconds=self.seconds,
            held_out_r2=self.held_out_r2,
        )

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """All that another process needs to go on from here: arrays, and the rest, fit for JSON."""
        arrays = {name: getattr(self, name).cpu().numpy() for name in _TENSORS}
        arrays |= {name: getattr(self, name) for name in _COUNTS}
        _, keys, position, has_gauss, gauss = self.rng.get_state(legacy=True)
        arrays["random_keys"] = keys
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        numbers["random"] = [int(position), int(has_gauss), float(gauss)]
        return arrays, numbers

    def restore(self, arrays: dict[str, NDArray[Any]], numbers: dict[str, Any]) -> None:
        """Take over what `state` returned for the same plan."""
        import torch

        for name in _TENSORS:
            setattr(self, name, torch.tensor(arrays[name], device=self.plan.device))
        for name in _COUNTS:
            setattr(self, name, arrays[name].copy())
        for name in _NUMBERS:
            setattr(self, name, numbers[name])
        position, has_gauss, gauss = numbers["random"]
        self.rng.set_state(("MT19937", arrays["random_keys"], position, has_gauss, gauss))

    def coder(self, n_expected: int) -> Coder:
        """What codes so many samples in the atoms as they are now, until they move."""
        return Coder(self.atoms, self.plan.coding, n_expected=n_expected)

    def step(self, batch: NDArray[np.float32], *, may_redraw: bool = True) -> None:
        """Code this process's share of a batch and move the atoms.

        Parameters
        ----------
        batch : ndarray of float32, shape (n_samples, n_features)
            The share.
        may_redraw : bool
            Whether atoms without use may be drawn anew; atoms that are too close to another are in
            any case, for "adam".
        """
        import torch

        started = time.perf_counter()
        # A step passes its work between libraries, and the waiting threads of one keep the cores
        # from the next by running: on two cores, two threads took 1.2 to 10 times as long as one
        # (benchmarks/threads.py).
        with torch.no_grad(), torch_threads(1):
            x = self.centred(batch)
            indices, values = self.coder(len(x)).code(x)
            residual = x - weighted_rows(indices, values, self.atoms)
            n = torch.tensor(len(x))
            energies = torch.stack([residual.square().sum(), x.square().sum()])
            self.processes.sum(energies, n)
            self.r2 = _explained(energies)
            self._count(indices, values, int(n))
            if self.plan.update == "newton":
                self._newton(indices, values, residual)
            else:
                self._adam(indices, values, residual)
            self.steps += 1
            self.n_samples += int(n)
            if self.steps % _RESET_EVERY == 0:
                if may_redraw or self.plan.update == "adam":
                    self._redraw(residual, int(n))
                self.picked[:] = 0
        self.seconds += time.perf_counter() - started

    def score(self, samples: NDArray[np.float32]) -> float:
        """Share of the samples' energy that their codes reconstruct (R2), 1 where there is none."""
        import torch

        started = time.perf_counter()
        with torch.no_grad(), torch_threads(1):
            x = self.centred(samples)
            energies = torch.zeros(2, dtype=torch.float64)
            # One process measures for all, so that all draw the same conclusions.
            if self.processes.rank == 0:
                for rows, indices, values in self.coder(len(x)).chunks(x):
                    residual = x[rows] - weighted_rows(indices, values, self.atoms)
                    energies[0] += float(residual.square().sum())
                    energies[1] += float(x[rows].square().sum())
            self.processes.sum(energies)
        self.seconds += time.perf_counter() - started
        return _explained(energies)

    def residual(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Samples less bias and reconstruction."""
        import torch

        with torch.no_grad(), torch_threads(1):
            x = self.centred(samples)
            for rows, indices, values in self.coder(len(x)).chunks(x):
                x[rows] -= weighted_rows(indices, values, self.atoms)
        return x.cpu().numpy()

    def activity(self, indices: torch.Tensor, values: torch.Tensor) -> NDArray[np.int64]:
        """In how many samples each atom is active."""
        active = values > 0 if self.plan.coding.selection == "signed" else values != 0
        return np.bincount(indices[active].cpu().numpy(), minlength=self.plan.n_atoms)

    def centred(self, samples: NDArray[np.float32]) -> torch.Tensor:
        """Contiguous samples less the bias, on the device of the atoms."""
        return as_tensor(samples, self.plan.device) - self.bias

    def _count(self, indices: torch.Tensor, values: torch.Tensor, n: int) -> None:
        import torch

        counts = torch.from_numpy(
            np.stack(
                [
                    self.activity(indices, values),
                    np.bincount(indices[values != 0].cpu().numpy(), minlength=self.plan.n_atoms),
                ]
            )
        )
        self.processes.sum(counts)
        bucket = self.steps // _RESET_EVERY % len(self.active)
        if self.steps % _RESET_EVERY == 0:
            self.active[bucket] = 0
            self.active_of[bucket] = 0
        self.active[bucket] += counts[0].numpy()
        self.active_of[bucket] += n
        self.picked += counts[1].numpy()

    def _newton(self, indices: torch.Tensor, values: torch.Tensor, residual: torch.Tensor) -> None:
        """Diagonal Newton direction for each atom, one exact line search for all of them."""
        import torch

        pull = products_with_codes(indices, values, residual, self.plan.n_atoms)
        curvature = torch.bincount(
            indices.flatten(), values.square().flatten(), minlength=self.plan.n_atoms
        )
        self.processes.sum(pull, curvature)
        self.first.mul_(_MEMORY).add_(pull, alpha=1 - _MEMORY)
        self.second.mul_(_MEMORY).add_(curvature, alpha=1 - _MEMORY)
        # An atom that this batch does not use would move on without being seen.
        scale = torch.where(curvature > 0, 1 / self.second, 0.0)
        scale[: self.n_frozen] = 0
        direction = self.first * scale[:, None]
        moved = weighted_rows(indices, values, direction)
        sizes = torch.stack([(residual * moved).sum(), moved.square().sum()])
        self.processes.sum(sizes)
        gain, size = sizes.tolist()
        if size > 0:
            self.atoms += min(max(gain / size, _STEP_RANGE[0]), _STEP_RANGE[1]) * direction
        free = self.atoms[self.n_frozen :]
        norm = torch.linalg.vector_norm(free, dim=1, keepdim=True)
        free /= torch.where(norm > 0, norm, 1.0)

    def _adam(self, indices: torch.Tensor, values: torch.Tensor, residual: torch.Tensor) -> None:
        """Adam on the sum of squared residuals over atoms and bias, codes fixed."""
        slope = -2 * products_with_codes(indices, values, residual, self.plan.n_atoms)
        bias_slope = -2 * residual.sum(dim=0)
        self.processes.sum(slope, bias_slope)
        slope[: self.n_frozen] = 0
        if self.n_frozen:
            # The frozen atoms were learned around this bias.
            bias_slope.zero_()
        t = self.steps + 1
        for value, gradient, first, second in (
            (self.atoms, slope, self.first, self.second),
            (self.bias, bias_slope, self.bias_first, self.bias_second),
        ):
            first.mul_(0.9).add_(gradient, alpha=0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            root = (second / (1 - 0.999**t)).sqrt_().add_(1e-8)
            value.addcdiv_(first, root, value=-self.plan.learning_rate / (1 - 0.9**t))

    def _redraw(self, residual: torch.Tensor, n: int) -> None:
        """Reset one of each two atoms that are too close and, for newton, atoms without use."""
        import torch

        gone = self._too_close()
        if self.plan.update == "newton":
            gone |= self.picked == 0
        gone[: self.n_frozen] = False
        # One process decides for all.
        decided = torch.from_numpy(gone.astype(np.uint8) * (self.processes.rank == 0))
        self.processes.sum(decided)
        rows = np.flatnonzero(decided.numpy())
        if not len(rows):
            return
        fresh = directions(self.rng, len(rows), self.atoms.shape[1])
        if self.plan.update == "newton":
            self._directions_of_residuals(residual, n, fresh)
        where = torch.from_numpy(rows).to(self.atoms.device)
        self.atoms[where] = torch.from_numpy(fresh).to(self.atoms.device)
        self.first[where] = 0
        self.second[where] = 0
        self.active[:, rows] = 0
        self.resets += len(rows)

    def _directions_of_residuals(
        self, residual: torch.Tensor, n: int, fresh: NDArray[np.float32]
    ) -> None:
        """Overwrite directions by what is least explained: there an atom is missing."""
        import torch

        left = residual.cpu().numpy()
        energy = torch.zeros(n, dtype=torch.float64)
        energy[self.processes.share] = torch.from_numpy(
            np.einsum("ij,ij->i", left, left, dtype=np.float64)
        )
        self.processes.sum(energy)
        chance = energy.numpy() / (float(energy.sum()) or 1.0)
        n_drawn = min(len(fresh), int(np.count_nonzero(chance)))
        if not n_drawn:
            return
        drawn = self.rng.choice(n, n_drawn, replace=False, p=chance)
        taken = torch.zeros((n_drawn, left.shape[1]))
        own = np.flatnonzero(drawn % self.processes.count == self.processes.rank)
        taken[own] = torch.from_numpy(left[drawn[own] // self.processes.count])
        self.processes.sum(taken)
        fresh[:n_drawn] = taken.numpy() / np.sqrt(energy.numpy()[drawn, None])

    def _too_close(self) -> NDArray[np.bool_]:
        import torch

        norm = torch.linalg.vector_norm(self.atoms, dim=1, keepdim=True)
        unit = self.atoms / torch.where(norm > 0, norm, 1.0)
        gone = np.zeros(self.plan.n_atoms, dtype=bool)
        for start in range(0, len(unit), _PAIR_ROWS):
            cosine = unit[start : start + _PAIR_ROWS] @ unit.T
            if self.plan.coding.selection == "absolute":
                cosine = cosine.abs()
            close = (cosine > _RESET_COSINE).cpu().numpy()
            for one in start + np.flatnonzero(close.sum(axis=1) > 1):
                for other in np.flatnonzero(close[one - start]):
                    if gone[one]:
                        break
                    if one < other and not gone[other]:
                        # Of a frozen atom and a free one, the free one goes.
                        first = one >= self.n_frozen and self.picked[one] < self.picked[other]
                        gone[one if first else other] = True
        return gone


def directions(rng: np.random.RandomState, count: int, width: int) -> NDArray[np.float32]:
    """Random unit vectors, uniform on the sphere, shape (count, width)."""
    drawn = rng.standard_normal((count, width))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return drawn.astype(np.float32)


def products_with_codes(
    indices: torch.Tensor, values: torch.Tensor, residual: torch.Tensor, n_atoms: int
) -> torch.Tensor:
    """Z'R, summed atom by atom in a fixed order.

    Parameters
    ----------
    indices, values : torch.Tensor of shape (n_samples, n_picks)
        Codes Z.
    residual : torch.Tensor of shape (n_samples, n_features)
        R.
    n_atoms : int
        Rows of the result.

    Returns
    -------
    torch.Tensor of shape (n_atoms, n_features)
        The products.
    """
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


def _explained(energies: torch.Tensor) -> float:
    """1 minus the energy of the residual over that of the samples."""
    left, whole = energies.tolist()
    return 1 - left / whole if whole > 0 else 1.0
