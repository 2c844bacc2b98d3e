"""OpenPhenom and the paper's larger masked autoencoders (Kraus et al. 2024).

OpenPhenom's code divides bytes by 255 and then norms every channel of an image by itself (instance
norm, eps 1e-5). Tiles come scaled to 0 to 1 here, which is the same as bytes divided by 255.
"""

from __future__ import annotations

from napari_microdl.models.base import ChannelRule
from napari_microdl.models.recipe import Recipe, describe
from napari_microdl.models.vit.config import Preprocessing, VitConfig
from napari_microdl.models.weights.hub import HubSource
from napari_microdl.models.weights.keys import PARALLEL

SELF_STANDARDISED = Preprocessing(tile_norm="instance", eps=1e-5)
EDGE = 256


def _config(
    dim: int, depth: int, n_heads: int, patch_size: int, hidden_dim: int, in_channels: int
) -> VitConfig:
    return VitConfig(
        dim=dim,
        depth=depth,
        n_heads=n_heads,
        patch_size=patch_size,
        hidden_dim=hidden_dim,
        in_channels=in_channels,
        blocks="parallel",
        layer_scale=True,
        positions="learned",
        position_grid=(EDGE // patch_size, EDGE // patch_size),
        position_resize=False,
        tokenizer="joint" if in_channels > 1 else "per_channel",
    )


OPENPHENOM = Recipe(
    spec=describe(
        (config := _config(384, 12, 6, 16, 1536, 1)),
        model_id="openphenom",
        title="OpenPhenom CA-MAE ViT-S/16",
        tile_size=EDGE,
        licence="Recursion's non-commercial licence, see its model card",
        source="Recursion, huggingface.co/recursionpharma/OpenPhenom",
        non_commercial=True,
        channels=ChannelRule(least=1, most=11),
        fixed_tile=True,
    ),
    config=config,
    keys=PARALLEL,
    preprocessing=SELF_STANDARDISED,
    hub=HubSource("recursionpharma/OpenPhenom", "0f92333685f6e9f031b804c70fe246f9b05ae90d"),
    model_type="MAE",
)


def _private(model_id: str, size: str, config: VitConfig, layer: int) -> Recipe:
    return Recipe(
        spec=describe(
            config,
            model_id=model_id,
            title=f"MAE ViT-{size}/8, six channels",
            tile_size=EDGE,
            licence="not published",
            source="weights are not public; for those who have them (Donhauser et al. 2025)",
            channels=ChannelRule(joint=True, least=6, most=6),
            fixed_tile=True,
            default_layer=layer,
        ),
        config=config,
        keys=PARALLEL,
        preprocessing=SELF_STANDARDISED,
    )


RECIPES = (
    OPENPHENOM,
    _private("mae-vitl8", "L", _config(1024, 24, 16, 8, 4096, 6), 16),
    _private("mae-vitg8", "G", _config(1664, 48, 16, 8, 8192, 6), 33),
)
