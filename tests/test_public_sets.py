from __future__ import annotations

import dataclasses
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import sparse
from sklearn.metrics import roc_auc_score

from napari_microdl import ICFL
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.samples import transfluor
from napari_microdl.tokens import TokenGrid
from napari_microdl.tokens.units import units_of


@pytest.fixture
def public_sets(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    return import_module("public_sets")


@pytest.fixture
def claims(public_sets):
    return import_module("claims")


@pytest.fixture
def sets(public_sets, data_root):
    return {name: read(data_root) for name, read in public_sets.SETS.items()}


def test_what_is_held_out_was_not_fitted(sets):
    for name, public in sets.items():
        fitted, held_out = (
            {hash(part.field.read().tobytes()) for part in parts}
            for parts in (public.fit, public.test)
        )
        assert len(fitted) == len(public.fit), name
        assert not fitted & held_out, name


def test_the_well_that_a_choice_was_made_on_is_not_held_out(sets, public_sets, data_root):
    parts = sets["transfluor"].test
    held_out = [(part.field.well, part.field.site) for part in parts]
    assert ("O01", "f01") not in held_out
    assert {site for _, site in held_out} == {"f01"}
    assert len(held_out) == 23
    # What is left out of the stricter figures is what comes with the package, to the pixel.
    shown = {field.read().tobytes() for field in transfluor()}
    seen = {part.field.well for part in parts if part.field.read().tobytes() in shown}
    assert seen == sets["transfluor"].bundled == public_sets.BUNDLED - {"O01"}
    for name, public in sets.items():
        assert bool(public.bundled) == (name == "transfluor")


def test_the_stricter_figures_are_those_of_the_other_wells(claims, public_sets):
    random = np.random.default_rng(0)
    wells = np.repeat(["A", "B", "C", "D"], 50)
    labels = np.repeat(["x", "y", "x", "y"], 50)
    codes = (random.random((200, 3)) < [0.2, 0.5, 0.5]).astype(float)
    # A concept that tells the labels in the wells in sight, and nothing in the others.
    codes[:, 0] = np.where(wells == "B", 1, random.random(200) < 0.3)
    samples = public_sets.Samples(codes, wells, labels, wells, wells, labels == "x")
    table = sparse.csr_array(codes)
    found = claims.selective(
        table, table, samples, samples, lambda n: codes[:, n], frozenset({"A", "B"})
    )
    figures = found["labels"]["y"]
    assert figures["concept"] == 0
    apart = wells > "B"
    active = codes[:, 0] > 0
    expected = active[apart & (labels == "y")].mean() - active[apart & (labels == "x")].mean()
    assert figures["held_out_apart"] == pytest.approx(expected)
    area = roc_auc_score(labels[apart] == "y", codes[apart, 0])
    assert figures["auc_apart"] == pytest.approx(area)
    assert figures["held_out"] > 0.3 > figures["held_out_apart"]
    plain = claims.selective(table, table, samples, samples, lambda n: codes[:, n], frozenset())
    assert "held_out_apart" not in plain["labels"]["y"]


def test_the_printed_algorithm_is_the_printed_one(claims):
    x = np.random.default_rng(0).normal(size=(300, 24)).astype(np.float32)
    printed = claims.printed(16, 0).set_params(max_steps=20).fit(x)
    by_hand = ICFL(
        16, update="adam", init="linear", selection="signed", refit="block", allow_repeats=True,
        learning_rate=3e-3, batch_size=1024, max_steps=20, random_state=0,
    ).fit(x)  # fmt: skip
    np.testing.assert_array_equal(printed.components_, by_hand.components_)
    codes = [icfl.transform(x).toarray() for icfl in (printed, by_hand)]
    np.testing.assert_array_equal(*codes)


def test_stored_vectors_are_those_of_the_same_units(public_sets, sets):
    """Vectors of the units of another division are not taken for these."""
    public = sets["transfluor"]
    fewer = dataclasses.replace(public, test=public.test[1:])
    swapped = dataclasses.replace(public, fit=public.test, test=public.fit)
    names = {public_sets.vectors_file(each, "builtin-0") for each in (public, fewer, swapped)}
    assert len(names) == 3
    assert public_sets.vectors_file(public, "a") == public_sets.vectors_file(public, "a")


def test_both_parts_have_every_label_and_the_fitted_one_has_controls(sets):
    for name, public in sets.items():
        labels = [
            {str(x) for part in parts for x in part.labels} for parts in (public.fit, public.test)
        ]
        assert labels[0] == labels[1], name
        assert sum(part.control.sum() for part in public.fit) > 100, name


def test_a_set_says_whether_wells_are_on_both_sides(sets):
    for name, public in sets.items():
        wells = [
            {part.field.well or part.field.name for part in parts}
            for parts in (public.fit, public.test)
        ]
        assert public.same_wells == bool(wells[0] & wells[1]), name


def test_a_probe_of_the_claims_refuses_wells_on_both_sides_unless_told(claims, public_sets):
    random = np.random.default_rng(0)

    def samples(wells: list[str]) -> object:
        labels = np.repeat(["a", "b"], 20)
        x = random.normal(size=(40, 3)).astype(np.float32) + (labels == "b")[:, None] * 4
        fields = np.repeat(wells, 10)
        return public_sets.Samples(x, fields, labels, fields, fields, labels == "a")

    fit, same, other = (samples(list(wells)) for wells in ("ABCD", "ABCD", "EFGH"))
    with pytest.raises(MicrodlError, match="4 of 4 groups, such as 'A', are on both sides"):
        claims.probe(fit.vectors, same.vectors, fit, same, allow_leak=False)
    for test, allow in ((same, True), (other, False)):
        score = claims.probe(fit.vectors, test.vectors, fit, test, allow_leak=allow)
        assert score.balanced_accuracy > 0.95


def test_halves_are_those_of_the_image(sets, data_root):
    public = sets["bbbc014_vitra"]
    path = data_root / "bbbc014_vitra" / "images" / "Channel 1-12-A-12-00.tif"
    image = tifffile.imread(path)
    left, right = (next(p for p in parts if p.control.all()) for parts in (public.fit, public.test))
    np.testing.assert_array_equal(left.field.read()[0], image[:, :680])
    np.testing.assert_array_equal(right.field.read()[0], image[:, 680:])


def test_crops_have_the_boxes_of_the_package(sets, public_sets):
    for name in ("transfluor", "nf1_schwann"):
        part = sets[name].test[1]
        height, width = part.field.shape
        shape = (-(-height // 8), -(-width // 8))
        grid = TokenGrid(
            np.zeros((*shape, 1), np.float32), np.zeros(shape, np.int32), 8, (height, width)
        )
        units = units_of(grid, "crop", crop_size=public_sets.CROP, crop_stride=public_sets.STRIDE)
        np.testing.assert_array_equal(units.boxes[part.numbers], part.boxes)


def test_units_of_schwann_cells_lie_on_cells(sets, data_root):
    mask = tifffile.imread(next((data_root / "nf1_schwann" / "masks").glob("H12_*_MaskCells.tiff")))
    part = next(p for p in sets["nf1_schwann"].test if p.field.well == "H12")
    shares = [(mask[:, 612:][y0:y1, x0:x1] > 0).mean() for y0, x0, y1, x1 in part.boxes]
    assert 50 < len(shares) < 486
    assert min(shares) >= 0.5


def test_squares_around_cells_have_one_size_and_lie_in_the_image(sets):
    for part in sets["bccd"].fit:
        y0, x0, y1, x1 = part.boxes.T
        assert set(y1 - y0) == set(x1 - x0) == {64}
        height, width = part.field.shape
        assert min(y0.min(), x0.min()) >= 0
        assert y1.max() <= height
        assert x1.max() <= width
        assert (part.labels == "RBC").sum() <= 8
        np.testing.assert_array_equal(part.control, part.labels == "RBC")


def test_measurements_of_overlapping_units_are_each_their_own(sets, public_sets):
    """Units that overlap are measured in turns, yet none sees pixels of another."""
    part = sets["bccd"].test[0]
    together = public_sets._measured([part])[0]
    for number in (0, len(part.boxes) - 1):
        one = slice(number, number + 1)
        values = (part.boxes, part.labels, part.groups, part.blocks, part.control)
        alone = public_sets.Part(part.field, *(of_units[one] for of_units in values), None)
        np.testing.assert_allclose(together[number], public_sets._measured([alone])[0][0])
