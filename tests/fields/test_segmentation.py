from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from core.refusals import refusal
from napari_microdl.core.config import SegmentationConfig
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.segmentation import measure_levels, segment_cells
from tasks import cancelling, processes_started


def discs(radius: int = 12, across: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Image and labels of discs of different brightness on a sloping, noisy background."""
    rng = np.random.default_rng(seed)
    pitch = int(3.2 * radius)
    edge = pitch * across
    y, x = np.mgrid[:edge, :edge]
    labels = np.zeros((edge, edge), int)
    image = 20 + 10 * x / edge
    for i in range(across):
        for j in range(across):
            shift = rng.integers(-radius // 4, radius // 4 + 1, 2)
            centre = pitch * np.array([i + 0.5, j + 0.5]) + shift
            inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2
            labels[inside] = i * across + j + 1
            image[inside] += rng.uniform(40, 120)
    image = ndimage.gaussian_filter(image, 1) + rng.normal(0, 3, image.shape)
    return image.astype(np.float32), labels


def best_overlaps(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of every true object with its best match."""
    overlaps = []
    for label in range(1, truth.max() + 1):
        inside = truth == label
        scores = [
            (inside & (found == other)).sum() / (inside | (found == other)).sum()
            for other in np.unique(found[inside])
            if other
        ]
        overlaps.append(max(scores, default=0.0))
    return np.array(overlaps)


@pytest.mark.parametrize("threshold", ["local", "otsu"])
@pytest.mark.parametrize("radius", [8, 16])
def test_discs_are_counted_and_outlined(threshold: str, radius: int):
    image, truth = discs(radius)
    found = segment_cells(image, SegmentationConfig(diameter=2 * radius, threshold=threshold))
    assert abs(found.max() - truth.max()) <= 0.05 * truth.max()
    overlaps = best_overlaps(found, truth)
    assert np.median(overlaps) > 0.8
    assert (overlaps > 0.6).mean() > 0.95


def test_touching_discs_are_parted():
    y, x = np.mgrid[:80, :120]
    image = np.full((80, 120), 10.0)
    for centre in (45, 77):
        image[(y - 40) ** 2 + (x - centre) ** 2 <= 17**2] = 100
    found = segment_cells(ndimage.gaussian_filter(image, 1), SegmentationConfig(diameter=34))
    assert found.max() == 2
    assert found[40, 45] != found[40, 77]


def test_labels_are_connected_without_gaps_and_in_the_image():
    image, _ = discs(10)
    found = segment_cells(image, SegmentationConfig(diameter=20))
    assert found.shape == image.shape
    assert found.dtype == np.int32
    np.testing.assert_array_equal(np.unique(found), np.arange(found.max() + 1))
    for label in range(1, found.max() + 1):
        assert ndimage.label(found == label, np.ones((3, 3)))[1] == 1


def test_objects_below_the_smallest_area_are_dropped():
    y, x = np.mgrid[:100, :200]
    image = np.full((100, 200), 10.0)
    image[(y - 50) ** 2 + (x - 60) ** 2 <= 20**2] = 100
    image[(y - 50) ** 2 + (x - 150) ** 2 <= 9**2] = 100
    both = segment_cells(image, SegmentationConfig(diameter=40, min_area=50))
    large = segment_cells(image, SegmentationConfig(diameter=40, min_area=500))
    assert (both.max(), large.max()) == (2, 1)
    assert large[50, 60] == 1
    assert large[50, 150] == 0
    # A sixth of a disc of the diameter.
    assert SegmentationConfig(diameter=40).smallest_area == pytest.approx(np.pi * 400 / 6)


@pytest.mark.parametrize("threshold", ["local", "otsu"])
@pytest.mark.parametrize("value", [0, 0.1, 200])
def test_a_constant_image_holds_no_cells(threshold: str, value: float):
    found = segment_cells(np.full((64, 70), value), SegmentationConfig(threshold=threshold))
    assert found.shape == (64, 70)
    assert found.max() == 0


def test_brightness_and_number_type_do_not_matter():
    image, _ = discs(12)
    byte = np.clip(image, 0, 255).astype(np.uint8)
    config = SegmentationConfig(diameter=24)
    expected = segment_cells(byte, config)
    assert expected.max() > 0
    for same in (byte.astype(np.uint16) * 100, byte.astype(float) - 500, byte.astype(np.int32)):
        found = segment_cells(same, config)
        assert found.max() == expected.max()
        assert (found > 0).sum() == pytest.approx((expected > 0).sum(), rel=0.01)


def test_the_image_is_left_as_it_is():
    image, _ = discs(8, 3)
    before = image.copy()
    segment_cells(image, SegmentationConfig(diameter=16))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("threshold", ["local", "otsu"])
def test_real_fields_hold_a_sane_number_of_cells(sample_fields: list[Field], threshold: str):
    for field in (sample_fields[0], sample_fields[4]):
        found = segment_cells(field.read()[0], SegmentationConfig(threshold=threshold))
        areas = np.bincount(found.ravel())[1:]
        assert 40 <= len(areas) <= 120
        assert 0.1 < (found > 0).mean() < 0.8
        assert areas.min() >= SegmentationConfig().smallest_area - 1
        assert 300 < np.median(areas) < 3000


def test_more_than_one_channel_is_refused():
    assert refusal(segment_cells, np.zeros((3, 20, 20))) == (
        "Segmentation needs one grey image (y, x) but got the shape (3, 20, 20); "
        "choose one channel."
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_refused(bad: float):
    image = discs(8, 3)[0]
    image[5, 5] = bad
    assert "NaN or infinite values" in refusal(segment_cells, image)


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ({"threshold": "huang"}, "cells.threshold is 'huang', which is not known; use one of"),
        ({"diameter": 3.9}, "cells.diameter is 3.9 but must be 4 or more."),
        ({"diameter": -40}, "cells.diameter is -40 but must be 4 or more."),
        ({"diameter": np.nan}, "cells.diameter is nan but must be 4 or more."),
        ({"min_area": -3}, "cells.min_area is -3 but must be 0 or more."),
    ],
)
def test_settings_that_make_no_sense_are_refused(setting: dict[str, Any], sentence: str):
    assert refusal(SegmentationConfig, **setting).startswith(f"The setting {sentence}")


@pytest.mark.parametrize("threshold", ["local", "otsu"])
def test_a_part_has_the_cells_of_the_whole_where_it_was_not_cut(threshold: str):
    image = transfluor()[4].read()[0]
    config = SegmentationConfig(diameter=16, threshold=threshold)
    whole = segment_cells(image, config)
    levels = measure_levels(image, config)
    part = segment_cells(image[100:400, 50:420], config, levels)
    inside = slice(4 * 16, -4 * 16)
    found, expected = part[inside, inside], whole[100:400, 50:420][inside, inside]
    np.testing.assert_array_equal(found > 0, expected > 0)
    pairs = np.unique(np.stack([found[found > 0], expected[found > 0]]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1] > 20
    # By its own brightness alone a part may be judged otherwise.
    alone = segment_cells(image[100:400, 50:420], config)
    assert not np.array_equal(alone > 0, part > 0)


def test_segmentation_can_be_cancelled_between_its_steps():
    image = transfluor()[4].read()[0]
    for looks in range(12):
        with cancelling(looks):
            segment_cells(image)
    for looks in range(3):
        with cancelling(looks):
            measure_levels(image)


def test_a_large_image_is_segmented_in_a_process_that_ends_when_it_is_left(monkeypatch):
    image = transfluor()[4].read()[0]
    expected = segment_cells(image)
    most = image.size - 1
    started = processes_started(monkeypatch)
    found = segment_cells(image, pixels_in_this_process=most)
    np.testing.assert_array_equal(found, expected)
    with cancelling(1):
        segment_cells(image, pixels_in_this_process=most)
    assert len(started) == 2
    assert started[1].returncode not in (None, 0)
    nothing = np.full(image.shape, np.nan, np.float32)
    assert "NaN or infinite" in refusal(segment_cells, nothing, pixels_in_this_process=most)


def of_nothing(kind: str) -> np.ndarray:
    """A field without cells as cameras give it."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, (512, 512))
    y, x = np.mgrid[-1:1:512j, -1:1:512j]
    return {
        "white": 1000 + 20 * noise,
        "counts": rng.poisson(3, noise.shape),
        "rounded": np.round(10 + 0.6 * noise).astype(np.uint8),
        "blurred": 1000 + 200 * ndimage.gaussian_filter(noise, 1),
        "uneven light": (1000 + 20 * noise) * (1 + 0.2 * x - 0.15 * (x**2 + y**2)),
        "hot pixels": np.where(rng.random(noise.shape) < 1e-5, 65535, 1000 + 20 * noise),
    }[kind]


@pytest.mark.parametrize("threshold", ["local", "otsu"])
@pytest.mark.parametrize(
    "kind", ["white", "counts", "rounded", "blurred", "uneven light", "hot pixels"]
)
def test_a_field_of_nothing_holds_no_cells(kind: str, threshold: str):
    assert segment_cells(of_nothing(kind), SegmentationConfig(threshold=threshold)).max() == 0


def test_few_dim_cells_are_found_in_noise_all_the_same():
    image = of_nothing("white")
    y, x = np.mgrid[:512, :512]
    for centre in (100, 300):
        image[(y - centre) ** 2 + (x - 200) ** 2 <= 20**2] += 40
    found = segment_cells(image)
    assert found[100, 200] > 0
    assert found[300, 200] > 0


@pytest.mark.parametrize("value", [0, 65535])
def test_one_defect_of_the_camera_moves_no_outline(sample_fields: list[Field], value: int):
    image = sample_fields[0].read()[0].astype(np.uint16) * 16 + 5000
    defect = image.copy()
    defect[437, 326] = value
    found, expected = segment_cells(defect) > 0, segment_cells(image) > 0
    assert (found != expected).mean() < 0.001


@pytest.mark.parametrize(
    ("dtype", "offset"), [("uint32", 2**32 - 70_000), ("int64", 2**50), ("float64", 1e12)]
)
def test_cells_do_not_depend_on_what_all_pixels_have_in_common(dtype: str, offset: float):
    image = transfluor()[0].data[0, :128, :128]
    large = image.astype(dtype) + np.array(offset, dtype)
    cells = segment_cells(image)
    assert cells.max() > 0
    np.testing.assert_array_equal(segment_cells(large), cells)
    levels = measure_levels(large)
    np.testing.assert_array_equal(segment_cells(large, levels=levels), cells)
