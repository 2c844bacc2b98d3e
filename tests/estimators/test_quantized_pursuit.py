"""The pursuit that picks by rounded numbers: its picks are nearly those of the exact one, and for
its picks its coefficients are exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import references
from matrices import pairwise
from napari_microdl import ICFL
from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.pursuit import matching_pursuit, rounding
from napari_microdl.estimators.pursuit.jit import multiplies_bytes
from napari_microdl.estimators.pursuit.torch_backend import rounded_gram_matrix

SELECTIONS = ["signed", "absolute"]
REFITS = ["block", "final"]
VARIANTS = {"selection": SELECTIONS, "allow_repeats": [True, False], "refit": REFITS}
_WITH = pytest.mark.skipif(
    not multiplies_bytes(), reason="the processor has no instructions for it"
)
PRODUCTS = [False, pytest.param(True, marks=_WITH)]


@pytest.fixture(params=PRODUCTS, ids=["float32 products", "8-bit products"])
def products(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(rounding, "multiplies_bytes", lambda: False)
    return request.param


def planted(n_samples=300, n_features=256, n_atoms=700, n_active=12, correlation=0.0, seed=0):
    """Samples of a few atoms and noise, and atoms as if they had been learned."""
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(n_atoms, n_features))
    atoms[1::2] += np.sqrt(correlation / (1 - correlation)) * atoms[::2][: len(atoms[1::2])]
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    x = np.zeros((n_samples, n_features))
    for sample in x:
        active = rng.choice(n_atoms, n_active, replace=False)
        sample += (0.2 + rng.exponential(size=n_active)) @ atoms[active]
    x += 0.1 * np.linalg.norm(x, axis=1, keepdims=True) * rng.normal(size=x.shape) / 16
    atoms += 0.2 * rng.normal(size=atoms.shape) / np.sqrt(n_features)
    return x.astype(np.float32), atoms.astype(np.float32)


def explained(x, codes, atoms):
    left = x - references.dense_codes(*codes, len(atoms)) @ atoms
    return 1 - (left**2).sum() / (x**2).sum()


def exact_values(x, indices, atoms, per_iteration, refit, positive=False):
    """Coefficients of given picks, in float64."""
    x, atoms = x.astype(np.float64), atoms.astype(np.float64)
    values = np.zeros(indices.shape)
    for sample, picks, coefficients in zip(x, indices, values, strict=True):
        residual = sample.copy()
        if refit == "final":
            coefficients[:] = references.independent_least_squares(atoms[picks].T, sample, positive)
            continue
        for start in range(0, len(picks), per_iteration):
            new = slice(start, start + per_iteration)
            columns = atoms[picks[new]].T
            coefficients[new] = references.independent_least_squares(columns, residual, positive)
            residual -= columns @ coefficients[new]
    return values


@pairwise({**VARIANTS, "correlation": [0.0, 0.8]})
def test_it_reconstructs_as_well_as_the_exact_pursuit(variant, correlation, products):
    x, atoms = planted(correlation=correlation)
    codes = matching_pursuit(x, atoms, 4, 5, method="quantized", **variant)
    exact = matching_pursuit(x, atoms, 4, 5, method="compiled", **variant)
    same = [len(set(a) & set(b)) / len(set(b)) for a, b in zip(codes[0], exact[0], strict=True)]
    assert np.mean(same) > 0.95
    assert_allclose(explained(x, codes, atoms), explained(x, exact, atoms), atol=1e-3)


@pairwise({"selection": SELECTIONS, "refit": REFITS, "per_iteration": [1, 3, 5, 7]})
def test_the_coefficients_of_its_picks_are_exact(selection, refit, per_iteration, products):
    x, atoms = planted(n_samples=40)
    atoms *= np.random.default_rng(1).uniform(0.5, 2, size=(len(atoms), 1)).astype(np.float32)
    indices, values = matching_pursuit(
        x, atoms, 3, per_iteration, selection=selection, refit=refit, allow_repeats=False,
        method="quantized",
    )  # fmt: skip
    expected = exact_values(x, indices, atoms, per_iteration, refit)
    assert_allclose(values, expected, atol=2e-4 * np.abs(expected).max())


@pytest.mark.parametrize("refit", REFITS)
def test_positive_codes_are_the_non_negative_least_squares_of_its_picks(refit, products):
    x, atoms = planted(n_samples=40)
    atoms += 0.05
    indices, values = matching_pursuit(
        x, atoms, 3, 4, refit=refit, allow_repeats=False, positive_code=True, method="quantized"
    )
    assert (values >= 0).all()
    assert (values == 0).any()
    expected = exact_values(x, indices, atoms, 4, refit, positive=True)
    assert_allclose(values, expected, atol=1e-3 * expected.max())


def test_single_large_numbers_do_not_drown_the_others(products):
    x, atoms = planted()
    # One feature carries nearly all of every second sample, and of some atoms.
    x[::2, 7] += 30 * np.linalg.norm(x[::2], axis=1)
    exact = matching_pursuit(x, atoms, 4, 5, refit="final", allow_repeats=False)
    codes = matching_pursuit(x, atoms, 4, 5, refit="final", allow_repeats=False, method="quantized")
    left = [
        np.linalg.norm(np.delete(x - references.dense_codes(*c, len(atoms)) @ atoms, 7, axis=1))
        for c in (codes, exact)
    ]
    assert left[0] < 1.01 * left[1]
    atoms[::50, 7] = 5
    codes = matching_pursuit(x, atoms, 4, 5, method="quantized")
    exact = matching_pursuit(x, atoms, 4, 5, method="compiled")
    assert_allclose(explained(x, codes, atoms), explained(x, exact, atoms), atol=1e-3)


@pairwise(VARIANTS)
def test_duplicates_zeros_and_few_atoms_give_finite_codes(variant):
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=(12, 24)).astype(np.float32)
    x = rng.normal(size=(40, 24)).astype(np.float32)
    references.spoil(x, atoms)
    indices, values = matching_pursuit(x, atoms, 3, 5, method="quantized", **variant)
    assert np.isfinite(values).all()
    assert_array_equal(values[0], 0)
    assert_array_equal(values[indices < 0], 0)
    if not variant["allow_repeats"]:
        assert all(len(set(p[p >= 0])) == (p >= 0).sum() for p in indices)
    back = references.dense_codes(indices, values, 12) @ atoms
    assert_allclose(back[1], x[1], atol=1e-3)
    # No sample is further from its reconstruction than from zero.
    assert (np.linalg.norm(x - back, axis=1) <= np.linalg.norm(x, axis=1) * (1 + 1e-5)).all()


@given(chunk_size=st.integers(1, 70), refit=st.sampled_from(["block", "final"]))
def test_the_chunk_size_does_not_matter(chunk_size, refit):
    x, atoms = planted(n_samples=60, n_atoms=100)
    x[::7, 3] += 20
    arguments = {"method": "quantized", "refit": refit}
    whole = matching_pursuit(x, atoms, 3, 4, chunk_size=1000, **arguments)
    parts = matching_pursuit(x, atoms, 3, 4, chunk_size=chunk_size, **arguments)
    # Exact products of uneven samples may differ in their last bits.
    agree = (parts[0] == whole[0]).all(axis=1)
    assert agree.mean() > 0.95
    assert_allclose(parts[1][agree], whole[1][agree], atol=1e-4)


def test_the_number_of_threads_does_not_matter(threads):
    x, atoms = planted(n_samples=500)
    results = []
    for n in (1, 2, 3):
        threads(n)
        results.append(matching_pursuit(x, atoms, 3, 4, method="quantized"))
    for other in results[1:]:
        assert_array_equal(other[0], results[0][0])
        assert_allclose(other[1], results[0][1], atol=1e-4)


def test_the_rounded_gram_matrix_is_within_half_a_step_of_the_exact_one():
    _, atoms = planted(n_atoms=300, correlation=0.9)
    atoms[5] = 3 * atoms[4]
    gram = rounded_gram_matrix(torch.from_numpy(atoms))
    exact = atoms.astype(np.float64) @ atoms.T.astype(np.float64)
    np.fill_diagonal(exact, 0)
    fine = (256.0 * gram.high + gram.low) * gram.steps[:, None].astype(np.float64)
    coarse = 256.0 * gram.high * gram.steps[:, None]
    assert (np.abs(fine - exact) <= 0.51 * gram.steps[:, None] + 1e-6).all()
    assert (np.abs(coarse - exact) <= 129 * gram.steps[:, None] + 1e-6).all()
    # A long double of an atom takes the eight bits for itself.
    assert gram.uneven[4]
    assert not rounded_gram_matrix(torch.from_numpy(planted()[1])).uneven.any()


def test_an_estimator_codes_with_it_when_told_to():
    x, _ = planted(n_samples=600, n_features=64, n_atoms=96, n_active=6)
    icfl = ICFL(n_atoms=96, n_iterations=2, atoms_per_iteration=3, max_steps=40, random_state=0)
    exact = icfl.fit(x).transform(x)
    icfl.set_params(transform_algorithm="quantized")
    codes = icfl.transform(x)
    indices, values = matching_pursuit(
        x, icfl.components_, 2, 3, refit="final", allow_repeats=False, method="quantized"
    )
    expected = references.dense_codes(indices, values, 96)
    assert_allclose(codes.toarray(), expected, atol=1e-6)
    assert abs(codes - exact).max() > 0
    again = icfl.transform(x.astype(np.float64))
    assert_array_equal(again.toarray(), codes.toarray())
    icfl.set_params(transform_algorithm="fast")
    with pytest.raises(MicrodlError, match="transform_algorithm is 'fast'"):
        icfl.transform(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"x": np.ones((3, 4))}, "codes float32 samples"),
        ({"refit": "full"}, "cannot solve for all picks"),
    ],
)
def test_what_it_cannot_do_is_said(arguments, message):
    good = {"x": np.ones((3, 4), np.float32), "atoms": np.eye(4)}
    with pytest.raises(MicrodlError, match=message):
        matching_pursuit(
            **(good | arguments), n_iterations=2, atoms_per_iteration=1, method="quantized"
        )


def test_without_numba_it_is_refused(monkeypatch):
    monkeypatch.setattr(
        "napari_microdl.estimators.pursuit.coder.compiled_module", lambda name: None
    )
    with pytest.raises(MicrodlError, match="method='quantized' needs the package numba"):
        matching_pursuit(np.ones((3, 4), np.float32), np.eye(4), 2, 1, method="quantized")
