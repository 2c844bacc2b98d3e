from __future__ import annotations

import re
from typing import Any

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.refusals import refusal
from napari_microdl.fields.field import Field, UnusableFieldsError
from napari_microdl.fields.intensity import ChannelLimits, IntensityScaling, linear_scale, log_scale
from tasks import cancelling, recorded

RNG = np.random.default_rng(5)


def field(data: np.ndarray, name: str = "f") -> Field:
    return Field(data=data, channel_names=tuple("abc"[: len(data)]), name=name)


def by_formula(image: np.ndarray, background: float, mean: float) -> np.ndarray:
    """The documented scale, pixel by pixel in float64."""
    scaled = np.empty(image.shape)
    for index, value in np.ndenumerate(image):
        above = max(float(value) - background, 0.0)
        scaled[index] = 0.3 * np.log(1 + 2 * above / (mean - background))
    return scaled


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int32, np.float32, np.float64])
def test_an_image_is_scaled_by_its_own_background_and_mean(kind: type):
    images = [(RNG.gamma(2, 20, (2, 17, 23)) * scale + 3).astype(kind) for scale in (0.5, 1, 2)]
    fields = [field(image, str(i)) for i, image in enumerate(images)]
    scaling = IntensityScaling(background=5).fit(fields)
    assert scaling.limits_.shape == (3, 2, 2)
    for i, image in enumerate(images):
        scaled = scaling.apply(i, image)
        assert scaled.dtype == np.float32
        for channel in range(2):
            plane = image[channel].astype(float)
            # Percentile by hand: linear between the order statistics.
            place = 0.05 * (plane.size - 1)
            ordered = np.sort(plane.ravel())
            low = ordered[int(place)] + (place % 1) * (
                ordered[int(place) + 1] - ordered[int(place)]
            )
            expected = by_formula(plane, low, plane.mean())
            np.testing.assert_allclose(scaled[channel], expected, atol=2e-6)


def test_the_background_is_zero_and_the_mean_a_third():
    scaled = log_scale(np.array([[10.0, 5.0, 20.0, 110.0]]), 10.0, 20.0)
    np.testing.assert_allclose(scaled, [[0, 0, 0.3 * np.log(3), 0.3 * np.log(21)]], rtol=1e-6)
    assert scaled[0, 2] == pytest.approx(1 / 3, abs=0.01)
    assert scaled[0, 3] == pytest.approx(0.9, abs=0.02)


def test_a_plate_keeps_differences_of_brightness_and_an_image_does_not():
    dim = RNG.gamma(2, 10, (1, 40, 40)) + 5
    bright = 3 * dim
    fields = [field(dim, "dim"), field(bright, "bright")]
    each = IntensityScaling("image").fit(fields)
    np.testing.assert_allclose(each.apply(0, dim), each.apply(1, bright), atol=1e-5)
    plate = IntensityScaling("plate").fit(fields)
    both = np.concatenate([dim.ravel(), bright.ravel()])
    np.testing.assert_allclose(
        plate.limits_, np.broadcast_to([np.percentile(both, 0.5), both.mean()], (2, 1, 2))
    )
    assert plate.apply(1, bright).mean() > 1.5 * plate.apply(0, dim).mean()


def test_only_the_channels_asked_for_are_measured_in_their_order():
    data = RNG.gamma(2, 10, (3, 20, 20)) * np.array([1, 10, 100])[:, None, None]
    data[1] = 7  # constant, but not asked for
    scaling = IntensityScaling().fit([field(data)], ("c", "a"))
    expected = [[np.percentile(data[c], 0.5), data[c].mean()] for c in (2, 0)]
    np.testing.assert_allclose(scaling.limits_[0], expected)


def test_a_lazy_image_gives_the_same_limits():
    data = RNG.gamma(2, 10, (2, 30, 31)).astype(np.float32)
    eager = IntensityScaling().fit([field(data)]).limits_
    lazy = IntensityScaling().fit([field(da.from_array(data, chunks=(1, 8, 8)))]).limits_
    np.testing.assert_array_equal(eager, lazy)


@pytest.mark.parametrize("rows", [1, 13, 64, 400])
def test_however_many_rows_are_read_at_once_the_limits_stay(
    rows: int, monkeypatch: pytest.MonkeyPatch
):
    data = RNG.integers(0, 60000, (1, 2100, 1910), np.uint16)
    monkeypatch.setattr("napari_microdl.fields.field.STRIP_BYTES", rows * 1910 * 2)
    background, mean = IntensityScaling().fit([field(data)]).limits_[0, 0]
    # Every second pixel: 2100 times 1910 is four million, of which one tells enough.
    assert background == np.percentile(data[0, ::2, ::2], 0.5)
    assert mean == data[0, ::2, ::2].astype(float).mean()


def test_a_large_image_is_sampled_and_the_limits_stay():
    data = RNG.gamma(2, 10, (1, 2100, 2100)).astype(np.float32)
    background, mean = IntensityScaling().fit([field(data)]).limits_[0, 0]
    assert background == pytest.approx(np.percentile(data, 0.5), rel=0.05)
    assert mean == pytest.approx(data.mean(dtype=float), rel=0.01)


def test_a_few_dark_pixels_in_a_flat_image_become_the_background():
    data = np.full((1, 100, 100), 200, np.uint8)
    data[0, 0, :3] = 0
    scaled = IntensityScaling().fit([field(data)]).apply(0, data)
    assert np.isfinite(scaled).all()
    np.testing.assert_array_equal(scaled[0, 0, :3], 0)
    assert scaled[0, 1:].min() > 0.3


@given(
    value=st.floats(1e-6, 1e6),
    edge=st.sampled_from([3, 50, 128, 200]),
    kind=st.sampled_from([np.float32, np.float64]),
)
def test_a_constant_image_of_any_value_is_refused(value: float, edge: int, kind: type):
    data = np.full((1, edge, edge), value, kind)
    told = refusal(IntensityScaling().fit, [field(data)])
    assert re.match(r"Channel 'a' of field 'f' is constant \(.* everywhere", told)


def test_a_constant_plate_names_the_channel_and_all_fields():
    data = np.stack([RNG.random((9, 9)), np.full((9, 9), 4.0)])
    assert refusal(IntensityScaling("plate").fit, [field(data), field(data, "g")]) == (
        "Channel 'b' of all fields is constant (4 everywhere), so it shows nothing; "
        "leave it out or check the file."
    )


def test_one_constant_field_on_a_plate_with_signal_is_no_error():
    empty, full = np.zeros((1, 9, 9)), RNG.random((1, 9, 9))
    plate = IntensityScaling("plate").fit([field(empty), field(full, "g")])
    assert plate.apply(0, empty).max() == 0


@pytest.mark.parametrize("curve", ["log", "linear"])
@pytest.mark.parametrize(
    ("dtype", "offset"),
    [("uint32", 2**32 - 101), ("int32", 2**31 - 101), ("int32", -(2**31)), ("float64", 1e12)],
)
def test_a_small_difference_of_large_numbers_is_kept(dtype: str, offset: float, curve: Any):
    little = RNG.integers(0, 100, (1, 20, 20))
    large = (little.astype(np.float64) + offset).astype(dtype)
    scaled = [
        IntensityScaling(curve=curve).fit([field(data)]).apply(0, data)
        for data in (little.astype(np.uint16), large)
    ]
    np.testing.assert_allclose(scaled[1], scaled[0], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.float64])
def test_numbers_that_cannot_be_told_apart_are_no_constant_channel(dtype: Any):
    data = RNG.integers(0, 100, (1, 9, 9)).astype(dtype) + np.array(2**60, dtype)
    sentence = refusal(IntensityScaling().fit, [field(data)])
    assert sentence.startswith("Channel 'a' of field 'f' holds values beyond 9e+15")


def test_all_fields_that_cannot_be_used_are_told_at_once():
    good, flat = RNG.random((1, 9, 9)), np.ones((1, 9, 9))
    with pytest.raises(UnusableFieldsError, match=r"Channel 'a' of field 'g'.* 1 more") as caught:
        IntensityScaling().fit([field(good), field(flat, "g"), field(good), field(flat * 2, "h")])
    assert list(caught.value.reasons) == [1, 3]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_field_with_nan_or_infinity_is_named(bad: float):
    good, broken = RNG.random((2, 9, 9)), RNG.random((2, 9, 9))
    broken[1, 4, 4] = bad
    scaling = IntensityScaling()
    assert refusal(scaling.fit, [field(good, "good"), field(broken, "broken")]) == (
        "Channel 'b' of field 'broken' holds NaN or infinite values; replace them before running."
    )
    assert not hasattr(scaling, "limits_")


@pytest.mark.parametrize("mode", ["image", "plate"])
def test_measuring_can_be_stopped_in_every_field_and_channel(mode: str):
    fields = [field(RNG.random((2, 9, 9)), str(n)) for n in range(3)]
    scaling = IntensityScaling(mode).fit(fields)
    before = scaling.limits_.copy()
    brighter = [field(f.read() * 2 + 1, f.name) for f in fields]
    # One look for every field, and one for each of its channels.
    for looks in range(9):
        with cancelling(looks):
            scaling.fit(brighter)
        np.testing.assert_array_equal(scaling.limits_, before)
    with recorded() as reports:
        scaling.fit(brighter)
    np.testing.assert_allclose(scaling.limits_, before * 2 + 1)
    assert [(p.done, p.total, p.message) for p in reports] == [
        (n, 3, f"Measuring intensities in {n}") for n in range(3)
    ]


def test_a_refused_fit_leaves_the_earlier_limits():
    data = RNG.random((1, 9, 9))
    scaling = IntensityScaling().fit([field(data)])
    before = scaling.limits_.copy()
    refusal(scaling.fit, [field(np.ones((1, 9, 9)))])
    np.testing.assert_array_equal(scaling.limits_, before)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float64])
def test_a_linear_image_goes_from_its_background_to_its_high_percentile(kind: type):
    image = RNG.gamma(2, 15, (2, 60, 50)).astype(kind)
    scaling = IntensityScaling(background=5, curve="linear", top=90).fit([field(image)])
    scaled = scaling.apply(0, image)
    assert scaled.dtype == np.float32
    for plane, made in zip(image.astype(float), scaled, strict=True):
        low, high = np.percentile(plane, [5, 90])
        expected = np.clip((plane - low) / (high - low), 0, 1)
        np.testing.assert_allclose(made, expected, atol=2e-6)
    assert (scaled.min(), scaled.max()) == (0, 1)
    np.testing.assert_allclose(linear_scale(np.array([3.0, 5, 9, 20]), 5, 9), [0, 0, 1, 1])


def test_a_linear_plate_has_one_scale():
    dim = RNG.gamma(2, 10, (1, 40, 40))
    plate = IntensityScaling("plate", curve="linear").fit([field(dim), field(5 * dim, "g")])
    both = np.concatenate([dim.ravel(), 5 * dim.ravel()])
    np.testing.assert_allclose(plate.limits_[1, 0], np.percentile(both, [0.5, 99.9]))
    assert plate.apply(0, dim).mean() < 0.3 * plate.apply(1, 5 * dim).mean()


@pytest.mark.parametrize(
    ("curve", "edge", "bright"),
    [
        # Fewer than the high percentile leaves out.
        ("log", 200, slice(0, 4)),
        ("linear", 200, slice(0, 4)),
        # All over the image, which is not taken for a constant one.
        ("log", 100, slice(0, None, 1000)),
    ],
)
def test_a_few_bright_pixels_in_a_flat_image_are_seen(curve: str, edge: int, bright: slice):
    data = np.full((1, edge, edge), 20, np.uint8)
    data.ravel()[bright] = 220
    scaled = IntensityScaling(curve=curve).fit([field(data)]).apply(0, data).ravel()
    assert np.isfinite(scaled).all()
    assert scaled[bright].min() > 0.5
    assert np.delete(scaled, bright).max() == 0


def test_what_was_measured_is_told_by_field_and_channel():
    fields = [field(RNG.gamma(2, 10, (3, 20, 20)), name) for name in ("one", "two")]
    scaling = IntensityScaling().fit(fields, ("c", "a"))
    assert scaling.describe() == [
        ChannelLimits(f.name, name, *scaling.limits_[i, j])
        for i, f in enumerate(fields)
        for j, name in enumerate(("c", "a"))
    ]
    low, mean = scaling.describe()[1].background, scaling.describe()[1].reference
    assert low == pytest.approx(np.percentile(fields[0].data[0], 0.5))
    assert mean == pytest.approx(fields[0].data[0].mean())


@pytest.mark.parametrize(
    ("choice", "reason"),
    [
        ({"curve": "gamma"}, "Intensity scale 'gamma' is not known; use 'log' or"),
        ({"mode": "tile"}, "Scaling mode 'tile' is not known; use 'image' or"),
        *(({"top": top}, "is not between 50 and 100 percent") for top in (50, 101, np.nan)),
        *(({"background": low}, "is not between 0 and 50 percent") for low in (-1, 50, np.nan)),
    ],
    ids=str,
)
def test_choices_that_do_not_exist_are_refused(choice: dict, reason: str):
    assert reason in refusal(IntensityScaling, **choice)


@pytest.mark.parametrize("mode", ["image", "plate"])
def test_no_fields_give_one_sentence(mode: str):
    assert "no fields" in refusal(IntensityScaling(mode).fit, [])
