from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given

from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.base import ChannelRule
from napari_microdl.tokens import TilePlan, check_wants
from tokens.stand_ins import JOINT, plans, shapes, spec


@given(plan=plans, shape=shapes)
def test_every_token_is_kept_from_exactly_one_tile(plan: TilePlan, shape: tuple[int, int]):
    rows, columns = plan.grid_shape(shape)
    assert (rows - 1) * plan.patch_size < shape[0] <= rows * plan.patch_size
    assert (columns - 1) * plan.patch_size < shape[1] <= columns * plan.patch_size
    hits = np.zeros((rows, columns), int)
    for i, j in plan.origins(shape):
        assert 0 <= i < rows
        assert 0 <= j < columns
        hits[i : i + plan.inner, j : j + plan.inner] += 1
    np.testing.assert_array_equal(hits, 1)


def test_plans_that_cut_nothing_are_refused():
    with pytest.raises(MicrodlError) as caught:
        TilePlan(8, 100, 0)
    assert str(caught.value) == "Tile size 100 px is not a multiple of the patch size 8 px."
    for size in (0, -8):
        with pytest.raises(MicrodlError, match="is not a multiple of the patch size"):
            TilePlan(8, size, 0)
    for halo in (-1, 2, 9):
        with pytest.raises(MicrodlError) as caught:
            TilePlan(8, 32, halo)
        assert str(caught.value) == (
            f"A halo of {halo} tokens leaves nothing of a tile of 4 tokens; "
            "take a smaller halo or a larger tile."
        )


@pytest.mark.parametrize(
    ("rule", "n_channels", "sentence"),
    [
        (
            JOINT,
            2,
            "The model 'Patch mean' takes 3 channels (red, green, blue), but 2 are chosen; choose "
            "more channels or another model.",
        ),
        (
            ChannelRule(most=11),
            12,
            "The model 'Patch mean' takes 1 to 11 channels, but 12 are chosen; choose fewer "
            "channels or another model.",
        ),
        (
            ChannelRule(names=("DNA", "ER"), least=2, most=2, subsets=True),
            1,
            "The model 'Patch mean' takes 2 channels (DNA, ER), but 1 is chosen; name those that "
            "are there, as in 'patch-mean[DNA]', or choose more.",
        ),
        (
            ChannelRule(names=("DNA", "ER"), least=2, most=2, subsets=True),
            3,
            "The model 'Patch mean' takes 2 channels (DNA, ER), but 3 are chosen; choose fewer "
            "channels or another model.",
        ),
        (
            ChannelRule(least=2),
            1,
            "The model 'Patch mean' takes at least 2 channels, but 1 is chosen; choose more "
            "channels or another model.",
        ),
        (
            ChannelRule(most=1),
            2,
            "The model 'Patch mean' takes 1 channel, but 2 are chosen; choose fewer channels or "
            "another model.",
        ),
    ],
)
def test_channels_that_a_model_does_not_take_give_one_sentence(
    rule: ChannelRule, n_channels: int, sentence: str
):
    with pytest.raises(MicrodlError) as caught:
        check_wants(spec(channels=rule), TilePlan(4, 16, 0), n_channels)
    assert str(caught.value) == sentence


def test_channels_that_a_model_takes_are_accepted():
    plan = TilePlan(4, 16, 0)
    check_wants(spec(channels=JOINT), plan, 3)
    for n_channels in (1, 11):
        check_wants(spec(channels=ChannelRule(most=11)), plan, n_channels)
        check_wants(spec(), plan, n_channels)


def test_tiles_that_a_model_does_not_take_give_one_sentence():
    fixed = spec(tile_size=16, fixed_tile=True)
    check_wants(fixed, TilePlan(4, 16, 1), 1)
    check_wants(spec(tile_size=16), TilePlan(4, 24, 1), 1)
    with pytest.raises(MicrodlError) as caught:
        check_wants(fixed, TilePlan(4, 24, 1), 1)
    assert str(caught.value) == (
        "The model 'Patch mean' takes tiles of 16 px only, not of 24 px; leave the tile size at 16."
    )
    with pytest.raises(MicrodlError, match="patches of 8 px but the model 'Patch mean' has"):
        check_wants(fixed, TilePlan(8, 16, 0), 1)
