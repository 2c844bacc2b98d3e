from __future__ import annotations

import sys
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from core.refusals import refusal
from napari_microdl.metrics.average_precision import mean_average_precision
from napari_microdl.metrics.wells import (
    compare_with_controls,
    position_effects,
    replicate_correlation,
    robust_z,
)


def made(n_plates: int = 2, n_controls: int = 8, n_treated: int = 2, width: int = 5, seed: int = 0):
    """Wells of plates at levels of their own: controls, and one treatment without any effect."""
    rng = np.random.default_rng(seed)
    plates = np.repeat([f"P{n}" for n in range(n_plates)], n_controls + n_treated)
    control = np.tile(np.arange(n_controls + n_treated) < n_controls, n_plates)
    values = rng.normal(size=(len(plates), width)) + 5 * (plates == "P1")[:, None]
    return values, control, plates


def test_z_is_that_of_the_controls_of_a_plate():
    values, control, plates = made()
    deviations = []
    for plate in ("P0", "P1"):
        own = values[control & (plates == plate)]
        deviations.append(np.abs(own - np.median(own, axis=0)))
    spread = np.median(np.concatenate(deviations), axis=0) / stats.norm.ppf(0.75)
    spread = np.maximum(spread, np.median(spread) / 4)
    medians = [np.median(values[control & (plates == p)], axis=0) for p in plates]
    z = robust_z(values, control, plates)
    np.testing.assert_allclose(z, (values - medians) / spread, rtol=1e-4)
    # A feature that hardly varies in controls does not explode.
    values[:, 0] *= 1e-9
    assert np.abs(robust_z(values, control, plates)[:, 0]).max() < 1e-6
    assert np.isnan(robust_z(values, control & (plates == "P0"), plates)[plates == "P1"]).all()


def test_p_is_the_share_of_all_arrangements():
    values, control, plates = made(n_plates=1, n_controls=6, n_treated=2, seed=3)
    found = compare_with_controls(values, ~control, control, plates)
    centred = values - np.median(values, axis=0)
    spread = np.median(np.abs(centred), axis=0)
    spread = np.maximum(spread, np.median(spread) / 4)
    reached, ways = [], list(combinations(range(8), 2))
    for way in ways:
        inside = np.isin(np.arange(8), way)
        difference = values[inside].mean(0) - values[~inside].mean(0)
        reached.append(np.abs(difference / spread).max())
    assert found.p_value == pytest.approx(np.mean(np.array(reached) >= reached[-1] - 1e-12))
    assert found.smallest_p == pytest.approx(1 / 28)
    assert (found.n_wells, found.n_controls) == (2, 6)


def test_wells_without_an_effect_have_every_p_alike():
    """Some plates have one of the kinds alone; effects of plates are none of the treatment."""
    p = []
    for seed in range(200):
        values, control, plates = made(seed=seed)
        plates[-1] = "P9"
        p.append(compare_with_controls(values, ~control, control, plates, most=199).p_value)
    assert stats.kstest(p, "uniform").pvalue > 0.01
    values, control, plates = made()
    values[~control, 2] += 6
    found = compare_with_controls(values, ~control, control, plates)
    assert found.p_value == found.smallest_p < 0.001
    assert np.abs(found.effect).argmax() == 2
    assert "no plate has both" in refusal(
        lambda: compare_with_controls(values, ~control, control, np.where(control, "A", "B"))
    )


def plate_of(seed: int = 0, n: int = 40):
    rng = np.random.default_rng(seed)
    places = np.array([(r, c) for r in range(8) for c in range(12)])
    places = np.concatenate([places[rng.permutation(96)[: n + 20]] for _ in range(2)])
    plates = np.repeat(["P1", "P2"], n + 20)
    control = np.tile(np.arange(n + 20) < n, 2)
    edge = ((places == 0) | (places == [7, 11])).any(axis=1)
    return rng, places, plates, control, edge


def test_place_is_told_as_by_a_linear_model():
    ols = pytest.importorskip("statsmodels.formula.api", reason="comes with copairs").ols
    rng, places, plates, control, edge = plate_of()
    y = rng.normal(size=len(plates)) + 0.3 * places[:, 1] + 2 * edge + 4 * (plates == "P2")
    found = position_effects(y[:, None], control, plates, places, (8, 12))
    table = pd.DataFrame(
        {"y": y, "row": places[:, 0] / 7, "column": places[:, 1] / 11, "edge": edge.astype(float)}
    ).assign(plate=plates)
    model = ols("y ~ plate + row + column + edge", table[control]).fit()
    terms = ["row", "column", "edge"]
    np.testing.assert_allclose(found.slopes[:, 0], model.params[terms])
    np.testing.assert_allclose(found.p_values[:, 0], model.pvalues[terms], rtol=1e-6)
    without = ols("y ~ plate", table[control]).fit()
    share = 1 - (model.ssr / model.df_resid) / (without.ssr / without.df_resid)
    assert found.share[0] == pytest.approx(share)
    # Off treated wells is taken what they owe to their place, up to a level of all.
    left = (y[:, None] - found.fitted)[~control, 0]
    expected = y[~control] - table.loc[~control, terms].to_numpy() @ model.params[terms]
    np.testing.assert_allclose(left - left.mean(), expected - expected.mean())


def test_controls_lie_no_closer_than_treated_wells_once_place_is_taken_off():
    spreads = []
    for seed in range(40):
        rng, places, plates, control, _ = plate_of(seed, n=6)
        y = rng.normal(size=(len(plates), 20))
        left = y - position_effects(y, control, plates, places, (8, 12)).fitted
        sides = (control, ~control)
        spreads.append([left[side & (plates == "P1")].var(0, ddof=1).mean() for side in sides])
    of_controls, of_treated = np.mean(spreads, axis=0)
    assert of_controls == pytest.approx(of_treated, rel=0.15)


def test_too_few_controls_tell_no_place():
    _, places, plates, control, _ = plate_of(n=4)
    y = np.zeros((len(plates), 1))
    assert "11 are needed" in refusal(lambda: position_effects(y, control, plates, places, (8, 12)))
    _, places, plates, control, edge = plate_of()
    y = np.zeros((len(plates), 1))
    assert "cannot be told apart" in refusal(
        lambda: position_effects(y, control & ~edge, plates, places, (8, 12))
    )


def test_replicates_are_compared_with_wells_of_other_treatments():
    rng = np.random.default_rng(1)
    profiles, labels = rng.normal(size=(6, 30)), np.array(["a", "a", "a", "b", "b", "c"])
    profiles[:3] += 3 * rng.normal(size=30)
    found, luck = replicate_correlation(profiles, labels)
    r = np.corrcoef(profiles)
    assert found["a"] == pytest.approx(np.median([r[0, 1], r[0, 2], r[1, 2]]))
    assert found["b"] == pytest.approx(r[3, 4])
    assert np.isnan(found["c"])
    others = [r[i, j] for i, j in combinations(range(6), 2) if labels[i] != labels[j]]
    assert luck == pytest.approx(np.quantile(others, 0.95))


def test_map_is_the_average_precision_of_each_well():
    pytest.importorskip("copairs")
    from sklearn.metrics import average_precision_score
    from sklearn.metrics.pairwise import cosine_similarity

    rng = np.random.default_rng(2)
    labels = np.array(["x"] * 3 + ["y"] * 3 + ["DMSO"] * 12)
    control = labels == "DMSO"
    plates = np.tile(["P1", "P2"], 9)
    profiles = rng.normal(size=(18, 8))
    profiles[:3] += 2
    found = mean_average_precision(profiles, labels, control, plates)
    alike = cosine_similarity(profiles)
    for label in ("x", "y"):
        scores = []
        for well in np.flatnonzero(labels == label):
            others = (labels == label) & (np.arange(18) != well)
            ranked = others | (control & (plates == plates[well]))
            scores.append(average_precision_score(others[ranked], alike[well, ranked]))
        assert found.loc[label, "map"] == pytest.approx(np.mean(scores))
    assert found.loc["x", "map_q"] < 0.05 < found.loc["y", "map_q"]
    again = mean_average_precision(profiles, labels, control, plates)
    pd.testing.assert_frame_equal(found, again)


def test_without_copairs_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "copairs", None)
    assert "pip install 'napari-microdl[plate]'" in refusal(
        lambda: mean_average_precision(*([np.empty(0)] * 4))
    )
