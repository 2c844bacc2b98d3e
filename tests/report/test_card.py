"""What the card of a concept says and shows, beside numbers counted by hand, on a real run."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.painting import explain_unit, unit_window
from napari_microdl.concepts.pictures import PictureChoice, UnitPictures
from napari_microdl.concepts.strength import N_BANDS, NONE, OPPOSITE, band_of
from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.metrics import cell_measurements
from napari_microdl.metrics.group_tests import compare_wells, smallest_p
from napari_microdl.pipeline.run import PipelineResult, run_pipeline
from napari_microdl.report import EvaluationReport
from napari_microdl.report.card import ConceptCard, card_units, concept_card, percent, wells_limit
from napari_microdl.report.naming import NameSuggestions, correlations, ranks_within

CONFIG = PipelineConfig.of(
    model="random-init", unit="cell", n_atoms=8, n_iterations=2, atoms_per_iteration=2,
    max_steps=20, n_starts=1, device="cpu", channels=("GFP",),
)  # fmt: skip


@pytest.fixture(scope="module")
def fields() -> list[Field]:
    """Parts of all fields of the sample, with a second channel that is turned round."""
    parts = [field.data[:, :320, :320] for field in transfluor()]
    return [
        dataclasses.replace(
            field,
            data=np.concatenate([part, part[:, ::-1, ::-1]]),
            channel_names=("GFP", "turned"),
        )
        for field, part in zip(transfluor(), parts, strict=True)
    ]


@pytest.fixture(scope="module")
def run(fields) -> PipelineResult:
    return run_pipeline(fields, CONFIG)


@pytest.fixture(scope="module")
def activations(run) -> ConceptActivations:
    return run.activations


def with_codes(activations: ConceptActivations, values: np.ndarray) -> ConceptActivations:
    """The same cells, whose first concept is as strong as it is said."""
    codes = activations.codes.toarray()
    codes[:, 0] = values
    return dataclasses.replace(activations, codes=sparse.csr_array(codes), columns=None)


def test_the_card_says_what_a_loop_over_wells_counts(activations):
    on = activations.codes.toarray() > 0
    units = activations.units
    report = EvaluationReport(seeds={"n_seeds": 10, "times_found": list(range(8))})
    said = set()
    for concept in range(activations.n_concepts):
        card = concept_card(activations, concept, report)
        inside = (units["Metadata_condition"] == card.label).to_numpy()
        control = units["Metadata_control"].to_numpy()
        assert card.rate_label == pytest.approx(on[inside, concept].mean())
        assert card.rate_controls == pytest.approx(on[control, concept].mean())
        shares: dict[bool, list[float]] = {True: [], False: []}
        for well in units["Metadata_Well"].unique():
            rows = (units["Metadata_Well"] == well).to_numpy()
            shares[bool(control[rows].all())].append(on[rows, concept].mean())
        showing = sum(share > max(shares[True]) for share in shares[False])
        assert (card.wells_showing, card.wells_label) == (showing, len(shares[False]))
        said.add(showing)
        assert card.sentence().startswith(f"concept {concept}: in {card.rate_label * 100:.0f} % of")
        assert f"in {showing} of {len(shares[False])} wells" in card.sentence()
        assert f"other seeds find it {concept} of 10 times" in card.sentence()
    assert len(said) > 1


def test_a_card_leaves_out_what_is_not_known(activations):
    card = ConceptCard("spots", "drug", "cells", 0.584, 0.06, 4, 4, "cells", 9, 10)
    assert card.sentence() == (
        "spots: in 58 % of 'drug' cells and 6 % of controls; in 4 of 4 wells; lies in the cells; "
        "other seeds find it 9 of 10 times."
    )
    bare = ConceptCard("spots", "", "patches", 0.001, float("nan"))
    assert bare.sentence() == "spots: in <1 % of patches."
    assert [percent(share) for share in (0, 0.004, 0.006, 1)] == ["0 %", "<1 %", "1 %", "100 %"]
    # Without controls no well can show it more often than they do.
    units = activations.units.assign(Metadata_control=False)
    alone = concept_card(dataclasses.replace(activations, units=units), 0)
    assert (alone.wells_label, alone.n_seeds) == (0, 0)
    assert "controls" not in alone.sentence()


def test_cells_of_a_card_are_the_strongest_treated_ones_and_the_same_controls(activations):
    control = activations.units["Metadata_control"].to_numpy()
    codes = activations.codes.toarray()
    drawn = [card_units(activations, concept) for concept in range(activations.n_concepts)]
    for concept, (strongest, controls) in enumerate(drawn):
        label = activations.ranking.loc[concept, "label"]
        of_label = np.flatnonzero(activations.units["Metadata_condition"] == label)
        assert codes[strongest, concept].tolist() == sorted(codes[of_label, concept])[:-4:-1]
        assert set(strongest) <= set(of_label)
        assert controls.tolist() == drawn[0][1].tolist()
        assert len(set(controls)) == 3
        assert control[controls].all()


def test_bands_go_from_the_strongest_to_the_opposite(activations):
    for concept in range(activations.n_concepts):
        codes = activations.codes.toarray()[:, concept]
        bands = [band_of(activations, concept, number, 5) for number in range(N_BANDS)]
        assert codes[bands[0].rows].tolist() == sorted(codes, reverse=True)[:5]
        assert codes[bands[NONE - 1].rows].tolist() == sorted(codes[codes > 0], reverse=True)[-5:]
        for before, after in pairwise(bands[:NONE]):
            assert (before.values >= after.values).all()
        for band in bands[1 : NONE - 1]:
            share = (codes[codes > 0] < band.values.min()).mean()
            assert f"{share:.0%}" in band.meaning
        assert not codes[bands[NONE].rows].any()
        lowest = np.sort(activations.alignment(concept))[:5]
        np.testing.assert_array_equal(bands[OPPOSITE].values, lowest)
    nowhere = with_codes(activations, np.zeros(len(activations.units)))
    assert [len(band_of(nowhere, 0, n, 5).rows) for n in range(N_BANDS)] == [0] * 7 + [5, 5]


def test_patches_outlined_make_the_share_that_is_said(activations):
    shares = []
    for row in range(0, len(activations.units), 40):
        found = explain_unit(activations, row, 0, 1)
        field, _ = unit_window(activations, row)
        place = row - activations.rows_of_field(field)[0]
        grid = activations.grids[field].tokens.shape[:2]
        # All patches of the field, of which the unit covers some.
        whole = activations.heat.around_unit(
            field, place, slice(0, grid[0]), slice(0, grid[1]), 0
        ).ravel()
        covered = activations.geometry[field].weights[[place]].toarray().ravel()
        heat = np.where(covered > 0, whole, -np.inf)
        best = (heat >= 0.7 * heat.max()) & (heat > 0)
        adds = np.maximum(heat, 0) * covered
        assert (found.n_outlined, found.n_touched) == (best.sum(), (covered > 0).sum())
        if best.any():
            assert found.share == pytest.approx(adds[best].sum() / adds.sum(), rel=1e-4)
            assert f"{found.share:.0%}" in found.sentence()
            shares.append(found.share)
    assert len(shares) > 3


def test_pictures_share_the_contrast_of_controls_and_colours_add_up(activations, fields):
    pictures = UnitPictures(activations, fields)
    controls = [field for field in fields if field.is_control]
    for channel in (0, 1):
        pixels = np.concatenate([field.read((channel,)).ravel() for field in controls])
        assert pictures.limits(channel) == pytest.approx(np.percentile(pixels, [1, 99.8]))
    row = len(activations.units) // 2
    green, magenta = (pictures.picture(row, PictureChoice(c)).astype(int) for c in (0, 1))
    composite = pictures.picture(row, PictureChoice("composite"))
    np.testing.assert_allclose(composite[..., 1], green, atol=1)
    for colour in (0, 2):
        np.testing.assert_allclose(composite[..., colour], magenta, atol=1)
    beside = pictures.picture(row, PictureChoice("side by side"))
    np.testing.assert_array_equal(beside, np.concatenate([green, magenta], axis=1))
    # A gap in a channel that the model does not read is black.
    gaps = [
        dataclasses.replace(f, data=np.where(f.data <= np.median(f.data), np.nan, f.data))
        for f in fields
    ]
    pixels = np.concatenate([f.data[1].ravel() for f in gaps if f.is_control])
    pictures = UnitPictures(activations, gaps)
    assert pictures.limits(1) == pytest.approx(np.nanpercentile(pixels, [1, 99.8]))
    number, (rows, columns) = unit_window(activations, row)
    gap = np.isnan(gaps[number].data[1, rows, columns])
    assert gap.any()
    assert not pictures.picture(row, PictureChoice(1))[gap].any()
    # Channels that are called so have their own colours, and without controls all fields count.
    named = [
        dataclasses.replace(f, channel_names=("Red", "Blue"), is_control=False) for f in fields
    ]
    pictures = UnitPictures(activations, named)
    assert pictures.colours() == [("red", (1, 0, 0)), ("blue", (0, 0, 1))]
    pixels = np.concatenate([field.read((0,)).ravel() for field in fields])
    assert pictures.limits(0) == pytest.approx(np.percentile(pixels, [1, 99.8]))


def test_a_name_is_suggested_from_what_goes_along_with_a_concept(run, activations, fields):
    # The area of every cell, counted in the labels themselves.
    units = activations.units
    labels = units["label"].to_numpy()
    areas = np.array(
        [(run.labels[f] == n).sum() for f, n in zip(units["field"], labels, strict=True)], float
    )
    luck = np.random.default_rng(0).random(len(areas))
    for values, wanted in ((areas, "larger"), (areas.max() - areas, "smaller"), (luck, "")):
        suggestions = NameSuggestions(with_codes(activations, values), fields, run.labels)
        assert suggestions.are_possible
        assert suggestions.of(0) == ""
        suggestions.measure()
        assert suggestions.are_measured
        assert suggestions.of(0).split(", ")[0] == wanted
    assert not NameSuggestions(activations, [], run.labels).are_possible


def test_spots_are_told_from_real_cells(run, activations, fields):
    """Of cells of one well, what is strong where few pixels are far brighter than most."""
    measured = []
    for number in activations.units["field"].unique():
        table = cell_measurements(fields[number].read((0,)), run.labels[number], ("GFP",))
        rows = activations.rows_of_field(number)
        measured.append(table.loc[activations.units["label"].to_numpy()[rows]])
    table = pd.concat(measured)
    low, middle, high = (table[f"intensity_p{q}_GFP"].to_numpy() for q in (5, 50, 95))
    spots = with_codes(activations, (high - middle) / (high - low))
    suggestions = NameSuggestions(spots, fields, run.labels)
    suggestions.measure()
    assert suggestions.of(0).split(", ")[0] == "spots"


def test_correlations_are_those_of_ranks_within_wells():
    random = np.random.default_rng(0)
    wells = np.repeat([0, 1, -1], [40, 60, 9])
    values = random.normal(size=len(wells))
    table = pd.DataFrame({"same": values + 5 * wells, "other": random.normal(size=len(wells))})
    found = correlations(ranks_within(table, wells), values + 0.3 * table["other"], wells)
    # Of one well alone it is Spearman's.
    one = wells == 1
    alone = correlations(
        ranks_within(table[one], wells[one]), (values + 0.3 * table["other"])[one], wells[one]
    )
    expected = stats.spearmanr(table["same"][one], (values + 0.3 * table["other"])[one])[0]
    assert alone["same"] == pytest.approx(expected)
    # Wells that differ as a whole hide nothing, and cells that are left out count nothing.
    assert found["same"] > 0.9
    assert correlations(ranks_within(table[:3], wells[:3]), values[:3], wells[:3]).eq(0).all()


def test_the_smallest_p_is_that_of_wells_that_are_apart(activations):
    for n_first, n_second in ((2, 2), (3, 3), (4, 4), (2, 5)):
        n = n_first + n_second
        codes = sparse.csr_array(np.arange(1.0, n + 1)[:, None])
        first = np.arange(n) < n_first
        found = compare_wells(codes, first, ~first, np.arange(n))["p_value"][0]
        assert found == pytest.approx(smallest_p(n_first, n_second))
    wells = activations.units.groupby("Metadata_condition")["Metadata_Well"].nunique()
    treated = next(
        c for c in wells.index if not activations.units.set_index("Metadata_condition")
        .loc[c, "Metadata_control"].all()
    )  # fmt: skip
    (other,) = set(wells.index) - {treated}
    limit = wells_limit(activations, treated)
    p = smallest_p(wells[treated], wells[other])
    assert f"{wells[treated]} wells against {wells[other]}: no p can be below {p:.2g}" in limit
    assert wells_limit(activations, treated, other) == limit
    assert wells_limit(activations, treated, "no such").endswith("so add wells.")
