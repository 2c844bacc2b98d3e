"""Slow, obvious versions of the numerical kernels, one sample and one formula at a time."""

from __future__ import annotations

import numpy as np
import scipy.optimize


def spoil(x, atoms):
    """Give a problem of twelve atoms or more what trips a pursuit; both are changed in place.

    Atoms 0 to 2 are multiples of one another, atom 3 is zero, atom 4 depends on two others; the
    first sample is zero and the second is an atom.
    """
    atoms[1] = atoms[0]
    atoms[2] = -3 * atoms[0]
    atoms[3] = 0
    atoms[4] = atoms[5] + atoms[6]
    x[0] = 0
    x[1] = atoms[0]


def independent_least_squares(columns, target, positive=False):
    """Least squares on the columns that do not depend on those before them; 0 for the others."""
    if positive:
        return scipy.optimize.nnls(columns, target)[0]
    kept = []
    for j in range(columns.shape[1]):
        column = columns[:, j]
        before = columns[:, kept]
        rest = column - before @ np.linalg.lstsq(before, column, rcond=None)[0] if kept else column
        if rest @ rest > 1e-9 * (column @ column):
            kept.append(j)
    coefficients = np.zeros(columns.shape[1])
    if kept:
        coefficients[kept] = np.linalg.lstsq(columns[:, kept], target, rcond=None)[0]
    return coefficients


def matching_pursuit(
    x, atoms, n_iterations, atoms_per_iteration, selection, refit, allow_repeats, positive=False
):
    """Picks and coefficients of every sample, in float64."""
    x = np.asarray(x, dtype=np.float64)
    atoms = np.asarray(atoms, dtype=np.float64)
    n_picks = n_iterations * atoms_per_iteration
    indices = np.full((len(x), n_picks), -1)
    values = np.zeros((len(x), n_picks))
    for i, sample in enumerate(x):
        picks, coefficients = [], np.zeros(0)
        residual = sample.copy()
        for _ in range(n_iterations):
            score = atoms @ residual
            if selection == "absolute":
                score = np.abs(score)
            # Of equal scores the lowest number comes first.
            order = [
                m for m in np.argsort(-score, kind="stable") if allow_repeats or m not in picks
            ]
            new = order[:atoms_per_iteration]
            if not new:
                break
            if refit == "full":
                picks = picks + new
                coefficients = independent_least_squares(atoms[picks].T, sample, positive)
                residual = sample - coefficients @ atoms[picks]
            else:
                z = independent_least_squares(atoms[new].T, residual, positive)
                residual = residual - z @ atoms[new]
                picks = picks + new
                coefficients = np.concatenate([coefficients, z])
        if refit == "final":
            coefficients = independent_least_squares(atoms[picks].T, sample, positive)
        indices[i, : len(picks)] = picks
        values[i, : len(picks)] = coefficients
    return indices, values


def replayed(x, atoms, indices, n_iterations, selection, refit, allow_repeats):
    """Coefficients that the given picks must have, and by how much one scored below one left out.

    Where atoms are equally good but for rounding, any of them may be picked, and all that follows
    depends on it; so the picks are taken as they are, and judged.
    """
    x, atoms = np.asarray(x, dtype=np.float64), np.asarray(atoms, dtype=np.float64)
    values = np.zeros(indices.shape)
    worse = 0.0
    for i, sample in enumerate(x):
        picks, coefficients, residual = [], np.zeros(0), sample.copy()
        for new in np.split(indices[i], n_iterations):
            new = [int(pick) for pick in new if pick >= 0]
            assert len(set(new)) == len(new)
            assert allow_repeats or not set(new) & set(picks)
            score = atoms @ residual
            if selection == "absolute":
                score = np.abs(score)
            left = [
                m for m in range(len(atoms)) if m not in new and (allow_repeats or m not in picks)
            ]
            if new and left:
                worse = max(worse, score[left].max() - score[new].min())
            if refit == "full":
                picks = picks + new
                coefficients = independent_least_squares(atoms[picks].T, sample)
                residual = sample - coefficients @ atoms[picks]
            elif new:
                z = independent_least_squares(atoms[new].T, residual)
                residual = residual - z @ atoms[new]
                picks, coefficients = picks + new, np.concatenate([coefficients, z])
        if refit == "final":
            coefficients = independent_least_squares(atoms[picks].T, sample)
        values[i, indices[i] >= 0] = coefficients
    return values, worse


def dense_codes(indices, values, n_atoms):
    """Codes as a matrix; coefficients of an atom picked twice add up."""
    codes = np.zeros((len(indices), n_atoms))
    for row, (picks, coefficients) in enumerate(zip(indices, values, strict=True)):
        for pick, coefficient in zip(picks, coefficients, strict=True):
            if pick >= 0:
                codes[row, pick] += coefficient
    return codes


class AdamStep:
    """Adam on sum ||x - W z - b||^2 over W and b with z fixed."""

    def __init__(self, atoms, bias, learning_rate):
        self.values = [np.array(atoms, dtype=np.float64), np.array(bias, dtype=np.float64)]
        self.first = [np.zeros_like(v) for v in self.values]
        self.second = [np.zeros_like(v) for v in self.values]
        self.learning_rate = learning_rate
        self.steps = 0

    def __call__(self, x, n_iterations, atoms_per_iteration):
        atoms, bias = self.values
        picks = matching_pursuit(
            x - bias, atoms, n_iterations, atoms_per_iteration, "signed", "block", True
        )
        codes = dense_codes(*picks, len(atoms))
        residual = x - codes @ atoms - bias
        self.steps += 1
        for i, gradient in enumerate([-2 * codes.T @ residual, -2 * residual.sum(axis=0)]):
            self.first[i] = 0.9 * self.first[i] + 0.1 * gradient
            self.second[i] = 0.999 * self.second[i] + 0.001 * gradient**2
            mean = self.first[i] / (1 - 0.9**self.steps)
            spread = self.second[i] / (1 - 0.999**self.steps)
            self.values[i] = self.values[i] - self.learning_rate * mean / (np.sqrt(spread) + 1e-8)
        return self.values


def newton_step(x, atoms, n_iterations, atoms_per_iteration):
    """One first step of the diagonal Newton update with its exact line search."""
    picks = matching_pursuit(x, atoms, n_iterations, atoms_per_iteration, "signed", "final", False)
    codes = dense_codes(*picks, len(atoms))
    residual = x - codes @ atoms
    direction = np.zeros_like(atoms)
    for m in range(len(atoms)):
        curvature = (codes[:, m] ** 2).sum()
        if curvature > 0:
            direction[m] = codes[:, m] @ residual / curvature
    moved = codes @ direction
    step = np.clip((residual * moved).sum() / (moved**2).sum(), 0.02, 1)
    atoms = atoms + step * direction
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def planted_dictionary(n_samples, n_features, n_atoms, n_active, seed):
    """Unit atoms and samples that are sums of a few of them, with noise 20 dB below."""
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(n_atoms, n_features))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    frequency = np.arange(1, n_atoms + 1) ** -0.5
    # The largest of log-frequency plus Gumbel noise: draws without replacement.
    noise = rng.gumbel(size=(n_samples, n_atoms))
    active = np.argsort(-np.log(frequency) - noise, axis=1)[:, :n_active]
    codes = np.zeros((n_samples, n_atoms))
    amounts = rng.exponential(1, size=active.shape) + 0.2
    np.put_along_axis(codes, active, amounts, axis=1)
    x = codes @ atoms
    x += rng.normal(size=x.shape) * np.sqrt((x**2).mean() / 100)
    return atoms, x.astype(np.float32)
