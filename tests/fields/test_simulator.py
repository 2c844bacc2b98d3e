from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import ndimage
from scipy.stats import spearmanr
from skimage.feature import peak_local_max
from skimage.measure import regionprops_table

from core.refusals import refusal
from napari_microdl.fields.simulator import (
    CHANNELS,
    FACTORS,
    Nuisances,
    simulate_field,
    simulate_plate,
)

QUIET = Nuisances(illumination=0, cell_cycle=0, noise=0.002)
# The channels that a factor changes.
CHANGES = {"texture": {"ER"}, "translocation": {"RNA"}, "puncta": {"AGP"}}


def measured(simulated):
    """Every factor by a measurement of its own, one row a cell."""
    field, nuclei = simulated.field, simulated.nuclei
    labels = np.asarray(field.labels)
    plane = dict(zip(field.channel_names, field.data.astype(float) - 300, strict=True))
    table = regionprops_table(labels, properties=("label", "area", "eccentricity"))
    cells = table["label"]

    def mean(image, where):
        return ndimage.mean(image, np.where(where, labels, 0), cells)

    # Away from the rim, where a cell is thin and its neighbours shine.
    core = ndimage.minimum_filter(labels, 11) == ndimage.maximum_filter(labels, 11)
    cytoplasm = core & (nuclei == 0) & (labels > 0)
    ring = np.where(cytoplasm, labels, 0)
    texture = ndimage.standard_deviation(plane["ER"], ring, cells) / mean(plane["ER"], cytoplasm)
    spots = peak_local_max(
        -ndimage.gaussian_laplace(plane["AGP"], 1.4), min_distance=1, threshold_abs=1000
    )
    return pd.DataFrame(
        {
            "size": table["area"],
            "elongation": table["eccentricity"],
            "texture": texture,
            "translocation": mean(plane["RNA"], nuclei > 0) / mean(plane["RNA"], cytoplasm),
            "puncta": np.bincount(labels[tuple(spots.T)], minlength=cells.max() + 1)[cells],
        },
        index=cells,
    )


def summary(simulated):
    table = measured(simulated)
    return pd.Series({**table.mean(), "density": len(table)})


def sparse_field(factors, seed=0, nuisances=QUIET):
    return simulate_field(factors, n_cells=16, nuisances=nuisances, seed=seed)


@pytest.fixture(scope="module")
def effects():
    """Of each factor (row) at half and full strength, the change of every measurement."""
    untouched = summary(sparse_field({}))
    changes = {
        (factor, strength): summary(sparse_field({factor: strength})) - untouched
        for factor in FACTORS
        for strength in (0.5, 1.0)
    }
    return pd.DataFrame(changes).T


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_changes_what_it_says(effects, factor):
    half, full = effects.loc[(factor, 0.5), factor], effects.loc[(factor, 1.0), factor]
    sign = -1 if factor == "density" else 1
    assert 0 < 1.2 * sign * half < sign * full


@pytest.mark.parametrize("factor", FACTORS)
def test_a_factor_hardly_changes_anything_else(effects, factor):
    others = [other for other in FACTORS if other != factor]
    own = np.array([effects.loc[(other, 1.0), other] for other in others])
    share = effects.loc[(factor, 1.0), others].to_numpy() / own
    assert np.abs(share).max() < 0.25, dict(zip(others, share, strict=True))


@pytest.mark.parametrize("factor", CHANGES)
def test_a_factor_of_one_channel_leaves_the_others_as_they_were(factor):
    before, after = sparse_field({}), sparse_field({factor: 1.0})
    assert_array_equal(before.field.labels, after.field.labels)
    assert_array_equal(before.nuclei, after.nuclei)
    changed = {
        channel
        for channel, one, other in zip(CHANNELS, before.field.data, after.field.data, strict=True)
        if not np.array_equal(one, other)
    }
    assert changed == CHANGES[factor]


@pytest.mark.parametrize("factor", [f for f in FACTORS if f != "density"])
def test_strengths_are_told_cell_by_cell(factor):
    graded = np.linspace(0, 1, 16)
    pairs = []
    for seed in range(3):
        simulated = sparse_field({factor: graded}, seed)
        table = measured(simulated)
        truth = simulated.truth.set_index("label").loc[table.index]
        assert set(simulated.truth[factor]) <= set(graded)
        pairs.append(np.c_[truth[factor], table[factor]])
    assert spearmanr(*np.concatenate(pairs).T).statistic > 0.7


def test_density_removes_cells_and_leaves_the_others():
    full, thin = sparse_field({}), sparse_field({"density": 1.0})
    assert len(full.truth) == 16
    assert len(thin.truth) == 6
    places = full.truth[["y", "x"]].to_numpy().tolist()
    assert all(place in places for place in thin.truth[["y", "x"]].to_numpy().tolist())


@settings(max_examples=15)
@given(
    height=st.integers(80, 200),
    width=st.integers(80, 200),
    n_cells=st.integers(1, 30),
    channels=st.lists(st.sampled_from(CHANNELS), min_size=1, unique=True),
    strength=st.floats(0, 1),
    seed=st.integers(0, 2**31 - 1),
)
def test_truth_and_labels_belong_together(height, width, n_cells, channels, strength, seed):
    simulated = simulate_field(
        dict.fromkeys(FACTORS, strength),
        n_cells=n_cells,
        shape=(height, width),
        channels=channels,
        seed=seed,
    )
    field, truth = simulated.field, simulated.truth
    assert field.data.shape == (len(channels), height, width)
    assert field.data.dtype == np.uint16
    assert field.channel_names == tuple(channels)
    assert_array_equal(np.setdiff1d(np.unique(field.labels), 0), truth["label"])
    assert truth["y"].between(0, height).all()
    assert truth["x"].between(0, width).all()
    inside = simulated.nuclei > 0
    assert_array_equal(simulated.nuclei[inside], field.labels[inside])
    assert_allclose(truth[list(FACTORS)], strength)


def test_centres_lie_in_their_cells():
    simulated = sparse_field({"size": 1.0})
    places = simulated.truth[["y", "x"]].to_numpy().astype(int)
    assert_array_equal(simulated.field.labels[tuple(places.T)], simulated.truth["label"])


def test_the_same_seed_gives_the_same_field_and_another_does_not():
    one, two, other = (simulate_field(seed=seed) for seed in (5, 5, 6))
    assert_array_equal(one.field.data, two.field.data)
    pd.testing.assert_frame_equal(one.truth, two.truth)
    assert not np.array_equal(one.field.labels, other.field.labels)


def test_a_channel_is_the_same_whichever_others_are_asked_for():
    every = simulate_field(n_cells=5, shape=(128, 128)).field
    some = simulate_field(n_cells=5, shape=(128, 128), channels=("Mito", "DNA")).field
    assert_array_equal(some.data, every.data[[4, 0]])


@pytest.mark.parametrize(
    "nuisances",
    [
        Nuisances(illumination=0.8),
        Nuisances(gain=2),
        Nuisances(cell_cycle=0),
        Nuisances(blur=1),
        Nuisances(haze=0.3),
        Nuisances(background=0.1),
    ],
)
def test_nuisances_change_the_image_and_not_the_truth(nuisances):
    usual, other = (sparse_field({"size": 0.5}, nuisances=n) for n in (Nuisances(), nuisances))
    assert not np.array_equal(usual.field.data, other.field.data)
    assert_array_equal(usual.field.labels, other.field.labels)
    names = ["label", "y", "x", *FACTORS]
    pd.testing.assert_frame_equal(usual.truth[names], other.truth[names])


def test_illumination_and_gain_are_what_they_say():
    plain = simulate_field(nuisances=Nuisances(0, 1, 0, 0)).field.data - 300.0
    lit = simulate_field(nuisances=Nuisances(0.5, 1, 0, 0)).field.data - 300.0
    bright = simulate_field(nuisances=Nuisances(0, 2, 0, 0)).field.data - 300.0
    cells = plain > 1000
    assert_allclose(bright[cells] / plain[cells], 2, rtol=2e-3)
    column = np.broadcast_to(np.arange(512), plain.shape)
    assert_allclose(lit[cells] / plain[cells], 1.25 - 0.5 * column[cells] / 511, rtol=2e-3)


def test_focus_haze_and_background_are_what_they_say():
    def light(**nuisances):
        drawn = simulate_field(
            n_cells=12, shape=(160, 160), nuisances=Nuisances(0, 1, 0, 0, **nuisances)
        )
        return drawn.field.data - 300.0

    plain = light()
    blurred = ndimage.gaussian_filter(plain, (0, 2, 2))
    assert_allclose(light(blur=2), blurred, atol=2)
    assert_allclose(light(background=0.1), plain + 800, atol=1)
    hazy = light(haze=0.3)
    # Most of the light stays where it was, and all of it on the field.
    assert_allclose(hazy.sum((1, 2)), plain.sum((1, 2)), rtol=1e-3)
    apart = hazy - 0.7 * plain
    assert (apart > -1).all()
    near, far = (ndimage.gaussian_filter(apart, (0, s, s)) for s in (1, 5))
    assert np.abs(near - far).max() < 0.02 * apart.max()


@pytest.mark.parametrize("factor", CHANGES)
def test_masks_are_the_pixels_that_a_factor_changes(factor):
    others = {"size": 0.5, **{other: 0.5 for other in CHANGES if other != factor}}
    quiet = Nuisances(0, 1, 1, 0)
    graded = np.linspace(0, 1, 16)
    small = {"n_cells": 16, "shape": (200, 200), "nuisances": quiet}
    drawn = simulate_field({factor: graded, **others}, masks=True, **small)
    without = simulate_field(others, **small)
    assert set(drawn.masks) == set(CHANGES)
    change = np.abs(drawn.field.data.astype(float) - without.field.data).max(0)
    # Counts are whole numbers, so a pixel at the limit may fall on either side.
    mask = drawn.masks[factor]
    assert change[mask].min() > 0.05 * 8000 - 1.5
    assert change[~mask].max() < 0.05 * 8000 + 1.5
    assert 0.005 < mask.mean() < 0.6
    assert without.masks == {}


def test_the_cell_cycle_makes_nuclei_larger_and_their_dna_twice_as_much():
    usual = simulate_field(nuisances=Nuisances(0, 1, 1, 0))
    without = simulate_field(nuisances=Nuisances(0, 1, 0, 0))
    labels = usual.truth["label"]
    cycle = usual.truth["cell_cycle"]
    assert (without.truth["cell_cycle"] == 0).all()
    areas, amounts = [], []
    for simulated in (usual, without):
        dna = simulated.field.data[0] - 300.0
        areas.append(ndimage.sum(simulated.nuclei > 0, simulated.nuclei, labels))
        amounts.append(ndimage.sum(dna, simulated.nuclei, labels))
    assert_allclose(areas[0] / areas[1], 1 + 0.6 * cycle, rtol=0.1)
    assert_allclose(np.median(amounts[0] / amounts[1] / (1 + cycle)), 1, atol=0.05)


def test_a_plate_has_its_wells_and_one_truth():
    fields, truth = simulate_plate(
        {"big": {"size": 0.8}, "few": {"density": 1.0}},
        n_control_wells=3,
        n_wells=2,
        n_sites=2,
        n_cells=12,
        shape=(192, 192),
        channels=("DNA", "RNA"),
    )
    assert len(fields) == 14
    assert [field.is_control for field in fields] == [True] * 6 + [False] * 8
    assert len({field.name for field in fields}) == 14
    assert len({field.well for field in fields}) == 7
    assert {field.condition for field in fields} == {"control", "big", "few"}
    for field in fields:
        rows = truth[truth["field"] == field.name]
        assert_array_equal(rows["label"], np.setdiff1d(field.labels, 0))
        assert set(rows["condition"]) == {field.condition}
        assert set(rows["well"]) == {field.well}
    strengths = truth.groupby("condition")["size"].agg(["mean", "std"])
    assert strengths.loc["big", "mean"] == pytest.approx(0.8, abs=0.1)
    assert strengths.loc["big", "std"] > 0.05
    assert strengths.loc["control", "mean"] == 0
    counts = truth["condition"].value_counts()
    assert counts["few"] < counts["big"]
    assert truth.groupby("well")["gain"].nunique().eq(1).all()
    assert truth["gain"].nunique() == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"factors": {"colour": 1.0}}, "no factor 'colour'"),
        ({"factors": {"size": 1.5}}, "size must lie between 0 and 1"),
        ({"factors": {"size": float("nan")}}, "size must lie between 0 and 1"),
        ({"factors": {"size": [0.5, 0.5]}}, "the shape (2,)"),
        ({"channels": ("DNA", "GFP")}, "cannot be drawn"),
        ({"channels": ()}, "cannot be drawn"),
        ({"shape": (40, 512)}, "no room for cells"),
        ({"n_cells": 0}, "n_cells is 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, message):
    assert message in refusal(simulate_field, **arguments)


def test_plates_that_cannot_be_drawn_are_refused():
    assert "called 'control'" in refusal(simulate_plate, {"control": {}})
    assert "at least one well" in refusal(simulate_plate, {}, n_control_wells=0)
    assert "no factor 'colour'" in refusal(simulate_plate, {"red": {"colour": 1.0}})
