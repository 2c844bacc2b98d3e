from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, sparse

from core.refusals import refusal
from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.concept_set import ConceptSet, choose_concepts
from napari_microdl.concepts.heat import SMOOTHING
from napari_microdl.concepts.localisation import locate_concepts
from napari_microdl.core.arrays import unit_length
from napari_microdl.metrics import choose_set
from napari_microdl.pipeline.run import run_pipeline
from pipeline.small_run import corner_fields, small


@pytest.fixture(scope="module", params=["spread", "mean"])
def activations(request) -> ConceptActivations:
    return run_pipeline(corner_fields(), small(pooling=request.param)).activations


def test_heat_of_means_is_the_cosine_of_every_token(activations):
    if activations.heat.by_spread:
        pytest.skip("of means")
    tokens = activations.grids[1].tokens
    whitened = activations.dictionary.whitening.transform(tokens.reshape(-1, tokens.shape[-1]))
    cosines = unit_length(whitened) @ activations.dictionary.directions[3]
    found = activations.heatmap(1, 3)
    np.testing.assert_allclose(found, cosines.reshape(tokens.shape[:2]), atol=1e-5)


def test_shares_of_patches_add_up_to_the_unit(activations):
    units, directions = activations.geometry[0], activations.dictionary.directions
    rows, columns = (slice(0, n) for n in activations.grids[0].tokens.shape[:2])
    for place in (0, len(units) - 1):
        weights = units.weights[[place]].toarray().ravel()
        totals = np.array(
            [
                weights @ activations.heat.around_unit(0, place, rows, columns, c).ravel()
                for c in range(activations.n_concepts)
            ]
        )
        # But for its length, which is the same for all concepts.
        products = directions @ activations.vectors[activations.rows_of_field(0)[place]]
        length = np.linalg.norm(totals) / np.linalg.norm(products)
        assert length > 0
        np.testing.assert_allclose(totals / length, products, atol=1e-4)


def test_one_control_patch_in_a_hundred_is_unusual_on_either_side(activations):
    control = np.unique(activations.units["field"][activations.units["Metadata_control"]])
    for concept in (0, 4):
        heat = np.concatenate([activations.heat.compared(f, concept).ravel() for f in control])
        assert (heat > 1).mean() == pytest.approx(0.01, abs=0.004)
        assert (heat < -1).mean() == pytest.approx(0.01, abs=0.004)
        assert np.median(heat) == pytest.approx(0, abs=0.02)


def test_heat_of_spreads_is_smoothed_as_it_says(activations):
    every = activations.heat.whitened(2) @ activations.heat.directions.T
    shape = activations.grids[2].tokens.shape[:2]
    for concept in (0, 5):
        expected = every[:, concept].reshape(shape)
        if activations.heat.by_spread:
            expected = ndimage.gaussian_filter(expected, SMOOTHING, mode="nearest")
        np.testing.assert_allclose(activations.heatmap(2, concept), expected, atol=2e-5)


class PlantedHeat:
    """Heat of three concepts on four fields: in the cells, everywhere, and nowhere."""

    def __init__(self, covered: list[np.ndarray], treated: list[bool]) -> None:
        random = np.random.default_rng(0)
        self._heat = []
        for cells, is_treated in zip(covered, treated, strict=True):
            noise = random.normal(size=(cells.size, 3)).astype(np.float32)
            noise[:, 0] += 3 * is_treated * cells.ravel()
            noise[:, 1] += 3 * is_treated
            self._heat.append(noise)

        self.directions = np.eye(3, dtype=np.float32)

    def whitened(self, field: int) -> np.ndarray:
        return self._heat[field]

    def patch_area(self, field: int) -> int:
        return 64


def test_concepts_of_cells_are_told_from_those_of_the_field(activations):
    geometry = activations.geometry
    of_unit = activations.units["field"].to_numpy()
    control = activations.units["Metadata_control"].to_numpy(bool)
    covered = [np.asarray(u.weights.sum(axis=0)).ravel() > 0 for u in geometry]
    treated = [not control[of_unit == number].all() for number in range(4)]
    conditions = np.where(control, "control", "treated")
    planted, labels = PlantedHeat(covered, treated), np.array(["treated"] * 3)
    known = planted, geometry, of_unit, conditions, control
    found = locate_concepts(*known, of_unit, labels)
    assert found["place"].tolist() == ["cells", "field", "cells"]
    assert found["in_cells"][0] > 0.9
    assert found["in_cells"][1:] == pytest.approx(0.5, abs=0.05)
    # A concept of the field leaves nothing once the background is its reference.
    assert found["auc_left"][0] > 0.95
    assert found["auc_left"][1] == pytest.approx(0.5, abs=0.15)
    assert found["background_auc"][1] > 0.95
    assert found["background_auc"][[0, 2]] == pytest.approx(0.5, abs=0.05)
    assert ((found["within_wells"] > 0.5) & (found["within_wells"] <= 1)).all()
    # Of one well nobody knows what differs between wells.
    assert np.isnan(locate_concepts(*known, 0 * of_unit, labels)["within_wells"]).all()
    # Confluent cells leave no background, which could not tell a field from its cells.
    whole = [sparse.csr_array(np.full(u.weights.shape, 64.0)) for u in geometry]
    confluent = [replace(u, weights=w) for u, w in zip(geometry, whole, strict=True)]
    found = locate_concepts(planted, confluent, *known[2:], of_unit, labels)
    assert found["place"].tolist() == ["", "", ""]
    for name in ("in_cells", "background_auc", "auc_left"):
        assert np.isnan(found[name]).all()


def test_without_background_nothing_is_said_of_the_place():
    crops = run_pipeline(corner_fields(), small(unit="crop")).activations
    assert (crops.ranking["place"] == "").all()
    assert crops.ranking["background_auc"].isna().all()


def test_several_concepts_together_are_the_weighted_sum_of_each(activations):
    several = ConceptSet("puncta", (4, 1, 6), (2.0, 0.5, 1.0), (0.6, 0.3, 0.1), 0.9, 0.8)
    directions = activations.dictionary.directions
    length = np.linalg.norm(2.0 * directions[4] + 0.5 * directions[1] + directions[6])

    def together(of):
        return (2.0 * of(4) + 0.5 * of(1) + of(6)) / length

    for read in (activations.alignment, lambda concept: activations.heatmap(2, concept)):
        np.testing.assert_allclose(read(several), together(read), atol=3e-5)
    patches = 0, 1, slice(0, 6), slice(0, 5)
    around = activations.heat.around_unit
    np.testing.assert_allclose(
        around(*patches, several), together(lambda c: around(*patches, c)), rtol=1e-4, atol=1e-4
    )
    cosines = activations.alignment(several)
    np.testing.assert_array_equal(activations.activation(several), np.maximum(cosines, 0))
    assert activations.top_units(several, 1)[0] == np.argmax(cosines)
    assert activations.name_of(several) == "concept 4 + concept 1 + concept 6"
    # With codes among what is summed, cells have the sum, and patches what stands for it.
    with_codes = replace(several, weights=(1.5, 0.0, 1.0), code_weights=(0.5, 0.5, 0.0))
    summed = 1.5 * activations.alignment(4) + activations.alignment(6)
    summed = summed + 0.5 * activations.activation(4) + 0.5 * activations.activation(1)
    np.testing.assert_allclose(activations.alignment(with_codes), summed / length, atol=3e-5)
    heats = [activations.heatmap(2, which) for which in (with_codes, several)]
    np.testing.assert_allclose(*heats, atol=3e-5)
    # One alone is that concept.
    alone = ConceptSet("puncta", (3,), (7.0,), (1.0,), 0.9, 0.9)
    np.testing.assert_allclose(activations.alignment(alone), activations.alignment(3), atol=1e-6)


def test_concepts_are_chosen_to_tell_a_condition_from_controls(activations):
    chosen = choose_concepts(activations, "puncta")
    control = activations.units["Metadata_control"].to_numpy(bool)
    cosines = unit_length(activations.vectors) @ activations.dictionary.directions.T
    values = np.stack([cosines, activations.codes.toarray()], axis=-1)
    expected = choose_set(values, ~control, activations.units["Metadata_Well"])
    assert chosen.concepts == tuple(expected.chosen)
    weights = np.stack([chosen.weights, chosen.code_weights], axis=1)
    np.testing.assert_allclose(weights, expected.weights, rtol=1e-4)
    told = expected.told(values)
    np.testing.assert_allclose(
        activations.alignment(chosen) / told, (activations.alignment(chosen) / told)[0], rtol=1e-3
    )
    assert (chosen.auc, chosen.auc_first) == pytest.approx((expected.auc, expected.auc_first))
    by_cosines = choose_concepts(activations, "puncta", by="cosines")
    expected = choose_set(cosines, ~control, activations.units["Metadata_Well"])
    assert by_cosines.concepts == tuple(expected.chosen)
    assert by_cosines.code_weights == ()
    # The controls are told from all others.
    assert choose_concepts(activations, "diffuse").label == "diffuse"
    assert "no well" not in refusal(choose_concepts, activations, "nowhere")
