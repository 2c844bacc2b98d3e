from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats

from core.refusals import refusal
from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics.group_tests import compare_groups, compare_wells, duplicates
from tasks import Looked


def draw(seed: int, n: int = 40, concepts: int = 7) -> tuple[sparse.csr_array, np.ndarray]:
    """Sparse codes with ties, negative entries, an empty column, and stored zeros; three groups."""
    random = np.random.default_rng(seed)
    dense = random.integers(-2, 5, (n, concepts)) * (random.random((n, concepts)) < 0.4)
    dense[:, 0] = 0
    codes = sparse.csr_array(dense.astype(np.float32))
    if codes.nnz:
        codes.data[0] = 0
    return codes, random.integers(0, 3, n)


@given(st.integers(0, 200))
def test_every_row_equals_scipys_test_of_that_concept(seed):
    codes, group = draw(seed)
    table = compare_groups(codes, group == 0, group == 1)
    dense = codes.toarray().astype(float)
    assert table.index.tolist() == list(range(7))
    for concept, row in table.iterrows():
        first, second = dense[group == 0, concept], dense[group == 1, concept]
        if len(np.unique(np.concatenate([first, second]))) == 1:
            assert (row["effect"], row["p_value"]) == (0, 1)
        else:
            u, p = stats.mannwhitneyu(second, first, method="asymptotic")
            assert row["effect"] == pytest.approx(2 * u / len(first) / len(second) - 1)
            assert row["p_value"] == pytest.approx(p)
        pairs = np.sign(second[:, None] - first)
        assert row["effect"] == pytest.approx(pairs.mean())
        assert row["rate_first"] == pytest.approx((first > 0).mean())
        assert row["rate_second"] == pytest.approx((second > 0).mean())
    # Benjamini and Hochberg, step by step.
    p = table["p_value"].to_numpy()
    smallest, expected = 1.0, np.empty(7)
    for rank, concept in reversed(list(enumerate(np.argsort(p), start=1))):
        smallest = min(smallest, p[concept] * 7 / rank)
        expected[concept] = smallest
    np.testing.assert_allclose(table["q_value"], expected)


def test_swapping_the_groups_turns_the_effect_round():
    codes, group = draw(5)
    there = compare_groups(codes, group == 0, group == 1)
    back = compare_groups(codes, group == 1, group == 0)
    np.testing.assert_allclose(there["effect"], -back["effect"], atol=1e-12)
    np.testing.assert_allclose(there["q_value"], back["q_value"])


def test_many_samples_lose_no_digits():
    """Ties of a million zeros are cubed, where 32 bits would overflow."""
    n = 1_000_000
    random = np.random.default_rng(0)
    rows = random.choice(n, 3000, replace=False)
    values = random.random(3000).astype(np.float32)
    codes = sparse.csr_array((values, (rows, np.zeros(3000, int))), shape=(n, 1))
    second = np.arange(n) < n // 3
    row = compare_groups(codes, ~second, second).iloc[0]
    dense = codes.toarray()[:, 0].astype(float)  # SciPy ranks in the precision of its input.
    u, p = stats.mannwhitneyu(dense[second], dense[~second], method="asymptotic")
    assert row["effect"] == pytest.approx(2 * u / second.sum() / (~second).sum() - 1, abs=1e-12)
    assert row["p_value"] == pytest.approx(p, rel=1e-9)


def test_an_empty_group_gives_no_numbers():
    codes, group = draw(1)
    assert compare_groups(codes, group == 0, group == 9).isna().all(axis=None)


def test_groups_that_do_not_fit_are_refused():
    codes, group = draw(1)
    with pytest.raises(MicrodlError, match="40 samples but groups of 39 and 40"):
        compare_groups(codes, (group == 0)[:-1], group == 1)
    assert "in both groups" in refusal(compare_groups, codes, group == 0, group < 2)


@pytest.mark.parametrize("rows_at_once", [3, 1000])
def test_of_two_that_point_the_same_way_the_less_active_is_the_duplicate(rows_at_once):
    random = np.random.default_rng(0)
    directions = random.normal(size=(12, 9)).astype(np.float32)
    directions[4] = directions[1] + 0.05 * random.normal(size=9)
    directions[9] = directions[1] + 0.05 * random.normal(size=9)
    directions[7] = -directions[2]
    directions[11] = 0
    directions[:11] /= np.linalg.norm(directions[:11], axis=1, keepdims=True)
    rate = random.random(12)
    rate[[1, 4, 9]] = 0.2, 0.5, 0.5
    cosine = directions @ directions.T
    found = duplicates(directions, rate, rows_at_once=rows_at_once)
    # 4 and 9 are equally active, so the first of them is the original.
    assert found[4] == -1
    assert found[9] == 4
    assert found[1] in {4, 9}
    assert cosine[1, found[1]] == cosine[1, [4, 9]].max()
    assert (np.delete(found, [1, 9]) == -1).all()


def test_concepts_in_many_blocks_are_those_of_one():
    codes, group = draw(3)
    sides = group == 0, group == 1
    wells = np.array([f"W{i % 5}" for i in range(len(group))])
    columns = sparse.csc_array(codes)
    for compare, more in ((compare_groups, ()), (compare_wells, (wells,))):
        whole = compare(codes, *sides, *more)
        with Looked().active() as task:
            found = compare(columns, *sides, *more, values_at_once=5)
        pd.testing.assert_frame_equal(found, whole)
        # Between any two blocks it can be cancelled.
        assert task.looks > 4


def well_means(
    codes: sparse.csr_array, wells: np.ndarray, chosen: np.ndarray, concept: int
) -> np.ndarray:
    values = codes.toarray()[:, concept].astype(float)
    return np.array([values[chosen & (wells == w)].mean() for w in np.unique(wells[chosen])])


@pytest.mark.parametrize(("n_wells", "exact"), [(4, True), (10, False)])
def test_wells_are_tested_by_their_means(n_wells, exact):
    """Against every arrangement one by one where there are few wells, else against SciPy."""
    random = np.random.default_rng(n_wells)
    # Wells of unlike size; the last cells are of neither side.
    well = random.integers(0, 2 * n_wells, 300)
    first, second = (well < n_wells), (well >= n_wells)
    first[-20:] = second[-20:] = False
    codes, _ = draw(1, n=300)
    codes = sparse.csr_array(codes.toarray() + 2 * (well >= n_wells)[:, None] * np.eye(7)[1])
    wells = np.array([f"W{w}" for w in well])
    table = compare_wells(codes, first, second, wells)
    for concept, row in table.iterrows():
        a, b = (well_means(codes, wells, side, int(concept)) for side in (first, second))
        assert row["effect"] == pytest.approx(np.sign(b[:, None] - a).mean())
        if concept == 0:
            assert row["p_value"] == 1
        elif exact:
            test = stats.permutation_test(
                (a, b),
                lambda x, y: np.sign(y[:, None] - x).sum(),
                vectorized=False,
                n_resamples=np.inf,
            )
            # SciPy doubles the smaller tail, which is the same where both are alike.
            assert row["p_value"] == pytest.approx(test.pvalue, abs=1e-9)
        else:
            test = stats.mannwhitneyu(b, a, method="asymptotic")
            assert row["p_value"] == pytest.approx(test.pvalue)
    assert table.loc[1, "effect"] == 1
    np.testing.assert_allclose(table["q_value"], stats.false_discovery_control(table["p_value"]))


def test_many_alike_cells_of_few_wells_prove_nothing_by_wells():
    """What cells make look certain: two wells a side, each with a level of its own."""
    random = np.random.default_rng(0)
    well = np.repeat(np.arange(4), 500)
    level = np.array([1.0, 3.0, 2.0, 4.0])[well]
    codes = sparse.csr_array((level + random.normal(size=2000))[:, None])
    second = well >= 2
    assert compare_groups(codes, ~second, second)["p_value"].iloc[0] < 1e-20
    row = compare_wells(codes, ~second, second, well).iloc[0]
    # Means in the order 1, 2, 3, 4 with sides a, b, a, b: four of the six arrangements are as far.
    assert (row["effect"], row["p_value"]) == (pytest.approx(0.5), pytest.approx(4 / 6))


def test_a_test_by_wells_takes_two_wells_a_side_and_one_entry_a_sample():
    codes, group = draw(2)
    one = np.where(group == 0, "A", np.arange(len(group)).astype(str))
    assert compare_wells(codes, group == 0, group == 1, one).isna().all(axis=None)
    with pytest.raises(MicrodlError, match="40 samples but 3 wells"):
        compare_wells(codes, group == 0, group == 1, np.arange(3))
    assert "both groups" in refusal(compare_wells, codes, group == 0, group < 2, np.arange(40))
