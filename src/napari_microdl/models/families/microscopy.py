"""Models trained on fluorescence images in the code of DINO and DINOv2, and SubCell.

Cell-DINO norms every channel of an image by itself; its readers give bytes divided by 255. SubCell
scales each crop to 0 to 1 by its smallest and largest value; here the scale of the whole image
stands in for that, so that an empty crop is not stretched into noise. uniDINO was trained on
images scaled by percentiles and takes them as they are.
"""

from __future__ import annotations

from napari_microdl.models.base import ChannelRule
from napari_microdl.models.recipe import ONE_BY_ONE, Recipe, describe
from napari_microdl.models.vit.config import Preprocessing, VitConfig
from napari_microdl.models.weights.keys import SUBCELL, TIMM

SELF_NORMALISED = Preprocessing(tile_norm="standardise", eps=1e-7)
FAIR = "FAIR Noncommercial Research License"
CELL_DINO_SOURCE = "Meta AI, github.com/facebookresearch/dinov2 (Moutakanni et al. 2025)"

# Means and standard deviations of ChannelViT's training images, in bytes.
JUMP_CHANNELS = ("Mito", "AGP", "RNA", "ER", "DNA", "HighZBF", "LowZBF", "Brightfield")
JUMP_MEAN = (4.031744, 1.565935, 3.773679, 3.460525, 4.172317, 6.780530, 6.787386, 6.778121)
JUMP_STD = (
    17.318439,
    12.015918,
    16.966058,
    15.064776,
    17.964118,
    21.638766,
    21.670566,
    21.639489,
)


def _named(*names: str) -> ChannelRule:
    return ChannelRule(names=names, joint=True, least=len(names), most=len(names))


def _cell_dino(
    model_id: str,
    title: str,
    shape: tuple[int, int, int],
    patch_size: int,
    edge: int,
    channels: ChannelRule,
) -> Recipe:
    dim, depth, n_heads = shape
    config = VitConfig(
        dim=dim,
        depth=depth,
        n_heads=n_heads,
        patch_size=patch_size,
        in_channels=channels.most or 1,
        layer_scale=True,
        positions="learned",
        position_grid=(edge // patch_size, edge // patch_size),
        position_offset=0.1,
    )
    return Recipe(
        spec=describe(
            config,
            model_id=model_id,
            title=title,
            tile_size=edge,
            licence=FAIR,
            source=CELL_DINO_SOURCE,
            non_commercial=True,
            channels=channels,
        ),
        config=config,
        keys=TIMM,
        preprocessing=SELF_NORMALISED,
    )


HPA = _named("microtubules", "protein", "nucleus", "ER")
CELL_PAINTING = _named("DNA", "RNA", "ER", "AGP", "Mito")
SMALL, LARGE = (384, 12, 6), (1024, 24, 16)


def _subcell(model_id: str, letters: str, *names: str) -> Recipe:
    config = VitConfig(
        dim=768,
        depth=12,
        n_heads=12,
        patch_size=16,
        in_channels=len(names),
        positions="learned",
        position_grid=(28, 28),
        norm_eps=1e-12,
    )
    return Recipe(
        spec=describe(
            config,
            model_id=model_id,
            title=f"SubCell ViT-B/16, channels {letters}",
            tile_size=448,
            licence="MIT, as others state; see the source",
            source="github.com/CellProfiling/subcell-embed (Gupta et al. 2024)",
            non_commercial=False,
            channels=_named(*names),
        ),
        config=config,
        keys=SUBCELL,
        preprocessing=Preprocessing(),
    )


def _channelvit(model_id: str, title: str, n_channels: int) -> Recipe:
    names = JUMP_CHANNELS[:n_channels]
    config = VitConfig(
        dim=384,
        depth=12,
        n_heads=6,
        patch_size=8,
        in_channels=n_channels,
        positions="learned",
        position_grid=(28, 28),
        position_offset=0.1,
        position_resample=True,
        tokenizer="per_channel",
        channel_embeddings=True,
    )
    return Recipe(
        spec=describe(
            config,
            model_id=model_id,
            title=title,
            tile_size=224,
            licence="CC-BY-NC-4.0, that of the code they come with",
            source="github.com/insitro/ChannelViT (Bao et al. 2024)",
            non_commercial=True,
            channels=ChannelRule(names=names, least=n_channels, most=n_channels),
        ),
        config=config,
        keys=TIMM,
        preprocessing=Preprocessing(
            mean=tuple(m / 255 for m in JUMP_MEAN[:n_channels]),
            std=tuple(s / 255 for s in JUMP_STD[:n_channels]),
        ),
    )


UNIDINO_CONFIG = VitConfig(
    dim=384,
    depth=12,
    n_heads=6,
    patch_size=16,
    positions="learned",
    position_grid=(14, 14),
    position_offset=0.1,
)
UNIDINO = Recipe(
    spec=describe(
        UNIDINO_CONFIG,
        model_id="unidino",
        title="uniDINO ViT-S/16",
        tile_size=224,
        licence="CC-BY-NC-4.0",
        source="Bayer, doi.org/10.5281/zenodo.14988837 (Morelli et al. 2025)",
        non_commercial=True,
        channels=ONE_BY_ONE,
    ),
    config=UNIDINO_CONFIG,
    keys=TIMM,
    preprocessing=Preprocessing(),
)

RECIPES = (
    _cell_dino("cell-dino-hpa-vitl16", "Cell-DINO ViT-L/16 (HPA)", LARGE, 16, 224, HPA),
    _cell_dino("cell-dino-hpa-vitl14", "Cell-DINO ViT-L/14 (HPA, 518 px)", LARGE, 14, 518, HPA),
    _cell_dino(
        "cell-dino-cp-vits8", "Cell-DINO ViT-S/8 (Cell Painting)", SMALL, 8, 128, CELL_PAINTING
    ),
    _cell_dino(
        "channel-adaptive-dino-vitl16",
        "Channel-adaptive DINO ViT-L/16",
        LARGE,
        16,
        224,
        ONE_BY_ONE,
    ),
    _subcell("subcell-rybg", "rybg", "microtubules", "ER", "nucleus", "protein"),
    _subcell("subcell-rbg", "rbg", "microtubules", "nucleus", "protein"),
    _subcell("subcell-ybg", "ybg", "ER", "nucleus", "protein"),
    _subcell("subcell-bg", "bg", "nucleus", "protein"),
    _channelvit("channelvit-jump-cp", "ChannelViT-S/8, five Cell Painting channels", 5),
    _channelvit("channelvit-jump-cp-bf", "ChannelViT-S/8, Cell Painting and brightfield", 8),
    UNIDINO,
)
