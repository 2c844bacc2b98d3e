from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from scipy.stats import spearmanr
from sklearn.metrics.pairwise import cosine_similarity

from core.refusals import refusal
from napari_microdl import PipelineConfig, run_pipeline
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.simulator import simulate_plate
from napari_microdl.metrics import agreement_of, factor_recovery, match_dictionaries


def atoms(n: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, width))


@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 5))
def test_no_other_pairing_has_a_larger_sum(seed, n_first, n_second):
    first, second = atoms(n_first, 4, seed), 3 * atoms(n_second, 4, seed + 1)
    found = match_dictionaries(first, second)
    cosines = cosine_similarity(first, second)
    if n_first > n_second:
        cosines = cosines.T
    rows = np.arange(len(cosines))
    best = max(
        cosines[rows, list(columns)].sum()
        for columns in permutations(range(cosines.shape[1]), len(rows))
    )
    assert found.cosine.sum() == pytest.approx(best, abs=1e-5)
    assert len(set(found.first)) == len(set(found.second)) == len(found.cosine) == len(rows)
    np.testing.assert_allclose(
        found.cosine, cosine_similarity(first, second)[found.first, found.second], atol=1e-6
    )


def test_a_shuffled_dictionary_is_the_same_and_its_opposite_is_not():
    first = atoms(20, 8, 0)
    order = np.random.default_rng(1).permutation(20)
    same = match_dictionaries(first, 5 * first[order])
    assert same.matched == 1
    assert same.mean == pytest.approx(1, abs=1e-6)
    assert (order[same.second] == same.first).all()
    assert match_dictionaries(first[:3], -first[:3]).matched == 0


def test_half_of_the_atoms_matched_counts_half():
    first = np.eye(6)
    second = np.vstack([np.eye(6)[:3], -np.eye(6)[3:]])
    found = match_dictionaries(first, second)
    assert found.matched == 0.5
    # A third dictionary equal to the first: pairs of 1/2, 1 and 1/2.
    pairs = [match_dictionaries(a, b) for a, b in combinations([first, second, first], 2)]
    table = agreement_of(pairs)
    assert table["matched_share"] == pytest.approx(2 / 3)
    assert table["matched_share_spread"] == pytest.approx(np.std([0.5, 1, 0.5]))
    assert table["matched_cosine"] == pytest.approx(
        np.mean([found.mean, 1, match_dictionaries(second, first).mean])
    )
    assert table["matched_cosine_spread"] > 0


def test_what_does_not_fit_is_refused():
    assert "fitted on the same features" in refusal(match_dictionaries, np.eye(3), np.eye(4))
    assert "without atoms" in refusal(match_dictionaries, np.eye(3), np.empty((0, 3)))


@pytest.fixture
def case():
    """Forty cells in each of four fields; concept 2 follows size, concept 5 shrinks with puncta."""
    rng = np.random.default_rng(0)
    fields = np.repeat(["a", "b", "c", "d"], 40)
    labels = np.tile(np.arange(1, 41), 4)
    truth = pd.DataFrame(
        {"field": fields, "label": labels, "size": rng.random(160), "puncta": rng.random(160)}
    ).assign(density=0.0)
    values = rng.normal(size=(160, 8))
    values[:, 2] = np.exp(3 * truth["size"]) + 0.5 * rng.normal(size=160)
    values[:, 5] = -truth["puncta"] + 0.1 * rng.normal(size=160)
    units = pd.DataFrame({"Metadata_Field": fields, "label": labels})
    return values, units, truth


@pytest.mark.parametrize("as_sparse", [False, True])
def test_the_planted_concepts_are_found(case, as_sparse):
    values, units, truth = case
    order = np.random.default_rng(1).permutation(len(truth))
    found = factor_recovery(
        sparse.csr_array(values) if as_sparse else values,
        units,
        truth.iloc[order],
        ["size", "puncta", "density"],
        {"c", "d"},
    )
    assert found["concept"].tolist() == [2, 5, -1]
    for factor, concept in (("size", 2), ("puncta", 5)):
        for column, rows in (("chosen", slice(0, 80)), ("held_out", slice(80, 160))):
            expected = spearmanr(values[rows, concept], truth[factor][rows]).statistic
            assert found.loc[factor, column] == pytest.approx(expected)
    assert np.isnan(found.loc["density", "held_out"])


def test_a_concept_that_follows_by_chance_does_not_on_held_out_fields(case):
    values, units, truth = case
    values[:80, 0] = truth["size"][:80]
    found = factor_recovery(values, units, truth, ["size"], {"c", "d"}).loc["size"]
    assert (found["concept"], found["chosen"]) == (0, pytest.approx(1))
    assert abs(found["held_out"]) < 0.3


def test_units_without_truth_are_left_out(case):
    values, units, truth = case
    values[::4] = 1e6
    found = factor_recovery(values, units, truth.drop(index=truth.index[::4]), ["size"], {"d"})
    assert found.loc["size", "held_out"] > 0.8


def test_units_that_do_not_fit_are_refused(case):
    values, units, truth = case
    with pytest.raises(MicrodlError, match="159 rows of values but 160 units"):
        factor_recovery(values[1:], units, truth, ["size"], {"d"})
    with pytest.raises(MicrodlError, match="160 units to choose concepts on and 0 held out"):
        factor_recovery(values, units, truth, ["size"], {"nowhere"})


def test_a_concept_of_the_pipeline_follows_the_planted_factor_within_wells():
    fields, truth = simulate_plate(
        {"translocation": {"translocation": 0.5}},
        n_control_wells=4,
        n_wells=4,
        spread=0.3,
        n_cells=40,
        shape=(320, 320),
        channels=("RNA",),
    )
    apart = {f.name for f in fields if f.well in ("A03", "A04", "A07", "A08")}
    config = PipelineConfig.of(cache=False)
    fitted = run_pipeline([f for f in fields if f.name not in apart], config)
    applied = run_pipeline(
        [f for f in fields if f.name in apart], config, dictionary=fitted.dictionary
    )
    parts = [fitted.activations, applied.activations]
    units = pd.concat([part.units for part in parts], ignore_index=True)
    concepts = range(parts[0].n_concepts)
    cosines = np.concatenate(
        [np.stack([part.alignment(c) for c in concepts], axis=1) for part in parts]
    )
    # Of the treated wells alone: no difference between wells tells one cell from the next.
    truth = truth[truth["condition"] == "translocation"]

    def held_out(strengths):
        table = truth.assign(translocation=strengths)
        found = factor_recovery(cosines, units, table, ["translocation"], apart).iloc[0]
        return found["held_out"] * np.sign(found["chosen"])

    rng = np.random.default_rng(0)
    null = [
        held_out(truth.groupby("field")["translocation"].transform(rng.permutation))
        for _ in range(50)
    ]
    assert held_out(truth["translocation"]) > max(null) + 0.1
