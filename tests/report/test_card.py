"""What card and gallery say and show of a concept, beside numbers counted by hand."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

from concepts.test_activations import make
from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.concept_set import ConceptSet
from napari_microdl.concepts.painting import explain_unit, unit_window
from napari_microdl.concepts.pictures import PictureChoice, UnitPictures
from napari_microdl.concepts.strength import N_BANDS, NONE, OPPOSITE, band_of, random_units
from napari_microdl.concepts.wells import wells_of
from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.metrics import cell_measurements
from napari_microdl.metrics.group_tests import compare_wells, smallest_p
from napari_microdl.pipeline.run import PipelineResult, run_pipeline
from napari_microdl.report import EvaluationReport
from napari_microdl.report.cell_pictures import strongest_units
from napari_microdl.report.concept_summary import percent, summarize_concept, wells_limit
from napari_microdl.report.naming import NameSuggestions, correlations, ranks_within

CONFIG = PipelineConfig.of(
    model="random-init", unit="cell", n_atoms=8, n_iterations=2, atoms_per_iteration=2,
    max_steps=20, n_starts=1, device="cpu", channels=("GFP",),
)  # fmt: skip


@pytest.fixture(scope="module")
def fields() -> list[Field]:
    """Parts of two control and two treated wells, with a second channel that is turned round."""
    return [
        dataclasses.replace(
            field,
            data=np.concatenate([part, part[:, ::-1, ::-1]]),
            channel_names=("GFP", "turned"),
        )
        for field in transfluor()
        if field.well in {"O01", "O05", "O11", "O12"}
        for part in [field.data[:, :320, :320]]
    ]


@pytest.fixture(scope="module")
def run(fields) -> PipelineResult:
    return run_pipeline(fields, CONFIG)


@pytest.fixture(scope="module")
def activations(run) -> ConceptActivations:
    return run.activations


def with_codes(activations: ConceptActivations, *values: np.ndarray) -> ConceptActivations:
    """The same cells, whose first concepts are as strong as it is said."""
    codes = activations.codes.toarray()
    codes[:, : len(values)] = np.transpose(values)
    return dataclasses.replace(activations, codes=sparse.csr_array(codes), columns=None)


def test_the_summary_says_what_a_loop_over_wells_counts(activations):
    on, units = activations.codes.toarray() > 0, activations.units
    wells, report = (
        wells_of(activations),
        EvaluationReport(seeds={"n_seeds": 10, "times_found": [*range(8)]}),
    )
    control = units["Metadata_control"].to_numpy()
    said = set()
    for concept in range(activations.n_concepts):
        found = summarize_concept(activations, wells, concept, report)
        np.testing.assert_array_equal(found.inside, units["Metadata_condition"] == found.label)
        assert found.share == pytest.approx(on[found.inside, concept].mean())
        assert found.share_others == pytest.approx(on[found.against, concept].mean())
        shares: dict[bool, list[float]] = {True: [], False: []}
        for well in units["Metadata_Well"].unique():
            rows = (units["Metadata_Well"] == well).to_numpy()
            shares[bool(found.inside[rows].all())].append(on[rows, concept].mean())
        showing = sum(share > max(shares[False]) for share in shares[True])
        assert (found.n_wells_showing, found.n_wells) == (showing, len(shares[True]))
        assert f"other seeds find it {concept} of 10 times" in found.sentence
        said.add(showing)
        # The pictures of a card: the strongest, and the same others for every concept.
        strongest = strongest_units(activations, concept, found.inside, 3)
        codes = activations.codes.toarray()[:, concept]
        assert codes[strongest].tolist() == sorted(codes[found.inside])[:-4:-1]
        assert found.inside[strongest].all()
    assert len(said) > 1
    drawn = random_units(control, 3)
    assert len(set(drawn)) == 3
    assert control[drawn].all()
    assert drawn.tolist() == random_units(control, 3).tolist()
    assert random_units(control & False, 3).tolist() == []


def test_the_sentence_leaves_out_what_is_not_known():
    _, activations = make(("dmso", "dmso", "drug", "drug"), (True, True, False, False))
    values = np.zeros(16)
    # One of four cells in each control well, three and one in those of the drug.
    values[[0, 4, 8, 9, 10, 12]] = 1
    activations = with_codes(activations, values)
    ranking = activations.ranking
    ranking.loc[0, ["label", "place"]] = ["drug", "cells"]
    activations.ranking = ranking
    wells = wells_of(activations)
    found = summarize_concept(activations, wells, 0, EvaluationReport())
    assert found.sentence == (
        "In 50 % of 'drug' cells and 25 % of controls; in 1 of 2 wells; lies in the cells."
    )
    assert found.numbers == "n = 8 'drug' cells in 2 wells and 8 control cells in 2 wells."
    together = summarize_concept(activations, wells, ConceptSet("drug", (0,), (1.0,), (1.0,), 1, 1))
    assert together.sentence.endswith("wells.")
    assert together.numbers == found.numbers
    activations.units["Metadata_control"] = False
    found = summarize_concept(activations, wells, 0)
    assert "and 25 % of others; in 1 of 2 wells" in found.sentence
    activations.units["Metadata_condition"] = "drug"
    alone = summarize_concept(activations, wells, 0)
    assert alone.sentence == "In 38 % of 'drug' cells; lies in the cells."
    shares = (0, 0.004, 0.006, 1, np.nan)
    assert [percent(share) for share in shares] == ["0 %", "<1 %", "1 %", "100 %", "-"]


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
        assert (codes[bands[NONE].rows] <= 0).all()
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


def test_pictures_share_the_contrast_of_both_sides_and_colours_add_up(activations, fields):
    pictures = UnitPictures(activations, fields)
    for channel in (0, 1):
        pixels = [field.read((channel,)) for field in fields]
        assert pictures.contrast(channel) == pytest.approx(np.percentile(pixels, [0.5, 99.8]))
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
    pixels = np.stack([f.data[1] for f in gaps])
    pictures = UnitPictures(activations, gaps)
    assert pictures.contrast(1) == pytest.approx(np.nanpercentile(pixels, [0.5, 99.8]))
    number, (rows, columns) = unit_window(activations, row)
    gap = np.isnan(gaps[number].data[1, rows, columns])
    assert gap.any()
    assert not pictures.picture(row, PictureChoice(1))[gap].any()
    # Channels that are called so have their own colours.
    named = [dataclasses.replace(f, channel_names=("Red", "Blue")) for f in fields]
    assert UnitPictures(activations, named).colours() == [("red", (1, 0, 0)), ("blue", (0, 0, 1))]


def test_a_name_is_suggested_from_what_goes_along_with_a_concept(run, activations, fields):
    # The area of every cell, counted in the labels themselves.
    units = activations.units
    pairs = [*zip(units["field"], units["label"], strict=True)]
    areas = np.array([(run.labels[f] == n).sum() for f, n in pairs], float)
    # Strong where few pixels are far brighter than most.
    measured = [
        cell_measurements(fields[f].read((0,)), run.labels[f], ("GFP",)) for f in range(len(fields))
    ]
    table = pd.DataFrame([measured[f].loc[n] for f, n in pairs])
    low, middle, high = (table[f"intensity_p{q}_GFP"].to_numpy() for q in (5, 50, 95))
    spots, luck = (high - middle) / (high - low), np.random.default_rng(0).random(len(areas))
    made = with_codes(activations, areas, areas.max() - areas, luck, spots)
    suggestions = NameSuggestions(made, fields, run.labels)
    assert suggestions.are_possible
    assert suggestions.of(0) == ""
    suggestions.measure()
    assert suggestions.are_measured
    found = [suggestions.of(concept).split(", ")[0] for concept in range(4)]
    assert found == ["larger", "smaller", "", "spots"]
    assert not NameSuggestions(activations, [], run.labels).are_possible


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
    # Two wells a side.
    limit = wells_limit(activations, "puncta")
    assert f"2 wells against 2: no p can be below {smallest_p(2, 2):.2g}" in limit
    assert wells_limit(activations, "puncta", "diffuse") == limit
    assert wells_limit(activations, "puncta", "no such").endswith("so add wells.")
