from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.refusals import refusal
from napari_microdl.tokens import TokenGrid
from napari_microdl.tokens.positions import PositionComponent, left_out_share, position_share

PLACES, WIDTH = 9, 5


def grids(
    rng: np.random.Generator,
    component: np.ndarray | float = 0.0,
    shapes: tuple[tuple[int, int], ...] = ((12, 9), (7, 6)),
    noise: float = 1.0,
) -> list[TokenGrid]:
    """Random tokens on tiles of three by three, with a component planted at each place."""
    made = []
    for shape in shapes:
        i, j = np.indices(shape)
        position = (i % 3 * 3 + j % 3).astype(np.int32)
        tokens = rng.normal(0, noise, (*shape, WIDTH)) + 3
        tokens += np.broadcast_to(component, (PLACES, WIDTH))[position]
        made.append(TokenGrid(tokens.astype(np.float32), position, 4, (shape[0] * 4, shape[1] * 4)))
    return made


def analysis_of_variance(some: list[TokenGrid]) -> float:
    """Adjusted share between the places, token by token."""
    tokens = [
        (int(grid.position[place]), grid.tokens[place].astype(float))
        for grid in some
        for place in np.ndindex(grid.position.shape)
    ]
    grand = np.mean([t for _, t in tokens], axis=0)
    groups: dict[int, list[np.ndarray]] = {}
    for place, token in tokens:
        groups.setdefault(place, []).append(token)
    within = sum(((t - np.mean(groups[p], axis=0)) ** 2).sum() for p, t in tokens)
    total = sum(((t - grand) ** 2).sum() for _, t in tokens)
    n, k = len(tokens), len(groups)
    return max(0.0, 1 - (within / (n - k)) / (total / (n - 1)))


@settings(max_examples=30)
@given(seed=st.integers(0, 2**16), strength=st.floats(0, 5))
def test_the_share_equals_an_analysis_of_variance(seed: int, strength: float):
    rng = np.random.default_rng(seed)
    some = grids(rng, strength * rng.normal(size=(PLACES, WIDTH)))
    assert position_share(some) == pytest.approx(analysis_of_variance(some), abs=1e-6)
    assert position_share(g for g in some) == position_share(some)


def test_the_share_is_none_without_a_component_and_all_without_noise():
    rng = np.random.default_rng(0)
    shapes = ((60, 60),)
    assert position_share(grids(rng, shapes=shapes)) < 0.01
    component = rng.normal(size=(PLACES, WIDTH))
    assert position_share(grids(rng, component, shapes, noise=1e-4)) > 0.999
    # Noise of the strength of the component: half.
    component *= 1 / component.std(axis=0)
    assert position_share(grids(rng, component, shapes)) == pytest.approx(0.5, abs=0.05)


def test_grids_in_which_nothing_can_be_told_have_no_share():
    rng = np.random.default_rng(0)
    once = grids(rng, shapes=((3, 3),))
    assert position_share(once) == 0
    (constant,) = grids(rng, shapes=((6, 6),))
    constant.tokens[:] = 2
    assert position_share([constant]) == 0


def test_a_planted_component_is_found():
    rng = np.random.default_rng(1)
    component = rng.normal(size=(PLACES, WIDTH))
    component -= component.mean(0)
    shapes = ((90, 90), (60, 60))
    found = PositionComponent.fit(grids(rng, component, shapes), PLACES)
    assert found.offsets.dtype == np.float32
    np.testing.assert_allclose(found.offsets, component, atol=0.15)


def test_removal_leaves_no_share_and_the_rest_of_the_tokens_as_it_was():
    rng = np.random.default_rng(2)
    some = grids(rng, 4 * rng.normal(size=(PLACES, WIDTH)))
    before = [g.tokens.copy() for g in some]
    assert position_share(some) > 0.8
    component = PositionComponent.fit(some, PLACES)
    removed = [component.remove(g) for g in some]
    assert position_share(removed) == 0
    (direction,) = component.basis
    assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-6)
    for grid, old, new in zip(some, before, removed, strict=True):
        np.testing.assert_array_equal(grid.tokens, old)
        assert not np.shares_memory(grid.tokens, new.tokens)
        assert new.tokens.dtype == np.float32
        np.testing.assert_array_equal(new.position, grid.position)
        assert (new.patch_size, new.image_shape) == (grid.patch_size, grid.image_shape)
    tokens, left = (
        np.concatenate([g.tokens.reshape(-1, WIDTH) for g in part]) for part in (some, removed)
    )
    np.testing.assert_allclose(left @ direction, 0, atol=1e-4)
    # Off the removed direction, every place now has the mean that all tokens had.
    off = np.eye(WIDTH) - np.outer(direction, direction)
    for place in range(PLACES):
        at_place = np.concatenate([g.tokens[g.position == place] for g in removed])
        np.testing.assert_allclose(at_place.mean(0), tokens.mean(0) @ off, atol=1e-4)


def test_a_component_that_is_stronger_in_some_images_leaves_none_of_it():
    """The mean alone leaves half of it in one image and takes too much from the other."""
    rng = np.random.default_rng(6)
    pattern = np.outer(rng.normal(size=PLACES), [0, 0, 3, 4, 0])
    weak, strong = grids(rng, 0.5 * pattern, ((90, 90),)), grids(rng, 1.5 * pattern, ((90, 90),))
    component = PositionComponent.fit(weak + strong, PLACES)
    alone = PositionComponent(component.offsets, component.basis[:0])
    for some in (weak, strong):
        assert position_share([alone.remove(g) for g in some]) > 0.05
        assert position_share([component.remove(g) for g in some]) < 0.005


def test_the_directions_cover_the_asked_share():
    rng = np.random.default_rng(7)
    width = 40
    first, second = np.eye(width)[:2]
    # Two orthogonal patterns with 90 and 10 per cent of the variance of the means.
    patterns = np.linalg.qr(rng.normal(size=(PLACES, 2)) - 0.0)[0]
    patterns -= patterns.mean(0)
    means = 3 * np.outer(patterns[:, 0], first) + np.outer(patterns[:, 1], second)
    i, j = np.indices((30, 30))
    position = (i % 3 * 3 + j % 3).astype(np.int32)
    grid = TokenGrid(means[position].astype(np.float32), position, 4, (120, 120))
    assert len(PositionComponent.fit([grid], PLACES, explained=0.5).basis) == 1
    assert len(PositionComponent.fit([grid], PLACES, explained=0.99).basis) == 2
    nothing = TokenGrid(np.ones((30, 30, width), np.float32), position, 4, (120, 120))
    assert PositionComponent.fit([nothing], PLACES).basis.shape == (0, width)


def test_what_is_left_is_measured_on_fields_left_out():
    rng = np.random.default_rng(8)
    pattern = rng.normal(size=(PLACES, WIDTH))
    same = grids(rng, pattern, ((60, 60),) * 4)
    assert left_out_share(same, PLACES) < 0.01
    other = grids(rng, rng.normal(size=(PLACES, WIDTH)), ((60, 60),))
    assert left_out_share([same[0], other[0]], PLACES) > 0.1
    assert left_out_share(same[:1], PLACES) == 0


def test_what_was_learned_on_controls_is_removed_from_others():
    rng = np.random.default_rng(3)
    component = rng.normal(size=(PLACES, WIDTH))
    control = grids(rng, component, ((90, 90),))
    treated = grids(rng, component + 7, ((30, 30),))
    removed = [PositionComponent.fit(control, PLACES).remove(g) for g in treated]
    assert position_share(treated) > 0.3
    assert position_share(removed) < 0.01


def test_places_never_seen_are_left_alone():
    rng = np.random.default_rng(4)
    some = grids(rng)
    for grid in some:
        grid.position[grid.position == 5] = 4
    component = PositionComponent.fit(iter(some), PLACES + 3)
    assert component.offsets.shape == (PLACES + 3, WIDTH)
    np.testing.assert_array_equal(component.offsets[[5, 9, 10, 11]], 0)
    (fresh,) = grids(rng, shapes=((3, 3),))
    token = fresh.tokens[1, 2]
    (direction,) = component.basis
    expected = token - (token @ direction) * direction
    np.testing.assert_allclose(component.remove(fresh).tokens[1, 2], expected, atol=1e-5)


def test_a_tile_grid_with_more_places_is_refused():
    rng = np.random.default_rng(5)
    component = PositionComponent(
        np.zeros((PLACES - 1, WIDTH), np.float32), np.zeros((0, WIDTH), np.float32)
    )
    assert refusal(component.remove, grids(rng)[0]) == (
        "The tile grid has more places than the 8 that the position means were fitted for; "
        "use the tile size of the dictionary."
    )


def test_nothing_to_learn_from_is_refused():
    told = refusal(PositionComponent.fit, [], PLACES)
    assert told.startswith("There are no tokens to learn the position component")
