"""Colours of plots and overlays, as they are seen by people who see fewer colours.

Colour vision without one of the three kinds of cones is simulated by the matrices of Machado,
Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency",
IEEE Transactions on Visualization and Computer Graphics 15, 1291 (2009), table 1 at severity 1.0,
in linear RGB.
"""

from __future__ import annotations

from itertools import combinations, pairwise
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from skimage.color import deltaE_ciede2000, rgb2lab

from napari_microdl.gui.explorer.picture_list import LINE_COLOURS
from napari_microdl.gui.overlays.overlays import CYAN, SEQUENTIAL, diverging
from napari_microdl.gui.widgets.curves import _CURVE, _SHRINKAGE
from napari_microdl.report.figures import _OUTLINES, CONDITION_COLOURS, CONTROL_COLOUR

VISIONS = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deuteranopia": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
    "tritanopia": np.array(
        [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ]
    ),
}
# CIEDE2000. About 2 is just seen side by side; ten times a step of 1 is seen at a glance.
APART = 10
# What two poles, or a line and what it lies on, have to be apart at least.
FAR_APART = 15

# All of it is seen.
DIVERGING = diverging(0)


def seen(colours: Any, vision: str) -> np.ndarray:
    """CIE Lab of sRGB colours, shape (n, 3), by one kind of colour vision."""
    srgb = np.asarray(colours, float)[:, :3]
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ VISIONS[vision].T, 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(srgb[None])[0]


def distance(one: Any, other: Any, vision: str) -> float:
    """CIEDE2000 between two colours."""
    lab = seen([to_rgb(one), to_rgb(other)], vision)
    return float(deltaE_ciede2000(lab[0], lab[1]))


def over_black(colours: np.ndarray) -> np.ndarray:
    """Colours with opacity over the dark background of a fluorescence image."""
    return colours[:, :3] * colours[:, 3:]


def test_the_simulation_leaves_greys_alone_and_makes_red_and_green_alike():
    greys = np.repeat(np.linspace(0, 1, 5)[:, None], 3, axis=1)
    for vision in VISIONS:
        np.testing.assert_allclose(seen(greys, vision), seen(greys, "usual"), atol=0.05)
    # A red and a green of one lightness, which everybody else tells apart.
    red, green = (0.80, 0.28, 0.20), (0.33, 0.52, 0.10)
    assert distance(red, green, "usual") > 40
    assert distance(red, green, "deuteranopia") < APART
    assert distance((0.0, 0.45, 0.45), (0.0, 0.42, 0.75), "tritanopia") < APART


@pytest.mark.parametrize("vision", VISIONS)
def test_conditions_and_controls_are_told_apart(vision):
    colours = (CONTROL_COLOUR, *CONDITION_COLOURS)
    for one, other in combinations(colours, 2):
        assert distance(one, other, vision) > APART, (one, other)
    # What comes first is what a plate of few treatments shows.
    for one, other in pairwise(colours[:4]):
        assert distance(one, other, vision) > APART + 2, (one, other)


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (LINE_COLOURS[1], LINE_COLOURS[-1]),
        _OUTLINES,
        (CONDITION_COLOURS[3], CONDITION_COLOURS[5]),
        (CONDITION_COLOURS[0], CONDITION_COLOURS[5]),
        (_CURVE, _SHRINKAGE),
        (DIVERGING.map(0.0)[0, :3], DIVERGING.map(1.0)[0, :3]),
        (CYAN[:3], "white"),
        (CYAN[:3], "black"),
        (CYAN[:3], DIVERGING.map(1.0)[0, :3]),
        (CYAN[:3], DIVERGING.map(0.0)[0, :3]),
        (matplotlib.colormaps["PuOr_r"](0.1)[:3], matplotlib.colormaps["PuOr_r"](0.9)[:3]),
    ],
)
def test_two_poles_are_far_apart(one, other, vision):
    assert distance(one, other, vision) > FAR_APART


@pytest.mark.parametrize("vision", VISIONS)
def test_more_activation_is_lighter(vision):
    places = np.linspace(0, 1, 101)
    for colours in (
        SEQUENTIAL.map(places),
        over_black(SEQUENTIAL.map(places)),
        matplotlib.colormaps["magma"](places),
    ):
        lightness = seen(colours, vision)[:, 0]
        assert np.diff(lightness).min() > 0
        assert np.ptp(lightness) > 60


@pytest.mark.parametrize("vision", VISIONS)
def test_halves_of_the_heatmap_go_one_way_from_zero(vision):
    places = np.linspace(0, 1, 101)
    middle = len(places) // 2
    for colours, towards_zero in (
        (DIVERGING.map(places), 1),
        # Transparent at zero, where the image is seen.
        (over_black(DIVERGING.map(places)), -1),
        (matplotlib.colormaps["PuOr_r"](places), 1),
    ):
        lightness = towards_zero * seen(colours, vision)[:, 0]
        # No step against the way that anybody could see.
        assert np.diff(lightness[: middle + 1]).min() > -0.1
        assert np.diff(lightness[middle:]).max() < 0.1
        assert lightness[middle] - max(lightness[0], lightness[-1]) > 30
