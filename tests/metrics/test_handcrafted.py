from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from skimage.measure import regionprops_table

from core.refusals import refusal
from napari_microdl.core.config import SegmentationConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.segmentation import segment_cells
from napari_microdl.metrics import baseline_correlation, cell_measurements, quantile_codes
from tasks import recorded

needs_cp_measure = pytest.mark.skipif(
    find_spec("cp_measure") is None, reason="cp-measure is not installed"
)


def two_squares() -> tuple[np.ndarray, np.ndarray]:
    """A bright flat cell and a cell of stripes, one channel of noise."""
    rng = np.random.default_rng(0)
    labels = np.zeros((40, 60), np.int32)
    labels[5:25, 5:25], labels[5:25, 35:55] = 3, 8
    image = np.zeros((2, 40, 60))
    image[0][labels == 3] = 15
    image[0][labels == 8] = np.broadcast_to(np.arange(60) % 2 * 15, (40, 60))[labels == 8]
    image[1] = rng.normal(10, 2, (40, 60))
    return image, labels


def test_what_is_known_of_two_squares():
    image, labels = two_squares()
    table = cell_measurements(image, labels, ("dna", "er"))
    assert list(table.index) == [3, 8]
    assert np.isfinite(table.to_numpy()).all()
    assert list(table["shape_area"]) == [400, 400]
    assert list(table["shape_solidity"]) == [1, 1]
    np.testing.assert_allclose(table["intensity_mean_dna"], [15, 7.5])
    np.testing.assert_allclose(table["intensity_std_dna"], [0, 7.5])
    values = image[1][labels == 8]
    assert table.loc[8, "intensity_p95_er"] == np.percentile(values, 95)
    flat, striped = table.loc[3], table.loc[8]
    # Grey levels differ by 15 in all directions but along the stripes.
    assert flat["texture_contrast_1_dna"] == flat["texture_contrast_3_dna"] == 0
    assert striped["texture_contrast_1_dna"] == pytest.approx(225 * 3 / 4)
    assert flat["texture_energy_1_dna"] == 1
    # Three pixels along a diagonal are two rows and two columns, the same stripe again.
    assert striped["texture_dissimilarity_3_dna"] == pytest.approx(15 / 4)


def test_pixels_outside_the_cell_do_not_count():
    image, labels = two_squares()
    other = image.copy()
    # Within the range of grey levels, which belong to the image.
    other[0, 6:24, 25:30] = 7
    circle = np.hypot(*(np.mgrid[:40, :60] - np.array([15, 15])[:, None, None])) < 9
    labels = np.where(circle, 3, np.where(labels == 8, 8, 0))
    changed = np.where(circle | (labels == 8), other[0], 7.0)
    first = cell_measurements(other[:1], labels)
    second = cell_measurements(changed[None], labels)
    texture = [name for name in first if "texture" in name]
    np.testing.assert_allclose(first[texture], second[texture])


def test_mass_displacement_is_the_way_to_the_bright_side():
    labels = np.ones((4, 9), np.int32)
    image = np.zeros((1, 4, 9))
    image[0, :, 8] = 1
    assert cell_measurements(image, labels)["intensity_displacement_0"].iloc[0] == 4


@pytest.mark.parametrize(
    "library", ["scikit-image", pytest.param("cp_measure", marks=needs_cp_measure)]
)
def test_a_cell_of_one_pixel_has_every_measurement_and_no_cells_have_none(library):
    labels = np.zeros((30, 30), np.int32)
    assert cell_measurements(np.ones((1, 30, 30)), labels, library=library).empty
    labels[4, 4], labels[10, 5:9] = 1, 2
    table = cell_measurements(np.ones((1, 30, 30)), labels, library=library)
    assert len(table) == 2
    assert np.isfinite(table.to_numpy()).all()


@needs_cp_measure
def test_cellprofilers_measurements_agree_with_scikit_image_on_real_cells():
    field = transfluor()[0]
    image = field.read()[:, :256, :256]
    # Numbers with gaps, as labels have them where cells were taken away.
    labels = segment_cells(image[0], SegmentationConfig()) * 3
    labels[labels == 6] = 0
    with recorded() as heard:
        table = cell_measurements(image, labels, ("GFP",), library="cp_measure")
    # Three kinds of shapes, and five of one channel: each a chance to cancel.
    assert [(p.done, p.total) for p in heard] == [(n, 8) for n in range(8)]
    names = ("label", "area", "solidity", "eccentricity", "intensity_mean", "intensity_max")
    known = regionprops_table(labels, image[0], names)
    assert len(known["label"]) > 10
    assert list(table.index) == list(known["label"])
    for name, other in (
        ("AreaShape_Area", "area"),
        ("AreaShape_Solidity", "solidity"),
        ("AreaShape_Eccentricity", "eccentricity"),
        ("Intensity_MeanIntensity_GFP", "intensity_mean"),
        ("Intensity_MaxIntensity_GFP", "intensity_max"),
    ):
        np.testing.assert_allclose(table[name], known[other], rtol=1e-9)
    assert np.isfinite(table.to_numpy()).all()
    modules = {name.partition("_")[0] for name in table}
    assert modules == {"AreaShape", "Intensity", "RadialDistribution", "Granularity", "Texture"}
    assert not any("Center" in name or "BoundingBoxM" in name for name in table)


@needs_cp_measure
def test_texture_is_of_the_range_of_the_image_and_intensity_in_its_units():
    image, labels = two_squares()
    first = cell_measurements(image, labels, ("dna", "er"), library="cp_measure")
    second = cell_measurements(1000 * image + 5, labels, ("dna", "er"), library="cp_measure")
    texture = [name for name in first if name.startswith("Texture")]
    assert len(texture) == 2 * 13 * 4
    np.testing.assert_allclose(first[texture], second[texture], rtol=1e-6)
    # The flat cell holds one grey level; stripes are black and white but along themselves.
    contrast = first[[f"Texture_Contrast_3_{n:02d}_256_dna" for n in range(4)]]
    assert (contrast.loc[3] == 0).all()
    assert sorted(contrast.loc[8]) == [0, *[pytest.approx(254**2)] * 3]
    np.testing.assert_allclose(first["Intensity_MeanIntensity_dna"], [15, 7.5])
    np.testing.assert_allclose(second["Intensity_MeanIntensity_dna"], [15_005, 7_505])


def test_a_library_that_cannot_be_had_is_refused(monkeypatch):
    image, labels = two_squares()
    with pytest.raises(MicrodlError, match=r"'pyradiomics' is not known .* scikit-image, cp_mea"):
        cell_measurements(image, labels, library="pyradiomics")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MicrodlError, match=r"need the package cp-measure: pip install 'napari"):
        cell_measurements(image, labels, library="cp_measure")


@given(seed=st.integers(0, 200), wanted=st.floats(0.5, 4.5), both=st.booleans())
def test_codes_are_as_sparse_as_wanted(seed, wanted, both):
    x = np.random.default_rng(seed).normal(size=(200, 5))
    codes = quantile_codes(x, wanted, both_tails=both)
    n_features = 10 if both else 5
    assert codes.shape == (200, n_features)
    # Of every feature at most one sample is on the wrong side.
    assert codes.count_nonzero() / 200 == pytest.approx(wanted, abs=n_features / 200)
    dense = codes.toarray() > 0
    for feature in range(5):
        on = dense[:, feature]
        assert x[on, feature].min() > x[~on, feature].max()
        if both:
            on = dense[:, 5 + feature]
            assert x[on, feature].max() < x[~on, feature].min()


def test_the_correlation_is_that_of_scipy():
    a, b = np.random.default_rng(0).random((2, 12))
    assert baseline_correlation(a, b) == pytest.approx(stats.pearsonr(a, b).statistic)
    assert np.isnan(baseline_correlation(a[:2], b[:2]))
    assert np.isnan(baseline_correlation(a, np.ones(12)))


def test_what_does_not_fit_is_refused():
    image, labels = two_squares()
    assert "give channels x height x width" in refusal(cell_measurements, image[0], labels)
    assert "2 channels but 1 names" in refusal(cell_measurements, image, labels, ("dna",))
    for x, wanted in [(np.ones((3, 2)), 2), (np.ones((3, 2)), 0), (np.full((3, 2), np.nan), 1)]:
        assert "non-zeros of features" in refusal(quantile_codes, x, wanted)
    assert "3 and 4 labels" in refusal(baseline_correlation, np.ones(3), np.ones(4))
