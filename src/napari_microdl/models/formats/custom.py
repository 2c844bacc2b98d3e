"""Recipes for a lab's own weights: transformers folders, and any file described by a small TOML."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Set
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import guarding, read_toml, refusing
from napari_microdl.models.base import UNKNOWN_LICENCE, ChannelRule, ModelSpec
from napari_microdl.models.formats.transformers import (
    TRANSFORMERS_FAMILIES,
    TransformersRecipe,
    transformers_recipe,
    why_not,
)
from napari_microdl.models.recipe import Recipe, describe, rule_of_channels
from napari_microdl.models.vit.config import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    VitConfig,
)
from napari_microdl.models.weights.files import read_json, read_preprocessing, square_edge
from napari_microdl.models.weights.keys import HUGGING_FACE, LAYOUTS

# What a description cannot say of a model, because its shape or its file does.
SET_BY_THE_WEIGHTS = frozenset(
    {"model_id", "patch_size", "dim", "depth", "weights_sha256", "channels"}
)
SET_BY_THE_RECIPE = frozenset({"either", "subsets"})


def _vit_options(settings: Mapping[str, Any], grid: int) -> dict[str, Any]:
    return {"positions": "learned", "position_grid": (grid, grid)}


def _dinov2_options(settings: Mapping[str, Any], grid: int) -> dict[str, Any]:
    gated = bool(settings.get("use_swiglu_ffn"))
    hidden = int(settings["hidden_size"] * settings.get("mlp_ratio", 4))
    if gated:
        hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
    registers = int(settings.get("num_register_tokens", 0))
    return _vit_options(settings, grid) | {
        "hidden_dim": hidden,
        "feed_forward": "swiglu" if gated else "mlp",
        "layer_scale": True,
        "n_registers": registers,
        "position_antialias": settings["model_type"] == "dinov2_with_registers",
    }


def _dinov3_options(settings: Mapping[str, Any], grid: int) -> dict[str, Any]:
    if settings.get("rope_theta", 100.0) != 100.0:
        raise MicrodlError("Only DINOv3 models with a rope_theta of 100 can be run.")
    return {
        "positions": "rope",
        "layer_scale": True,
        "n_registers": int(settings.get("num_register_tokens", 0)),
        "feed_forward": "swiglu" if settings.get("use_gated_mlp") else "mlp",
    }


# What transformers takes for granted where config.json leaves it out.
Options = Callable[[Mapping[str, Any], int], dict[str, Any]]
_DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "num_channels": 3,
}
FAMILIES: dict[str, tuple[Options, dict[str, Any]]] = {
    "vit": (
        _vit_options,
        {
            "image_size": 224,
            "patch_size": 16,
            "intermediate_size": 3072,
            "layer_norm_eps": 1e-12,
        },
    ),
    "vit_mae": (
        _vit_options,
        {
            "image_size": 224,
            "patch_size": 16,
            "intermediate_size": 3072,
            "layer_norm_eps": 1e-12,
        },
    ),
    "dinov2": (
        _dinov2_options,
        {"image_size": 224, "patch_size": 14, "layer_norm_eps": 1e-6, "mlp_ratio": 4},
    ),
    "dinov2_with_registers": (
        _dinov2_options,
        {
            "image_size": 224,
            "patch_size": 16,
            "layer_norm_eps": 1e-6,
            "mlp_ratio": 4,
            "num_register_tokens": 4,
        },
    ),
    "dinov3_vit": (
        _dinov3_options,
        {
            "image_size": 224,
            "patch_size": 16,
            "hidden_size": 384,
            "num_attention_heads": 6,
            "intermediate_size": 1536,
            "layer_norm_eps": 1e-5,
        },
    ),
}


def hugging_face_recipe(folder: Path) -> Recipe | TransformersRecipe:
    """Recipe for a folder with a ``config.json`` of transformers, and perhaps an image processor's.

    Raises
    ------
    MicrodlError
        If the type is not known, the shape is one that this package does not have, or the
        library is needed and missing.
    """
    with guarding(f"The config.json of '{folder.name}' describes no model ({{reason}})."):
        return _of_config(folder, read_json(folder / "config.json"))


def _of_config(folder: Path, stated: dict[str, Any]) -> Recipe | TransformersRecipe:
    family = str(stated.get("model_type"))
    if family in TRANSFORMERS_FAMILIES:
        return transformers_recipe(folder, stated)
    if family not in FAMILIES:
        known = ", ".join((*FAMILIES, *TRANSFORMERS_FAMILIES))
        raise MicrodlError(
            f"'{folder.name}' holds a model of the type '{family}', which cannot be run"
            f"{why_not(stated)}; these can: {known}."
        )
    options, defaults = FAMILIES[family]
    settings = _DEFAULTS | defaults | stated
    # The hidden layer is GELU, or gated by SiLU; DINOv2 names GELU and gates by SiLU all the same.
    if settings["hidden_act"] != ("silu" if settings.get("use_gated_mlp") else "gelu"):
        raise MicrodlError(
            f"'{folder.name}' uses the activation '{settings['hidden_act']}', which cannot be run."
        )
    patch, edge = (
        square_edge(settings[k], k.replace("_", " ")) for k in ("patch_size", "image_size")
    )
    channels = settings["num_channels"]
    if type(channels) is not int or channels < 1:
        raise MicrodlError(f"'{folder.name}' reads {channels!r} channels; fetch its files again.")
    shape: dict[str, Any] = {
        "dim": settings["hidden_size"],
        "depth": settings["num_hidden_layers"],
        "n_heads": settings["num_attention_heads"],
        "patch_size": patch,
        "in_channels": channels,
        "hidden_dim": settings.get("intermediate_size"),
        "norm_eps": settings["layer_norm_eps"],
    }
    config = _config(shape | options(settings, edge // patch), folder.name)
    tile = 224 if family.startswith("dino") and 224 % patch == 0 else edge // patch * patch
    # What google/vit models were trained with; the others with ImageNet's.
    usual = ((0.5,), (0.5,)) if family == "vit" else (IMAGENET_MEAN, IMAGENET_STD)
    return Recipe(
        spec=describe(
            config,
            model_id=folder.name,
            title=f"{folder.name} ({family})",
            tile_size=tile,
            licence=UNKNOWN_LICENCE,
            source=f"local folder '{folder.name}'",
            channels=rule_of_channels(channels),
        ),
        config=config,
        keys=HUGGING_FACE,
        preprocessing=read_preprocessing(folder, channels, *usual),
        rgb=channels == 3,
    )


def _config(options: dict[str, Any], name: str) -> VitConfig:
    with refusing(f"'{name}' describes no model that can be run: {{reason}}."):
        return VitConfig(**options)


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value from a TOML file is what a dataclass asks for."""
    try:
        # As JSON a list may stand for a tuple; a date, which JSON has no type for, fits nothing.
        TypeAdapter(hint).validate_json(json.dumps(value), strict=True)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _section(
    content: Mapping[str, Any],
    name: str,
    made: type[Any],
    file: str,
    leave_out: Set[str] = frozenset(),
) -> dict[str, Any]:
    """Options for a dataclass from a section of a TOML file, each of the right kind."""
    values = content.get(name, {})
    hints = {k: v for k, v in get_type_hints(made).items() if k not in leave_out}
    if not isinstance(values, Mapping):
        raise MicrodlError(f"'{file}' holds '{name}' as a value; write a section [{name}].")
    for option, value in values.items():
        if option not in hints:
            raise MicrodlError(
                f"'{file}' sets '{option}' in [{name}], which is not known; it may set "
                f"{', '.join(hints)}."
            )
        if not _fits(value, hints[option]):
            raise MicrodlError(f"'{file}' sets '{option}' in [{name}] to {value!r}; correct it.")
    return {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}


def toml_recipe(path: Path) -> tuple[Recipe, Path, str]:
    """Recipe, weights and digest ("" where none is given) of a file as docs/models.md describes it.

    Raises
    ------
    MicrodlError
        If something is missing, unknown or does not go together.
    """
    with refusing(f"'{path.name}' cannot be read as TOML: {{reason}}."):
        content = read_toml(path)
    with guarding(f"'{path.name}' describes no model ({{reason}}); correct it."):
        return _of_toml(path, content)


def _of_toml(path: Path, content: dict[str, Any]) -> tuple[Recipe, Path, str]:
    sections = ("model", "vit", "channels", "preprocessing")
    known = ("weights", "layout", "sha256", *sections)
    if unknown := sorted(set(content) - set(known)):
        raise MicrodlError(
            f"'{path.name}' holds '{unknown[0]}', which is not known; it may hold "
            f"{', '.join(known)}."
        )
    if content.get("layout") not in LAYOUTS:
        raise MicrodlError(
            f"'{path.name}' names the layout '{content.get('layout')}'; it must be one of "
            f"{', '.join(LAYOUTS)}."
        )
    if not isinstance(content.get("weights"), str):
        raise MicrodlError(f"'{path.name}' does not name its weights; add weights = \"FILE\".")
    shape = _section(content, "vit", VitConfig, path.name)
    if missing := [name for name in ("dim", "depth", "n_heads", "patch_size") if name not in shape]:
        raise MicrodlError(f"'{path.name}' does not set '{missing[0]}' in [vit]; add it.")
    config = _config(shape, path.name)
    about: dict[str, Any] = {
        "title": path.stem,
        "licence": UNKNOWN_LICENCE,
        "source": f"local file '{path.name}'",
        "tile_size": 16 * config.patch_size,
        "non_commercial": None,
        "intensity": "linear",
        "fixed_tile": False,
    }
    stated = _section(content, "model", ModelSpec, path.name, SET_BY_THE_WEIGHTS)
    rule = ChannelRule(**_section(content, "channels", ChannelRule, path.name, SET_BY_THE_RECIPE))
    spec = describe(config, **(about | stated), model_id=path.stem, channels=rule)
    if not 1 <= spec.default_layer <= spec.depth:
        raise MicrodlError(
            f"'{path.name}' sets the default_layer {spec.default_layer}, which does not exist: the "
            f"model has layers 1 to {spec.depth}."
        )
    recipe = Recipe(
        spec=spec,
        config=config,
        keys=LAYOUTS[content["layout"]],
        preprocessing=Preprocessing(**_section(content, "preprocessing", Preprocessing, path.name)),
    )
    return recipe, path.parent / content["weights"], str(content.get("sha256", ""))
