from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from napari_microdl.core.config import PipelineConfig
from napari_microdl.models.families.builtin import random_init
from napari_microdl.models.registry import model_spec
from napari_microdl.pipeline import estimate

CONFIG = PipelineConfig.of(model="random-init")


@pytest.mark.parametrize(("layer", "tile_size"), [(None, None), (3, None), (8, 64)])
def test_operations_are_those_that_torch_counts(layer, tile_size):
    model = random_init("cpu")
    config = CONFIG.with_settings(layer=layer, tile_size=tile_size)
    edge = tile_size or model.spec.tile_size
    tiles = np.random.default_rng(0).random((2, 1, edge, edge), np.float32)
    # Of the fused attention nothing is counted.
    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        model.tokens(tiles, layer or model.spec.layer_for("spread"), "residual")
    counted = counter.get_total_flops()
    # Patches become tokens by a product that is left out, and the class token is one more.
    assert estimate.operations(2, 1, model.spec, config) == pytest.approx(counted, rel=0.05)


def test_channels_that_go_in_together_are_one_pass():
    apart, together = (model_spec("dinov2-small", joint=joint) for joint in (False, True))
    one = estimate.estimate_seconds(10, 3, together, CONFIG, rate=1e9)
    assert estimate.estimate_seconds(10, 3, apart, CONFIG, rate=1e9) == pytest.approx(3 * one)
    assert estimate.estimate_seconds(20, 3, together, CONFIG, rate=1e9) == pytest.approx(2 * one)
    # 256 tokens of 384 numbers through 8 layers, ten times.
    assert one == pytest.approx(10 * 8 * 256 * (24 * 384**2 + 4 * 256 * 384) / 0.75e9)


def test_the_rate_is_measured_once():
    assert 1e8 < estimate.processor_rate() < 1e15
    assert estimate.processor_rate() is estimate.processor_rate()
