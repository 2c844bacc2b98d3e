from __future__ import annotations

import threading

import numpy as np
import pytest
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from threadpoolctl import threadpool_info

import references
from matrices import pairwise
from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.pursuit import codes_to_csr, compiled, matching_pursuit
from napari_microdl.estimators.pursuit.torch_backend import least_squares

VARIANTS = {
    "selection": ["signed", "absolute"],
    "refit": ["block", "full", "final"],
    "allow_repeats": [True, False],
}
METHODS = ["compiled", "gram", "residual"]
# Where a kernel can run here.
PLACES = [(method, "cpu") for method in METHODS]
if torch.cuda.is_available():
    PLACES += [("gram", "cuda"), ("residual", "cuda")]
PLACED_VARIANTS = {("method", "device"): PLACES, **VARIANTS}
TOLERANCES = {("dtype", "tolerance"): [(np.float32, 1e-4), (np.float64, 1e-9)]}
methods = pytest.mark.parametrize("method", METHODS)


def random_problem(n_samples=40, n_features=24, n_atoms=60, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(n_atoms, n_features))
    return rng.normal(size=(n_samples, n_features)).astype(dtype), atoms.astype(dtype)


def reconstruction(indices, values, atoms):
    return references.dense_codes(indices, values, len(atoms)) @ atoms


def assert_same_codes(codes, expected, atol=1e-12):
    """The same picks, and coefficients within a tolerance."""
    assert_array_equal(codes[0], expected[0])
    assert_allclose(codes[1], expected[1], atol=atol)


@pairwise({**PLACED_VARIANTS, **TOLERANCES})
def test_every_variant_agrees_with_the_slow_reference(variant, method, device, dtype, tolerance):
    x, atoms = random_problem(dtype=dtype)
    codes = matching_pursuit(x, atoms, 3, 4, method=method, device=device, **variant)
    assert [part.dtype for part in codes] == [np.int32, dtype]
    expected = references.matching_pursuit(x, atoms, 3, 4, **variant)
    assert_same_codes(codes, expected, tolerance)


@methods
def test_a_large_dictionary_of_odd_size_agrees_with_the_slow_reference(method):
    x, atoms = random_problem(n_samples=6, n_features=16, n_atoms=4099)
    codes = matching_pursuit(x, atoms, 2, 5, method=method)
    expected = references.matching_pursuit(x, atoms, 2, 5, "signed", "block", True)
    assert_same_codes(codes, expected, 1e-9)


@pairwise(PLACED_VARIANTS)
def test_of_equally_good_atoms_the_first_is_picked(variant, method, device):
    # Small whole numbers are exact in floating point, so that ties are ties.
    rng = np.random.default_rng(1)
    atoms = np.repeat(np.eye(6), 3, axis=0)
    atoms[4::3] *= -1
    x = rng.integers(-2, 3, size=(50, 6)).astype(np.float64)
    codes = matching_pursuit(x, atoms, 4, 2, method=method, device=device, **variant)
    assert_same_codes(codes, references.matching_pursuit(x, atoms, 4, 2, **variant))


@pairwise({**PLACED_VARIANTS, **TOLERANCES, ("n_iterations", "per_iteration"): [(3, 4), (2, 6)]})
def test_duplicate_atoms_zero_atoms_and_zero_samples_agree_with_the_slow_reference(
    variant, method, device, dtype, tolerance, n_iterations, per_iteration
):
    x, atoms = random_problem(n_atoms=14, dtype=dtype)
    references.spoil(x, atoms)
    indices, values = matching_pursuit(
        x, atoms, n_iterations, per_iteration, method=method, device=device, **variant
    )
    assert_array_equal(values[0], 0)
    assert_allclose(reconstruction(indices, values, atoms)[1], x[1], atol=tolerance)
    expected, worse = references.replayed(x, atoms, indices, n_iterations, **variant)
    assert worse < tolerance
    assert_allclose(values, expected, atol=tolerance)
    residual = x - reconstruction(indices, values, atoms)
    assert_allclose(residual, x - reconstruction(indices, expected, atoms), atol=tolerance)


@pairwise(PLACED_VARIANTS)
def test_fewer_atoms_than_picks(variant, method, device):
    x, atoms = random_problem(n_atoms=3)
    indices, values = matching_pursuit(x, atoms, 2, 5, method=method, device=device, **variant)
    assert indices.shape == values.shape == (40, 10)
    assert_array_equal(values[indices < 0], 0)
    if not variant["allow_repeats"]:
        assert_array_equal(np.sort(indices[:, :3]), np.tile([0, 1, 2], (40, 1)))
        assert_array_equal(indices[:, 3:], -1)
    # Three picks span all atoms: the codes are the least squares on the dictionary.
    best = np.linalg.lstsq(atoms.T, x.T, rcond=None)[0].T @ atoms
    assert_allclose(reconstruction(indices, values, atoms), best, atol=1e-6)


@methods
def test_more_picks_than_dimensions_reconstruct_exactly(method):
    x, atoms = random_problem(n_samples=20, n_features=5, n_atoms=40)
    indices, values = matching_pursuit(
        x, atoms, 4, 3, refit="full", allow_repeats=False, method=method
    )
    assert_allclose(reconstruction(indices, values, atoms), x, atol=1e-6)


def test_refits_reconstruct_better_the_more_they_solve():
    x, atoms = random_problem(n_samples=200, n_features=32, n_atoms=128)
    left = []
    for refit in ("block", "final", "full"):
        codes = matching_pursuit(x, atoms, 4, 3, refit=refit, allow_repeats=False)
        left.append(((x - reconstruction(*codes, atoms)) ** 2).sum())
    assert left[0] > left[1] > left[2]


def test_signed_picks_have_positive_products_and_absolute_ones_need_not():
    atoms = np.array([[1.0, 0.0], [0.0, 0.1]])
    x = np.array([[-5.0, 1.0]])
    assert matching_pursuit(x, atoms, 1, 1)[0][0, 0] == 1
    indices, values = matching_pursuit(x, atoms, 1, 1, selection="absolute")
    assert indices[0, 0] == 0
    assert values[0, 0] == -5


@given(
    chunk_size=st.integers(1, 70),
    method=st.sampled_from(METHODS),
    refit=st.sampled_from(["block", "full", "final"]),
)
def test_the_chunk_size_does_not_matter(chunk_size, method, refit):
    x, atoms = random_problem(n_samples=60)
    arguments = {"method": method, "refit": refit, "allow_repeats": False}
    whole = matching_pursuit(x, atoms, 3, 4, chunk_size=1000, **arguments)
    parts = matching_pursuit(x, atoms, 3, 4, chunk_size=chunk_size, **arguments)
    assert_same_codes(parts, whole)


@methods
def test_the_number_of_threads_does_not_matter(method, threads):
    x, atoms = random_problem(n_samples=500)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(matching_pursuit(x, atoms, 3, 4, method=method))
        assert torch.get_num_threads() == count
    for other in results[1:]:
        assert_same_codes(other, results[0])


def test_no_more_threads_run_than_torch_may_use(threads, monkeypatch):
    threads(2)
    x, atoms = random_problem(n_samples=3000)
    running, most = set(), []
    pursue_rows = compiled.pursue_rows

    def watched(*arguments):
        running.add(threading.get_ident())
        most.append(len(running))
        blas = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
        pursue_rows(*arguments)
        running.remove(threading.get_ident())
        assert len(running) < 2
        seen.append(blas)

    seen = []
    before = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    monkeypatch.setattr(compiled, "pursue_rows", watched)
    matching_pursuit(x, atoms, 3, 4, method="compiled")
    assert max(most) <= 2
    assert len(seen) >= 6
    after = [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
    assert after == before


def test_matrix_products_take_no_more_threads_than_torch_may_use(threads, monkeypatch):
    threads(1)
    x, atoms = random_problem(n_samples=3000)
    seen = []
    matmul = np.matmul

    def watched(*arguments, **named):
        seen.extend(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return matmul(*arguments, **named)

    monkeypatch.setattr(np, "matmul", watched)
    matching_pursuit(x, atoms, 3, 4, method="compiled")
    assert set(seen) == {1}


@pairwise(VARIANTS)
def test_without_numba_the_codes_are_the_same(variant, monkeypatch):
    x, atoms = random_problem(n_samples=200)
    expected = matching_pursuit(x, atoms, 3, 4, method="compiled", **variant)
    monkeypatch.setattr(
        "napari_microdl.estimators.pursuit.coder.compiled_module", lambda name: None
    )
    assert_same_codes(matching_pursuit(x, atoms, 3, 4, **variant), expected)
    with pytest.raises(MicrodlError, match="needs the package numba"):
        matching_pursuit(x, atoms, 3, 4, method="compiled", **variant)


@pairwise(
    {
        "method": METHODS,
        "refit": ["block", "full", "final"],
        "allow_repeats": [True, False],
        **TOLERANCES,
    }
)
def test_positive_codes_agree_with_non_negative_least_squares(
    method, refit, allow_repeats, dtype, tolerance
):
    # Correlated atoms, so that plain least squares does turn negative.
    x, atoms = random_problem(dtype=np.float64)
    atoms = (atoms + 1.5).astype(dtype)
    x = (x + 0.5).astype(dtype)
    arguments = {"refit": refit, "allow_repeats": allow_repeats}
    signed = matching_pursuit(x, atoms, 3, 4, method=method, **arguments)
    assert (signed[1] < 0).any()
    indices, values = matching_pursuit(
        x, atoms, 3, 4, method=method, positive_code=True, **arguments
    )
    assert (values >= 0).all()
    expected = references.matching_pursuit(
        x, atoms, 3, 4, "signed", refit, allow_repeats, positive=True
    )
    if allow_repeats:
        # Atoms that a least squares used have the correlation 0 but for rounding, so that which of
        # them is picked again, for nothing, is chance.
        left = np.linalg.norm(x - reconstruction(indices, values, atoms), axis=1)
        best = np.linalg.norm(x - reconstruction(*expected, atoms), axis=1)
        assert np.isclose(left, best, rtol=10 * tolerance).mean() >= 0.9
    else:
        assert_same_codes((indices, values), expected, tolerance)


@methods
@given(seed=st.integers(0, 10_000), duplicates=st.integers(0, 6))
def test_positive_codes_are_optimal_whatever_the_atoms(method, seed, duplicates):
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(14, 6)) + rng.uniform(0, 3)
    atoms[:duplicates] = atoms[6 : 6 + duplicates]
    x = rng.normal(size=(12, 6)) + rng.uniform(-1, 2)
    indices, values = matching_pursuit(
        x, atoms, 2, 4, refit="final", allow_repeats=False, positive_code=True, method=method
    )
    assert (values >= 0).all()
    for sample, picks, coefficients in zip(x, indices, values, strict=True):
        best = scipy.optimize.nnls(atoms[picks].T, sample)[1]
        left = np.linalg.norm(sample - coefficients @ atoms[picks])
        assert left <= best + 1e-6 * np.linalg.norm(sample)


def test_memory_maps_of_half_precision_are_read_piece_by_piece(tmp_path):
    x, atoms = random_problem(n_samples=20_000, dtype=np.float16)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    codes = matching_pursuit(mapped, atoms, 2, 2)
    expected = matching_pursuit(x.astype(np.float32), atoms.astype(np.float32), 2, 2)
    assert_array_equal(codes[0], expected[0])
    assert_array_equal(codes[1], expected[1])


def test_automatic_choice_of_the_method_changes_nothing():
    x, atoms = random_problem(n_samples=100)
    few = matching_pursuit(x[:2], atoms, 3, 4)
    many = matching_pursuit(x, atoms, 3, 4)
    assert_same_codes(few, [part[:2] for part in many])


def test_no_samples_give_no_codes():
    indices, values = matching_pursuit(np.zeros((0, 24)), random_problem()[1], 3, 4)
    assert indices.shape == values.shape == (0, 12)


def test_read_only_and_integer_samples_are_accepted():
    x, atoms = random_problem(dtype=np.float32)
    x.flags.writeable = False
    indices, _ = matching_pursuit(x, atoms, 3, 4)
    assert_array_equal(indices, matching_pursuit(x.copy(), atoms, 3, 4)[0])
    assert matching_pursuit(np.eye(24, dtype=int), atoms, 1, 1)[1].dtype == np.float32


def test_codes_as_a_sparse_matrix():
    indices = np.array([[3, 1, 3], [0, -1, -1], [2, 2, 1]], dtype=np.int32)
    values = np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0], [1.0, -1.0, 4.0]], dtype=np.float32)
    codes = codes_to_csr(indices, values, 5)
    assert codes.dtype == np.float32
    assert codes.has_canonical_format
    assert codes.nnz == 3
    assert_array_equal(codes.toarray(), references.dense_codes(indices, values, 5))


def test_least_squares_gives_dependent_atoms_nothing():
    columns = np.array([[1.0, 0, 1, 0, 2], [0, 1, 1, 0, 0], [0, 0, 0, 0, 1]])
    target = np.array([1.0, 2.0, 3.0])
    solved = least_squares(
        torch.from_numpy(columns.T @ columns)[None], torch.from_numpy(columns.T @ target)[None]
    )
    assert_allclose(solved[0], references.independent_least_squares(columns, target), atol=1e-12)
    assert_array_equal(solved[0, [2, 3]], 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_iterations": 0}, "n_iterations is 0"),
        ({"atoms_per_iteration": 0}, "atoms_per_iteration is 0"),
        ({"selection": "best"}, "selection is 'best'"),
        ({"refit": "all"}, "refit is 'all'"),
        ({"method": "magic"}, "method is 'magic'"),
        ({"positive_code": True, "selection": "absolute"}, "positive_code=True needs"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"x": np.zeros((3, 5))}, "the same width"),
        ({"x": np.zeros(4)}, "the same width"),
        ({"atoms": np.zeros((0, 4))}, "no atoms"),
        ({"x": np.full((3, 4), np.nan)}, "NaN"),
        ({"atoms": np.full((3, 4), np.inf)}, "infinity"),
    ],
)
def test_bad_input_is_named(arguments, message):
    good = {"x": np.ones((3, 4)), "atoms": np.eye(4), "n_iterations": 2, "atoms_per_iteration": 1}
    with pytest.raises(MicrodlError, match=message):
        matching_pursuit(**(good | arguments))
