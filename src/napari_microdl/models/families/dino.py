"""DINOv2 with and without registers, DINOv3 and DinoBloom: trained on RGB images.

The weights that Meta's code reads (``.pth``) and the folders on the Hugging Face hub hold the same
numbers under other names. Off the stored grid the two resize positions a little differently;
here each follows its own.
"""

from __future__ import annotations

from dataclasses import replace

from napari_microdl.models.recipe import RGB_TOGETHER, Recipe, describe
from napari_microdl.models.vit.config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    VitConfig,
)
from napari_microdl.models.weights.hub import HubSource
from napari_microdl.models.weights.keys import HUGGING_FACE, TIMM

IMAGENET = Preprocessing(mean=IMAGENET_MEAN, std=IMAGENET_STD)
# Width, depth and heads.
SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}
LONG = {"s": "small", "b": "base", "l": "large"}
# Commit, and sha256 of its model.safetensors (docs/models.md says where they stand).
PINS = {
    "dinov2-small": (
        "ed25f3a31f01632728cabb09d1542f84ab7b0056",
        "ae1e99fcefd534ed978cdeb8326f08030c96e28b7a81ffcbc98a857c84d14be1",
    ),
    "dinov2-base": (
        "f9e44c814b77203eaa57a6bdbbd535f21ede1415",
        "d73036b56966966d07975d696bde331762f37297e2f095de8cea0040c3aa0841",
    ),
    "dinov2-large": (
        "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c",
        "399fba97a95f22c36834418bc69373364a99af3a1153da1c0fb31db567c92e23",
    ),
    "dinov2-with-registers-small": (
        "0d9846e56b43a21fa46d7f3f5070f0506a5795a9",
        "78e7f952c5af83cf6da38f08ff52b062bbe00c1adf39c4c7e0361969f27abae7",
    ),
    "dinov2-with-registers-base": (
        "a1d738ccfa7ae170945f210395d99dde8adb1805",
        "7a6f7b3b9fa4b8732e707476a03cd6cdce210048582f21aafb7991c17d98e362",
    ),
    "dinov2-with-registers-large": (
        "e4c89a4e05589de9b3e188688a303d0f3c04d0f3",
        "edccedab2c4e164e80833096de89a32a6e8d7365870499a066a61dbc8894b42b",
    ),
    "dinov3-vits16-pretrain-lvd1689m": (
        "114c1379950215c8b35dfcd4e90a5c251dde0d32",
        "4610ad75edef83e75afdebf162d148dc628045ea6cbb83d67d4708c709c4f91d",
    ),
    "dinov3-vitb16-pretrain-lvd1689m": (
        "5931719e67bbdb9737e363e781fb0c67687896bc",
        "9a21ac3df0c63839d62612dda6f454d816c25611cc7a52966ed5a5a94921dc8b",
    ),
}


def _on_the_hub(name: str) -> HubSource:
    return HubSource(f"facebook/{name}", *PINS[name])


def dinov2_config(size: str, registers: int, *, native: bool, grid: int = 37) -> VitConfig:
    """Shape of a DINOv2 model.

    A `native` one follows Meta's code rather than transformers off the stored grid, which has
    `grid` x `grid` positions.
    """
    dim, depth, n_heads = SIZES[size]
    return VitConfig(
        dim=dim,
        depth=depth,
        n_heads=n_heads,
        patch_size=14,
        in_channels=3,
        layer_scale=True,
        n_registers=registers,
        positions="learned",
        position_grid=(grid, grid),
        position_antialias=registers > 0,
        position_offset=0.1 if native and not registers else 0.0,
    )


def _dinov2(size: str, registers: int) -> Recipe:
    name = f"dinov2-with-registers-{LONG[size]}" if registers else f"dinov2-{LONG[size]}"
    configs = {native: dinov2_config(size, registers, native=native) for native in (False, True)}
    spec = describe(
        configs[False],
        model_id=name,
        title=f"DINOv2 ViT-{size.upper()}/14" + (" with registers" if registers else ""),
        tile_size=224,
        licence="Apache-2.0",
        source=f"Meta AI, huggingface.co/facebook/{name}",
        non_commercial=False,
    )
    native = Recipe(spec, configs[True], TIMM, IMAGENET, rgb=True)
    hub = _on_the_hub(name)
    return Recipe(
        spec, configs[False], HUGGING_FACE, IMAGENET, rgb=True, hub=hub, alternative=native
    )


def _dinov3(size: str) -> Recipe:
    dim, depth, n_heads = SIZES[size]
    config = VitConfig(
        dim=dim,
        depth=depth,
        n_heads=n_heads,
        patch_size=16,
        in_channels=3,
        layer_scale=True,
        n_registers=4,
        positions="rope",
        norm_eps=1e-5,
    )
    name = f"dinov3-vit{size}16"
    hub = _on_the_hub(f"{name}-pretrain-lvd1689m")
    spec = describe(
        config,
        model_id=name,
        title=f"DINOv3 ViT-{size.upper()}/16",
        tile_size=224,
        licence="DINOv3 License",
        source=f"Meta AI, huggingface.co/{hub.repository}",
        non_commercial=False,
    )
    native = Recipe(spec, config, TIMM, IMAGENET, rgb=True)
    return Recipe(spec, config, HUGGING_FACE, IMAGENET, rgb=True, hub=hub, alternative=native)


def _dinobloom(size: str) -> Recipe:
    # Trained on from DINOv2 at 224 pixels, so that its table has 16 x 16 positions.
    config = replace(dinov2_config(size, 0, native=True), position_grid=(16, 16))
    return Recipe(
        spec=describe(
            config,
            model_id=f"dinobloom-{size}",
            title=f"DinoBloom-{size.upper()} (blood cells)",
            tile_size=224,
            licence="Apache-2.0, as others state; see the source",
            source="zenodo.org/records/10908163 (Koch et al. 2024)",
            non_commercial=False,
            channels=RGB_TOGETHER,
        ),
        config=config,
        keys=TIMM,
        preprocessing=IMAGENET,
        rgb=True,
    )


RECIPES = (
    *(_dinov2(size, registers) for registers in (0, 4) for size in SIZES),
    *(_dinov3(size) for size in ("s", "b")),
    *(_dinobloom(size) for size in SIZES),
)
