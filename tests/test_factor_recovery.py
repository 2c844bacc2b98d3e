from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import spearmanr

from napari_microdl.errors import MicrodlError
from napari_microdl.factor_recovery import factor_recovery


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


def test_what_does_not_fit_together_is_refused(case):
    values, units, truth = case
    with pytest.raises(MicrodlError, match="159 rows of values but 160 units"):
        factor_recovery(values[1:], units, truth, ["size"], {"d"})
    with pytest.raises(MicrodlError, match="160 units to choose concepts on and 0 held out"):
        factor_recovery(values, units, truth, ["size"], {"nowhere"})
