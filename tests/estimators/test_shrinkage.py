from __future__ import annotations

import numpy as np
import pytest

from napari_microdl.estimators.shrinkage import choose_shrinkage, left_out_excess
from napari_microdl.estimators.whitening import ControlWhitening
from tasks import cancelling

CANDIDATES = (0.1, 1.0, 30.0)


def gaussian(n: int, d: int, fields: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Controls with a falling spectrum, the same in every field."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(d, d)))[0]
    x = rng.normal(size=(n, d)) * np.linspace(1, 20, d) @ rotation + 50
    return x.astype(np.float32), np.arange(n) % fields


def reference_excess(x: np.ndarray, groups: np.ndarray, shrinkage: float) -> float:
    """Squared lengths after the package's own whitening, one left-out field at a time."""
    ratios = []
    for name in sorted(set(groups.tolist())):
        fitted, left_out = x[groups != name].astype(float), x[groups == name].astype(float)
        whitening = ControlWhitening(shrinkage=shrinkage, unit_norm=False).fit(fitted)
        inside = (whitening.transform(fitted) ** 2).sum(1).mean()
        ratios.append((whitening.transform(left_out) ** 2).sum(1).mean() / inside)
    return float(np.mean(ratios))


def test_the_excess_is_that_of_the_whitening():
    x, groups = gaussian(300, 12, 4)
    excess = left_out_excess(x, groups, CANDIDATES)
    expected = [reference_excess(x, groups, s) for s in CANDIDATES]
    np.testing.assert_allclose(excess, expected, rtol=1e-5)


def test_more_shrinkage_never_makes_left_out_controls_longer():
    x, groups = gaussian(120, 60, 4)
    excess = left_out_excess(x, groups, (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0))
    assert (np.diff(excess) < 0.01).all()
    assert excess[0] > 1.5
    assert excess[-1] < 1.25


def test_many_controls_need_the_least():
    assert choose_shrinkage(*gaussian(5000, 16, 5)) == 0.1


def test_few_controls_need_more():
    few = choose_shrinkage(*gaussian(70, 48, 5))
    fewer = choose_shrinkage(*gaussian(40, 48, 5))
    assert 0.1 < few <= fewer <= 300


def test_fields_that_differ_need_more_than_fields_that_do_not():
    x, groups = gaussian(3000, 16, 4)
    shifts = np.random.default_rng(1).normal(0, 10, (4, 16))
    assert choose_shrinkage(x + shifts[groups], groups) > choose_shrinkage(x, groups)


def test_a_single_field_is_split():
    x, _ = gaussian(5000, 16, 1)
    one = np.zeros(len(x), int)
    assert choose_shrinkage(x, one) == 0.1
    fifths = np.repeat(np.arange(5), 1000)
    np.testing.assert_allclose(
        left_out_excess(x, one, CANDIDATES), left_out_excess(x, fifths, CANDIDATES)
    )


def test_fields_may_be_named_in_any_way():
    x, groups = gaussian(400, 8, 4)
    names = np.array(["O11", "O12", "O14", "O16"])[groups]
    assert choose_shrinkage(x, names) == choose_shrinkage(x, groups)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_next_to_no_controls_take_the_most(n):
    x, groups = gaussian(max(n, 1), 8, 2)
    assert choose_shrinkage(x[:n], groups[:n]) == 300


def test_equal_controls_take_the_most():
    assert choose_shrinkage(np.ones((20, 4)), np.arange(20) % 2) == 300


def test_the_input_is_left_as_it_is():
    x, groups = gaussian(100, 8, 2)
    before = x.copy()
    choose_shrinkage(x, groups)
    np.testing.assert_array_equal(x, before)


def test_it_can_be_cancelled_several_times_a_field():
    x, groups = gaussian(100, 8, 2)
    for looks in range(6):
        with cancelling(looks):
            choose_shrinkage(x, groups)
