"""Whether the backgrounds of conditions differ: planted in fields, and against all arrangements."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from napari_microdl.metrics.background import CONTROL, LABEL, BackgroundTest

D = 12


def measured(
    far: np.ndarray,
    treated: list[bool],
    *,
    shares: float | list[float] = 0.3,
    covers: list[float] | np.ndarray | None = None,
    wells: list[str] | None = None,
    plates: list[str] | None = None,
    conditions: list[str] | None = None,
) -> BackgroundTest:
    n = len(far)
    return BackgroundTest.of(
        far.astype(np.float32),
        np.full(n, shares) if isinstance(shares, float) else np.array(shares),
        np.full(n, 0.4) if covers is None else np.array(covers),
        np.array(conditions or ["drug" if one else "DMSO" for one in treated]),
        ~np.array(treated),
        np.array(wells or [f"W{number}" for number in range(n)]),
        np.array(plates or [""] * n),
    )


EIGHT = [False] * 4 + [True] * 4


def drawn(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, D))


def test_a_background_that_differs_is_taken_off_and_one_that_does_not_stays():
    far = drawn(8)
    same = measured(far, EIGHT).decide()
    assert not same.taken_off
    assert same.p_value > 0.05
    assert same.sentence.startswith("The background does not differ between conditions beyond")
    far[4:] += 2
    apart = measured(far, EIGHT).decide()
    assert apart.taken_off
    # Of four against four wells 35 splits, of which this one is the best.
    assert apart.p_value == pytest.approx(1 / 35, abs=0.015)
    assert apart.sentence.startswith("The background differs between conditions (p = 0.0")
    assert "8 wells" in apart.sentence


@pytest.mark.parametrize("seed", range(3))
def test_p_is_the_share_of_splits_that_are_as_far_apart(seed: int):
    far = drawn(8, seed)
    found = measured(far, EIGHT).decide()
    scaled = (far - far.mean(0)) / far.std(0)

    def apart(inside: tuple[int, ...]) -> float:
        other = np.setdiff1d(np.arange(8), inside)
        return sum(len(s) * np.square(scaled[list(s)].mean(0)).sum() for s in (inside, other))

    ways = [apart(way) for way in combinations(range(8), 4)]
    expected = np.mean(np.array(ways) >= apart((4, 5, 6, 7)) - 1e-9)
    assert found.p_value == pytest.approx(expected, abs=0.05)


def test_splits_without_any_difference_are_rarely_taken_for_one():
    taken = [measured(drawn(10, seed), [False] * 5 + [True] * 5).decide() for seed in range(60)]
    # 5 % are expected; of 60 more than 8 would come about in one of a hundred tries.
    assert sum(one.taken_off for one in taken) <= 8


def test_fields_of_a_well_count_once():
    # Four wells of three fields: what is of a well would look like evidence of twelve.
    far = np.repeat(drawn(4), 3, axis=0) + 0.01 * drawn(12, 1)
    wells = [f"W{number // 3}" for number in range(12)]
    treated = [number >= 6 for number in range(12)]
    found = measured(far, treated, wells=wells).decide()
    assert not found.taken_off
    assert found.p_value is None
    assert found.sentence.startswith("4 wells are too few to show")
    # Without wells fields are what was repeated, and are called so.
    far[6:] += 3
    assert "12 fields" in measured(far, treated, wells=[""] * 12).decide().sentence


@pytest.mark.parametrize(
    ("treated", "conditions"),
    [
        ([False, True, True], ["DMSO", "a", "b"]),
        ([False] * 8, ["DMSO"] * 8),
        ([False] * 3 + [True] * 2, None),
    ],
    ids=["one field a condition", "controls alone", "few"],
)
def test_too_few_wells_leave_it_in(treated, conditions):
    far = drawn(len(treated))
    far[np.array(treated)] += 9
    found = measured(far, treated, conditions=conditions).decide()
    assert not found.taken_off
    assert "too few to show" in found.sentence


def test_without_room_between_cells_it_is_left_in():
    far = drawn(8)
    far[4:] += 3
    shares = [0.02, 0.05, 0.0, 0.3, 0.01, 0.2, 0.04, 0.03]
    far[2] = np.nan
    found = measured(far, EIGHT, shares=shares).decide()
    assert not found.taken_off
    assert "hardly any background away from cells (2 of 8 fields have enough)" in found.sentence
    # A field without a cell is not asked.
    few = [0.3] * 7 + [np.nan]
    far[2], far[7] = 0, np.nan
    assert measured(far, EIGHT, shares=few).decide().sentence.count("7 wells") == 1
    nowhere = measured(np.full((3, D), np.nan), [False, True, True], shares=[np.nan] * 3).decide()
    assert "(0 of 0 fields" in nowhere.sentence


def test_plates_that_differ_are_no_difference_of_conditions():
    plates = ["P1"] * 8 + ["P2"] * 8
    treated = [number % 2 == 1 for number in range(16)]
    far = drawn(16)
    far[8:] += 30
    assert not measured(far, treated, plates=plates).decide().taken_off
    far[1::2] += 2
    assert measured(far, treated, plates=plates).decide().p_value < 0.01


def test_what_goes_with_how_much_cells_cover_is_no_difference_of_conditions():
    covers = np.random.default_rng(1).uniform(0.2, 0.3, 8) + 0.2 * np.array(EIGHT)
    far = 0.1 * drawn(8) + 20 * np.outer(covers, np.linspace(-1, 1, D))
    assert measured(far, EIGHT).decide().taken_off
    assert not measured(far, EIGHT, covers=covers).decide().taken_off
    far[4:, :6] += 9
    alike = np.random.default_rng(2).uniform(0.2, 0.3, 8)
    assert measured(far - 20 * np.outer(covers, np.linspace(-1, 1, D)), EIGHT, covers=alike).decide(
    ).taken_off  # fmt: skip


def test_one_of_several_conditions_is_enough():
    conditions = ["DMSO"] * 4 + ["a"] * 3 + ["b"] * 3 + ["c"] * 3
    treated = [condition != "DMSO" for condition in conditions]
    far = drawn(13)
    far[7:10] += 4
    assert measured(far, treated, conditions=conditions).decide().taken_off


def test_wells_that_swap_conditions_are_decided_for_by_the_same_rule():
    far = drawn(8, 3)
    far[[0, 1, 4, 5]] += 3
    found = measured(far, EIGHT)
    assert not found.decide().taken_off
    swapped = np.where(np.isin(np.arange(8), [0, 1, 4, 5]), LABEL, CONTROL)
    assert found.decide(swapped).taken_off
    own = np.where(EIGHT, LABEL, CONTROL)
    assert found.decide(own).p_value == found.decide().p_value
