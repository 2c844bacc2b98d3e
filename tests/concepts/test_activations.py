from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from core.refusals import refusal
from napari_microdl.concepts.activations import ConceptActivations, label_aucs, unit_table
from napari_microdl.concepts.dictionary import ConceptDictionary, DictionarySpec
from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.estimators.whitening import ControlWhitening
from napari_microdl.fields.field import Field
from napari_microdl.tokens import TokenGrid
from napari_microdl.tokens.units import Units, pool, units_of

WIDTH, ATOMS, PATCH = 6, 8, 4
SPEC = DictionarySpec(
    model={"id": "m", "weights_sha256": "0" * 64, "licence": "", "patch_size": PATCH},
    tokens={"layer": 1, "channels": ("a",), "tile_size": 16, "halo": 0},
    units={"kind": "cell", "crop_size": 8, "crop_stride": 8},
)


def make(
    conditions: tuple[str, ...] = ("diffuse", "puncta", "puncta", "blank"),
    controls: tuple[bool, ...] = (True, False, False, False),
    *,
    whiten: bool = True,
) -> tuple[list[Field], ConceptActivations]:
    """Fields of random tokens with four cells each, labels with gaps; conditions move tokens."""
    rng = np.random.default_rng(0)
    fields, grids, geometry = [], [], []
    for n, (condition, control) in enumerate(zip(conditions, controls, strict=True)):
        labels = np.kron(rng.permutation([3, 7, 11, 900]).reshape(2, 2), np.ones((11, 13), int))
        labels[::5] = 0
        tokens = rng.normal(size=(6, 7, WIDTH)).astype(np.float32)
        tokens[..., len(condition) % WIDTH] += 1
        grid = TokenGrid(tokens, np.zeros((6, 7), np.int32), PATCH, labels.shape)
        grids.append(grid)
        geometry.append(units_of(grid, "cell", labels=labels))
        fields.append(
            Field(
                data=np.zeros((1, *labels.shape)),
                channel_names=("a",),
                name=f"field {n}",
                condition=condition,
                is_control=control,
                well=f"W{n}",
                site="s1",
                plate="P",
            )
        )
    vectors = np.concatenate([pool(g, u) for g, u in zip(grids, geometry, strict=True)])
    whitening = ControlWhitening(shrinkage=0.5).fit(rng.normal(size=(80, WIDTH)))
    whitening = whitening if whiten else None
    samples = whitening.transform(vectors) if whitening is not None else vectors
    icfl = ICFL(ATOMS, 2, 1, max_steps=3, random_state=0).fit(samples)
    dictionary = ConceptDictionary(SPEC, icfl, whitening)
    activations = ConceptActivations(
        unit_table(fields, geometry),
        dictionary.encode(vectors),
        samples,
        dictionary,
        grids,
        geometry,
    )
    return fields, activations


@pytest.fixture
def activations() -> ConceptActivations:
    return make()[1]


def test_the_table_has_one_row_a_unit_with_what_is_known():
    fields, activations = make()
    table = activations.units
    assert list(table.columns) == [
        "Metadata_Field", "Metadata_Plate", "Metadata_Well", "Metadata_Site", "Metadata_condition",
        "Metadata_control", "field", "label", "y", "x", "area",
    ]  # fmt: skip
    assert len(table) == 16
    assert table.index.tolist() == list(range(16))
    assert table["Metadata_control"].dtype == bool
    for row in table.itertuples():
        field, units = fields[row.field], activations.geometry[row.field]
        place = units.ids.tolist().index(row.label)
        assert row.Metadata_Field == field.name
        assert row.Metadata_condition == field.condition
        assert row.Metadata_control == field.is_control
        assert (row.Metadata_Well, row.Metadata_Site, row.Metadata_Plate) == (field.well, "s1", "P")
        assert (row.y, row.x, row.area) == (units.y[place], units.x[place], units.area[place])


def test_values_of_a_field_are_those_of_its_own_units(activations):
    codes = activations.codes.toarray()
    for concept in range(ATOMS):
        np.testing.assert_array_equal(activations.activation(concept), codes[:, concept])
        for field in range(4):
            labels, values = activations.unit_values(field, concept)
            assert labels.tolist() == [3, 7, 11, 900]
            np.testing.assert_array_equal(values, codes[4 * field : 4 * field + 4, concept])


@pytest.mark.parametrize("whiten", [True, False])
def test_the_heatmap_is_the_cosine_of_every_token(whiten):
    _, activations = make(whiten=whiten)
    dictionary = activations.dictionary
    # Back and forth, since one field's whitened tokens are kept.
    for field, concept in ((0, 0), (0, 5), (2, 5), (0, 5)):
        atom = dictionary.icfl.components_[concept].astype(float)
        heatmap = activations.heatmap(field, concept)
        assert heatmap.shape == (6, 7)
        for place in np.ndindex(6, 7):
            token = activations.grids[field].tokens[place].astype(float)
            if dictionary.whitening is not None:
                w = dictionary.whitening
                token = (w.components_ * w.scale_[:, None]) @ (token - w.mean_)
            expected = token @ atom / np.linalg.norm(token) / np.linalg.norm(atom)
            assert heatmap[place] == pytest.approx(expected, abs=1e-5)


def test_alignment_is_the_cosine_of_every_unit(activations):
    for concept in (0, 3):
        atom = activations.dictionary.icfl.components_[concept]
        for vector, cosine in zip(activations.vectors, activations.alignment(concept), strict=True):
            expected = vector @ atom / np.linalg.norm(vector) / np.linalg.norm(atom)
            assert cosine == pytest.approx(expected, abs=1e-5)


def test_the_ranking_equals_a_loop_over_concepts_and_treatments(activations):
    ranking = activations.ranking
    assert list(ranking.columns) == [
        "name", "activation_rate", "selectivity", "label", "max_selectivity", "auc",
        "rate_label", "rate_controls", "effect", "q_cells", "q_wells", "group", "dead",
        "duplicate_of", "place", "in_cells",
        "background_auc", "auc_left", "within_wells",
    ]  # fmt: skip
    assert ranking.index.name == "concept"
    assert sorted(ranking.index) == list(range(ATOMS))
    conditions = activations.units["Metadata_condition"].to_numpy()
    on = activations.codes.toarray() > 0
    for concept, row in ranking.iterrows():
        rates = {c: on[conditions == c, concept].mean() for c in set(conditions)}
        average = {c: rates[c] - on[conditions != c, concept].mean() for c in ("puncta", "blank")}
        best = max(sorted(average), key=average.__getitem__)
        assert row["label"] == best
        assert row["selectivity"] == pytest.approx(average[best])
        others = [rate for c, rate in rates.items() if c != best]
        assert row["max_selectivity"] == pytest.approx(rates[best] - max(others))
        assert row["activation_rate"] == pytest.approx(on[:, concept].mean())
        assert row["rate_label"] == pytest.approx(rates[row["label"]])
        control = activations.units["Metadata_control"].to_numpy()
        assert row["rate_controls"] == pytest.approx(on[control, concept].mean())
        assert row["dead"] == (not on[:, concept].any())
        area = roc_auc_score(conditions == best, activations.alignment(int(concept)))
        assert row["auc"] == pytest.approx(area)
        assert row["name"] == f"concept {concept}"
    keys = ranking[["selectivity", "auc", "activation_rate"]].apply(tuple, axis=1).tolist()
    assert keys == sorted(keys, reverse=True)


def test_effect_and_tests_of_a_row_are_of_its_label_against_controls():
    """Three treatments: what is told of one does not move with the others."""
    _, activations = make(
        ("blank", "a", "b", "blank", "a", "b", "c", "c"), (True, False, False) * 2 + (False,) * 2
    )
    ranking = activations.ranking
    units = activations.units
    control = units["Metadata_control"].to_numpy()
    conditions = units["Metadata_condition"].to_numpy()
    values = activations.codes.toarray().astype(float)
    wells = units["Metadata_Well"].to_numpy()
    p_cells, p_wells = [], []
    for concept, row in ranking.iterrows():
        of = values[:, concept]
        side = conditions == row["label"]
        pairs = np.sign(of[side][:, None] - of[control])
        assert row["effect"] == pytest.approx(pairs.mean())
        test = stats.mannwhitneyu(of[side], of[control], method="asymptotic")
        p_cells.append(min(test.pvalue, 1) if np.ptp(of[side | control]) else 1.0)
        means = [
            [of[wells == well].mean(dtype=float) for well in np.unique(wells[rows])]
            for rows in (side, control)
        ]
        # All six ways to choose two of four wells; equal means share their rank.
        ranks = stats.rankdata([*means[0], *means[1]])
        ways = [abs(ranks[i] + ranks[j] - 5) for i in range(4) for j in range(i)]
        p_wells.append(np.mean(np.array(ways) >= abs(ranks[:2].sum() - 5) - 1e-9))
    assert ranking["label"].nunique() > 1
    np.testing.assert_allclose(ranking["q_cells"], stats.false_discovery_control(p_cells))
    np.testing.assert_allclose(ranking["q_wells"], stats.false_discovery_control(p_wells))


def test_without_two_conditions_the_rate_decides():
    _, activations = make(("same",) * 3, (True, False, False))
    ranking = activations.ranking
    assert ranking[["selectivity", "max_selectivity", "auc"]].isna().all(axis=None)
    assert ranking["activation_rate"].is_monotonic_decreasing
    assert set(ranking["label"]) == {"same"}


def test_without_treatments_every_condition_counts_and_none_is_called_like_the_control():
    _, activations = make(("dmso", "dmso", "drug"), (True, False, False))
    assert set(activations.ranking["label"]) == {"drug"}
    _, activations = make(("a", "bb"), (True, True))
    assert set(activations.ranking["label"]) <= {"a", "bb"}
    assert (activations.ranking["selectivity"] >= 0).all()


def test_top_units_are_the_extremes_of_the_alignment(activations):
    alignment = activations.alignment(2)
    top, bottom = activations.top_units(2, 5), activations.top_units(2, 5, -1)
    assert alignment[top].tolist() == sorted(alignment.tolist(), reverse=True)[:5]
    assert alignment[bottom].tolist() == sorted(alignment.tolist())[:5]
    assert len(activations.top_units(2, 99)) == 16


def test_the_frame_goes_through_a_file(activations, tmp_path):
    frame = activations.to_frame([5, 0])
    added = ["activation_5", "cosine_5", "activation_0", "cosine_0"]
    assert list(frame.columns) == [*activations.units.columns, *added]
    np.testing.assert_array_equal(frame["activation_5"], activations.activation(5))
    np.testing.assert_array_equal(frame["cosine_0"], activations.alignment(0))
    frame.to_csv(tmp_path / "cells.csv", index=False)
    back = pd.read_csv(tmp_path / "cells.csv")
    assert back["Metadata_control"].tolist() == activations.units["Metadata_control"].tolist()
    np.testing.assert_allclose(back["cosine_0"], activations.alignment(0), rtol=1e-6)
    assert len(activations.to_frame().columns) == 11 + 2 * ATOMS
    assert len(activations.to_frame([]).columns) == 11


def test_codes_below_zero_are_shown_but_not_counted(activations):
    codes = np.zeros((16, ATOMS), np.float32)
    codes[:, 1] = -3
    codes[4:12, 2] = 1
    changed = dataclasses.replace(activations, codes=sparse.csr_array(codes))
    assert changed.activation(1).tolist() == [-3] * 16
    ranking = changed.ranking
    assert ranking.loc[1, "dead"]
    assert ranking.loc[1, "activation_rate"] == 0
    assert ranking.index[0] == 2
    assert ranking.loc[2, ["label", "selectivity", "max_selectivity"]].tolist() == ["puncta", 1, 1]
    assert not math.isnan(ranking.loc[1, "auc"])


def test_areas_are_taken_of_a_draw_of_many_units_and_some_concepts_at_a_time(activations):
    conditions = activations.units["Metadata_condition"].to_numpy().astype(str)
    labels = activations.ranking.sort_index()["label"].to_numpy(str)
    given = activations.vectors, activations.dictionary.directions, conditions, labels
    whole = label_aucs(*given, concepts_at_once=3)
    drawn = label_aucs(*given, most_of_a_side=7)
    for concept, label in enumerate(labels):
        positive = conditions == label
        exact = roc_auc_score(positive, activations.alignment(concept))
        assert whole[concept] == pytest.approx(exact)
        # Leaving out a part of each side moves the area by no more than that part.
        n_pairs = min(7, positive.sum()) * min(7, (~positive).sum())
        assert abs(drawn[concept] - exact) <= 1 - n_pairs / (positive.sum() * (~positive).sum())
    assert (drawn != whole).any()


def test_two_conditions_are_compared_and_a_wrong_choice_is_said(activations):
    conditions = activations.units["Metadata_condition"].to_numpy()
    compared = activations.compare("blank", "puncta")
    for concept, row in compared.iterrows():
        values = activations.activation(int(concept))
        test = stats.mannwhitneyu(
            values[conditions == "puncta"], values[conditions == "blank"], method="asymptotic"
        )
        assert row["effect"] == pytest.approx(2 * test.statistic / 32 - 1)
        assert row["p_cells"] == pytest.approx(min(test.pvalue, 1))
    assert "two different conditions" in refusal(activations.compare, "blank", "blank")
    assert "No unit has the condition 'other'" in refusal(activations.compare, "blank", "other")


def test_the_concepts_of_a_unit_come_strongest_first(activations):
    dense = activations.codes.toarray()
    for row in range(16):
        concepts, values = activations.concepts_of(row)
        assert set(concepts) == set(np.flatnonzero(dense[row]))
        assert values.tolist() == sorted(dense[row][dense[row] != 0], reverse=True)
        np.testing.assert_array_equal(dense[row, concepts], values)


@pytest.mark.parametrize("n", [1, 5, 15, 40])
def test_similar_units_are_those_of_the_highest_cosine(activations, n):
    table = cosine_similarity(activations.vectors)
    for row in (0, 7):
        rows, cosines = activations.similar_units(row, n)
        others = np.delete(np.arange(16), row)
        expected = others[np.argsort(-table[row, others])][:n]
        assert rows.tolist() == expected.tolist()
        np.testing.assert_allclose(cosines, table[row, expected], atol=1e-6)


def test_a_place_leads_to_the_unit_whose_box_holds_it(activations):
    units = activations.geometry[2]
    for place, (top, left, bottom, right) in enumerate(units.boxes):
        row = int(activations.rows_of_field(2)[place])
        assert activations.unit_at(2, (top + bottom) / 2, (left + right) / 2) == row
    assert activations.unit_at(2, -3, 2) is None
    assert activations.unit_at(2, 1, 500) is None


def test_tags_of_units_travel_with_their_table(activations):
    assert list(activations.to_frame([]).columns) == list(activations.units.columns)
    activations.tag_units(np.array([1, 4]), "perturbed")
    activations.tag_units(np.array([2, 4]), "control-like")
    activations.tag_units(np.array([2]), "")
    tags = activations.to_frame([0])["Metadata_tag"]
    assert tags[tags != ""].to_dict() == {1: "perturbed", 4: "control-like"}
    with pytest.raises(MicrodlError, match="'odd' is not known; use control-like or perturbed"):
        activations.tag_units(np.array([0]), "odd")


def test_units_keep_their_rows_apart_from_other_fields():
    units = Units(
        np.array([5]),
        *np.array([[1.0], [2.0], [3.0]], np.float32),
        np.array([[0, 0, 1, 3]], np.int32),
        sparse.csr_array(np.ones((1, 4), np.float32)),
    )
    image = np.zeros((1, 4, 4))
    fields = [Field(data=image, channel_names=("a",), name=name) for name in "fg"]
    table = unit_table(fields, [units, units])
    assert table["field"].tolist() == [0, 1]
    assert table["label"].tolist() == [5, 5]
    assert table["Metadata_Field"].tolist() == ["f", "g"]


def test_some_fields_alone_keep_their_numbers(activations):
    activations.tag_units(np.array([5, 14]), "perturbed")
    some = activations.of_fields([3, 1])
    rows = np.r_[4:8, 12:16]
    pd.testing.assert_frame_equal(some.units, activations.units.iloc[rows].reset_index(drop=True))
    assert (some.codes.toarray() == activations.codes.toarray()[rows]).all()
    np.testing.assert_array_equal(some.alignment(2), activations.alignment(2)[rows])
    np.testing.assert_array_equal(some.heatmap(3, 2), activations.heatmap(3, 2))
    assert list(np.flatnonzero(some.unit_tags)) == [1, 6]
    some.unit_tags[:] = ""
    assert list(np.flatnonzero(activations.unit_tags)) == [5, 14]


def test_the_most_aligned_patches_are_those_of_all_heatmaps(activations):
    direction = activations.dictionary.directions[[1]]
    whiten = activations.dictionary.whiten
    cosines = np.stack(
        [
            cosine_similarity(whiten(grid.tokens.reshape(-1, WIDTH)), direction).reshape(6, 7)
            for grid in activations.grids
        ]
    )
    for sign in (1, -1):
        table = activations.top_patches(1, 5, sign)
        expected = np.sort(sign * cosines, axis=None)[::-1][:5]
        np.testing.assert_allclose(sign * table["cosine"], expected, atol=1e-5)
        found = cosines[table["field"], table["row"], table["column"]]
        np.testing.assert_allclose(found, table["cosine"], atol=1e-5)
    one = activations.top_patches(1, 3, fields=[2])
    assert set(one["field"]) == {2}
    np.testing.assert_allclose(one["cosine"], np.sort(cosines[2], axis=None)[::-1][:3], atol=1e-5)


def test_heatmaps_in_masks_are_those_of_pixels():
    fields, made = make(("diffuse", "puncta"), (True, False))
    labels = np.zeros((22, 26), int)
    labels[2:9, 3:11], labels[12:20, 10:25], labels[0, 25] = 5, 2, 9
    geometry = [made.geometry[0], units_of(made.grids[1], "cell", labels=labels)]
    activations = dataclasses.replace(
        made,
        units=unit_table(fields, geometry),
        geometry=geometry,
        codes=made.codes[:7],
        vectors=made.vectors[:7],
        unit_tags=np.empty(0, "<U12"),
    )
    inside, background = activations.mask_values(2, np.array([6, 4]))
    heatmap = activations.heatmap(1, 2)
    pixels = np.kron(heatmap, np.ones((PATCH, PATCH)))[:22, :26]
    np.testing.assert_allclose(
        inside, [pixels[labels == 9].mean(), pixels[labels == 2].mean()], rtol=1e-6
    )
    padded = np.pad(labels, ((0, 2), (0, 2))).reshape(6, PATCH, 7, PATCH)
    free = ~(padded > 0).any(axis=(1, 3))
    np.testing.assert_allclose(np.sort(background), np.sort(heatmap[free]), rtol=1e-6)
    assert 0 < len(background) < heatmap.size
    assert [len(part) for part in activations.mask_values(2, np.empty(0, np.int64))] == [0, 0]
