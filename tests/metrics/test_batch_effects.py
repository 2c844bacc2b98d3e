from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score

from core.refusals import refusal
from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics import batch_effects


def screen(seed: int = 0, n_concepts: int = 6) -> tuple[np.ndarray, ...]:
    """Codes, plates, controls and wells of three plates with eight wells of five cells."""
    rng = np.random.default_rng(seed)
    well = np.repeat(np.arange(24), 5)
    plate, control = well // 8, well % 2 == 0
    codes = rng.gamma(1, 1, (120, n_concepts)) * (rng.random((120, n_concepts)) < 0.4)
    return codes, plate, control, well


@given(st.integers(0, 200))
def test_the_share_of_variance_is_that_of_the_analysis_of_variance(seed):
    codes, plate, control, _ = screen(seed)
    plate = np.array(["p1", "p2", "p3"])[plate]
    table = batch_effects(sparse.csr_array(codes), plate, control)
    for concept, row in table.iterrows():
        x = codes[control, concept]
        parts = [x[plate[control] == p] for p in np.unique(plate)]
        expected = stats.f_oneway(*parts)
        assert row["p_value"] == pytest.approx(expected.pvalue)
        within = sum(((part - part.mean()) ** 2).sum() for part in parts)
        total = ((x - x.mean()) ** 2).sum()
        assert row["eta_squared"] == pytest.approx(1 - within / total)
        n, b = len(x), len(parts)
        assert row["epsilon_squared"] == pytest.approx(1 - (within / (n - b)) / (total / (n - 1)))
        areas = {p: roc_auc_score(plate[control] == p, x) for p in np.unique(plate)}
        assert row["auc"] == pytest.approx(max(abs(a - 0.5) for a in areas.values()) + 0.5)
        assert abs(areas[row["batch"]] - 0.5) + 0.5 == pytest.approx(row["auc"])
    np.testing.assert_allclose(table["q_value"], stats.false_discovery_control(table["p_value"]))


def test_of_wells_it_is_the_analysis_of_their_means():
    codes, plate, control, well = screen(1)
    table = batch_effects(sparse.csr_array(codes), plate, control, well)
    for concept, row in table.iterrows():
        means = [
            [codes[well == w, concept].mean() for w in range(24) if w // 8 == p and w % 2 == 0]
            for p in range(3)
        ]
        assert row["p_value"] == pytest.approx(stats.f_oneway(*means).pvalue)


def test_only_controls_count_and_a_technical_concept_stands_out():
    codes, plate, control, well = screen(2)
    # One concept follows the second plate, another the treatment on one plate alone.
    codes[plate == 1, 3] += 2
    codes[~control & (plate == 0), 4] += 50
    table = batch_effects(sparse.csr_array(codes), plate, control, well)
    assert table["epsilon_squared"].idxmax() == 3
    assert table.loc[3, "batch"] == 1
    assert table.loc[3, "q_value"] < 1e-3
    assert table.loc[3, "auc"] > 0.9
    assert table.drop(index=3)["q_value"].min() > 0.05


def sites(seed: int = 0, n_concepts: int = 6) -> tuple[np.ndarray, ...]:
    """Codes, sites, controls, fields and wells: twelve wells, some of which lack a site of four."""
    rng = np.random.default_rng(seed)
    well, site = (a.ravel() for a in np.meshgrid(np.arange(12), np.arange(4), indexing="ij"))
    there = rng.random(48) < 0.85
    well, site = np.repeat(well[there], 5), np.repeat(site[there], 5)
    codes = rng.gamma(1, 1, (len(well), n_concepts)) * (rng.random((len(well), n_concepts)) < 0.4)
    # Wells differ much more than sites could.
    codes += 5 * rng.random((12, n_concepts))[well]
    return codes, site, well < 8, well * 4 + site, well


def partial_f(means: np.ndarray, site: np.ndarray, well: np.ndarray) -> tuple[float, float]:
    """Share of the variance within wells that sites explain, and p: two linear models compared."""
    indicators = [(of[:, None] == np.unique(of)).astype(float) for of in (well, site)]
    left = []
    for design in (indicators[0], np.hstack(indicators)):
        fitted = design @ np.linalg.lstsq(design, means, rcond=None)[0]
        left.append((((means - fitted) ** 2).sum(), np.linalg.matrix_rank(design)))
    (without, small), (within, large) = left
    free = len(means) - large
    f = (without - within) / (large - small) / (within / free)
    return 1 - within / without, stats.f.sf(f, large - small, free)


@given(st.integers(0, 200))
def test_within_wells_it_is_what_sites_add_to_a_model_of_wells(seed):
    codes, site, control, field, well = sites(seed)
    table = batch_effects(sparse.csr_array(codes), site, control, field, well)
    known = np.unique(field[control])
    for concept, row in table.iterrows():
        means = np.array([codes[field == f, concept].mean() for f in known])
        eta, p = partial_f(means, known % 4, known // 4)
        assert row["eta_squared"] == pytest.approx(eta)
        assert row["p_value"] == pytest.approx(p)
        areas = [roc_auc_score(site[control] == s, codes[control, concept]) for s in range(4)]
        assert row["auc"] == pytest.approx(np.abs(np.array(areas) - 0.5).max() + 0.5)


def test_a_site_effect_is_found_beneath_differences_of_wells_and_of_treatments():
    codes, site, control, field, well = sites(2)
    codes[site == 1, 3] += 1.5
    # Only of treated wells: nothing of the controls.
    codes[~control & (site == 2), 4] += 50
    table = batch_effects(sparse.csr_array(codes), site, control, field, well)
    assert list(table.index[table["q_value"] < 0.05]) == [3]
    assert table.loc[3, "batch"] == 1
    # Without the wells as blocks their differences hide it.
    plain = batch_effects(sparse.csr_array(codes), site, control, field)
    assert plain.loc[3, "p_value"] > 10 * table.loc[3, "p_value"]


def test_within_wells_chance_gives_zero_on_average_and_even_p_values():
    found = []
    for seed in range(100):
        codes, site, control, field, well = sites(seed)
        found.append(batch_effects(sparse.csr_array(codes), site, control, field, well))
    assert np.mean([t["epsilon_squared"].mean() for t in found]) == pytest.approx(0, abs=0.02)
    p = np.concatenate([t["p_value"] for t in found])
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert np.mean([(t["q_value"] < 0.05).any() for t in found]) < 0.1


def test_chance_gives_zero_on_average():
    found = []
    for seed in range(60):
        codes, plate, control, _ = screen(seed)
        found.append(batch_effects(sparse.csr_array(codes), plate, control))
    epsilon = np.concatenate([t["epsilon_squared"] for t in found])
    assert epsilon.mean() == pytest.approx(0, abs=0.01)
    eta = np.concatenate([t["eta_squared"] for t in found])
    assert eta.mean() == pytest.approx(2 / 59, abs=0.01)


def test_concepts_that_do_not_vary_have_no_effect_and_perfect_ones_all():
    plate = np.repeat([0, 1], 10)
    codes = np.stack([np.zeros(20), np.full(20, 0.1), plate], axis=1)
    table = batch_effects(sparse.csr_array(codes), plate, np.ones(20, bool))
    for concept in (0, 1):
        row = table.loc[concept, ["eta_squared", "epsilon_squared", "p_value", "q_value", "auc"]]
        assert list(row) == [0, 0, 1, 1, 0.5]
    assert list(table.loc[2, ["eta_squared", "epsilon_squared", "p_value", "auc"]]) == [1, 1, 0, 1]


def test_what_does_not_fit_is_refused():
    codes, plate, control, well = screen()
    codes = sparse.csr_array(codes)
    with pytest.raises(MicrodlError, match="of 1 batch; a batch effect takes"):
        batch_effects(codes, np.zeros(120), control)
    assert "group is in several batches" in refusal(batch_effects, codes, plate, control, well % 8)
    assert "3 control groups in 3 batches" in refusal(batch_effects, codes, plate, control, plate)
    with pytest.raises(MicrodlError, match="No block of controls holds several batches"):
        batch_effects(codes, plate, control, well, well)
    with pytest.raises(MicrodlError, match="group is in several blocks"):
        batch_effects(codes, plate, control, well, np.arange(120))
    with pytest.raises(MicrodlError, match="2 control groups in 1 blocks and 2 batches"):
        batch_effects(codes[:4], [0, 0, 1, 1], np.ones(4, bool), [0, 0, 1, 1], np.zeros(4))
    for arguments in [(plate[1:], control), (plate, control[1:]), (plate, control, well[1:])]:
        assert "120 samples but 119" in refusal(batch_effects, codes, *arguments)
