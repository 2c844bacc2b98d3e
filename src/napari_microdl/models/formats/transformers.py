"""Vision transformers that the library transformers runs, described without it or torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.base import UNKNOWN_LICENCE, ModelSpec
from napari_microdl.models.recipe import Joint, describe, rule_of_channels, rule_taking
from napari_microdl.models.vit.config import Preprocessing, Tokenizer
from napari_microdl.models.weights.files import read_preprocessing, square_edge
from napari_microdl.models.weights.keys import KeyMap

_HALVES = ((0.5,), (0.5,))
_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))


@dataclass(frozen=True)
class TransformersFamily:
    """Where transformers has a family, and what it takes for granted.

    Parameters
    ----------
    module : str
        ``transformers.models.<module>``; its files are ``modeling_*`` and ``configuration_*`` of
        `name`.
    network, config : str
        Classes in those files.
    n_prefix : int
        Tokens before those of the patches.
    defaults : mapping of str to object
        Settings that its ``config.json`` may leave out, where they differ from `USUAL_SETTINGS`.
    extras : mapping of str to object
        Arguments of the network that leave out what comes after the blocks.
    settings : mapping of str to object
        Settings that do the same.
    asks_to_resize : bool
        Whether positions are resized to another grid only if that is asked for.
    constants : (means, deviations)
        Those of its image processor.
    nested : bool
        Whether its settings lie under ``vision_config``, beside those of a text model.
    name : str
        Where files are not called after the module.
    """

    module: str
    network: str
    config: str
    n_prefix: int
    defaults: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    asks_to_resize: bool = True
    constants: tuple[tuple[float, ...], tuple[float, ...]] = _HALVES
    nested: bool = False
    name: str = ""


_NO_POOLING = {"add_pooling_layer": False}
_CLIP_VISION = TransformersFamily(
    module="clip",
    network="CLIPVisionModel",
    config="CLIPVisionConfig",
    n_prefix=1,
    defaults={"patch_size": 32},
    constants=_CLIP,
)
_SIGLIP_VISION = TransformersFamily(
    module="siglip",
    network="SiglipVisionModel",
    config="SiglipVisionConfig",
    n_prefix=0,
    settings={"vision_use_head": False},
)
# By the `model_type` of config.json.
TRANSFORMERS_FAMILIES: Mapping[str, TransformersFamily] = {
    "deit": TransformersFamily("deit", "DeiTModel", "DeiTConfig", n_prefix=2, extras=_NO_POOLING),
    "beit": TransformersFamily(
        "beit", "BeitModel", "BeitConfig", n_prefix=1, extras=_NO_POOLING, asks_to_resize=False
    ),
    "data2vec-vision": TransformersFamily(
        "data2vec",
        "Data2VecVisionModel",
        "Data2VecVisionConfig",
        n_prefix=1,
        extras=_NO_POOLING,
        asks_to_resize=False,
        name="data2vec_vision",
    ),
    "ijepa": TransformersFamily(
        "ijepa", "IJepaModel", "IJepaConfig", n_prefix=0, extras=_NO_POOLING
    ),
    "vit_msn": TransformersFamily("vit_msn", "ViTMSNModel", "ViTMSNConfig", n_prefix=1),
    "clip_vision_model": _CLIP_VISION,
    "clip": replace(_CLIP_VISION, nested=True),
    "siglip_vision_model": _SIGLIP_VISION,
    "siglip": replace(_SIGLIP_VISION, nested=True),
}
USUAL_SETTINGS: Mapping[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
}
# What is passed on of a config.json: the shape of the network and nothing that could name other
# code, kernels, quantisation or files.
_SHAPE = (
    *USUAL_SETTINGS,
    "intermediate_size",
    "hidden_act",
    "layer_norm_eps",
    "qkv_bias",
    "layer_scale_init_value",
    "use_absolute_position_embeddings",
    "use_relative_position_bias",
    "use_shared_relative_position_bias",
)
_NO_CONSTANT_GRID = frozenset(
    {
        *("bit", "convnext", "convnextv2", "cvt", "dinat", "dinov3_convnext", "donut-swin"),
        *("efficientnet", "focalnet", "hgnet_v2", "hiera", "levit", "maskformer-swin"),
        *("mobilenet_v1", "mobilenet_v2", "mobilevit", "mobilevitv2", "nat", "poolformer"),
        *("pvt", "pvt_v2", "regnet", "resnet", "segformer", "swiftformer", "swin", "swin2sr"),
        *("swinv2", "van"),
    }
)

# Names in published files, and those of release 5. Pieces keep their names, but that blocks are
# told from the rest.
TRANSFORMERS = KeyMap(
    name="transformers",
    renames=(
        (r"((?:encoder\.)?layers?\.\d+\.(?!.*relative_position_index).+)", r"blocks.\1"),
        (r"(embeddings\.(?!mask_token|position_ids).+|pre_layrnorm\..+)", r"\1"),
        (
            r"((?:encoder\.relative|shared)_position_bias\.(?!relative_position_index).+)",
            r"\1",
        ),
    ),
    ignored=(
        r".*relative_position_index",
        r"embeddings\.(mask_token|position_ids)",
        r"(layernorm|post_layernorm|pooler|head|decoder|lm_head|decode_head|auxiliary_head)\..*",
        r"((cls_|distillation_)?classifier|fpn\d|text_model|(text|visual)_projection)\..*",
        r"logit_(scale|bias)",
    ),
    prefixes=("vision_model.", "deit.", "beit.", "data2vec_vision.", "ijepa.", "vit."),
)


@dataclass(frozen=True)
class TransformersConfig:
    """Shape of a vision transformer of the library.

    Parameters
    ----------
    family : str
        A key of `TRANSFORMERS_FAMILIES`.
    dim : int
        Width of a token.
    depth : int
        Number of transformer blocks.
    patch_size : int
        Edge of a square patch in pixels.
    in_channels : int
        Channels that the tokenizer reads at once.
    settings : tuple of (str, object)
        Arguments of the library's own configuration, by name.
    """

    family: str
    dim: int
    depth: int
    patch_size: int
    in_channels: int
    settings: tuple[tuple[str, Any], ...]

    @property
    def tokenizer(self) -> Tokenizer:
        """One token a patch from all channels."""
        return "joint"


@dataclass(frozen=True)
class TransformersRecipe:
    """How the weights of a folder become a model that the library runs.

    Parameters
    ----------
    spec : ModelSpec
        What a user is shown.
    config : TransformersConfig
        Shape of the network.
    preprocessing : Preprocessing
        From scaled tiles to model input.
    """

    spec: ModelSpec
    config: TransformersConfig
    preprocessing: Preprocessing

    def taking(self, joint: Joint) -> TransformersRecipe:
        """The same with channels together, one by one, or as it is; see `rule_taking`."""
        return replace(self, spec=replace(self.spec, channels=rule_taking(self.spec, joint)))


def why_not(stated: Mapping[str, Any]) -> str:
    """Why a model that is not known cannot be run, as a part of a sentence, or ""."""
    if stated.get("model_type") in _NO_CONSTANT_GRID:
        return " because its layers do not share one grid of patches"
    images = {"image_size", "patch_size", "num_channels", "vision_config"}
    if "vocab_size" in stated and not images & set(stated):
        return " because it reads text"
    return ""


def require_transformers(what: str) -> None:
    """Say in one sentence what to install where the library is missing."""
    try:
        found = find_spec("transformers")
    except ValueError:
        # What stands in for a module and has no place of its own.
        found = None
    if found is None:
        raise MicrodlError(
            f"{what} is run by the package transformers, which is not installed; pip install "
            "'napari-microdl[transformers]'."
        )


# Far above every published model; what asks for more is damaged, and is not built.
_MOST = {
    "hidden_size": 32_768,
    "num_hidden_layers": 512,
    "num_attention_heads": 1_024,
    "num_channels": 4_096,
}


def transformers_recipe(folder: Path, stated: Mapping[str, Any]) -> TransformersRecipe:
    """Recipe for a folder of a family that the library runs.

    `stated` is its ``config.json``, whose ``model_type`` is in `TRANSFORMERS_FAMILIES`.

    Raises
    ------
    MicrodlError
        If the library is missing, or the shape is none that can be read.
    """
    kind = stated["model_type"]
    require_transformers(f"'{folder.name}' ({kind})")
    family = TRANSFORMERS_FAMILIES[kind]
    own = stated.get("vision_config") if family.nested else stated
    if not isinstance(own, Mapping):
        raise MicrodlError(
            f"'{folder.name}' does not say what its vision model is; fetch its config.json again."
        )
    settings: dict[str, Any] = {**USUAL_SETTINGS, **family.defaults, **own}
    patch, edge = (
        square_edge(settings[k], k.replace("_", " ")) for k in ("patch_size", "image_size")
    )
    settings |= {"patch_size": patch, "image_size": edge, **family.settings}
    for name in ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_channels"):
        if type(settings[name]) is not int or not 1 <= settings[name] <= _MOST[name]:
            raise MicrodlError(
                f"'{folder.name}' sets {name} to {settings[name]!r}; fetch its config.json again."
            )
    for name in ("layer_norm_eps", "layer_scale_init_value"):
        if type(value := settings.get(name, 0.0)) not in (int, float):
            raise MicrodlError(
                f"'{folder.name}' sets {name} to {value!r}; fetch its config.json again."
            )
        if name in settings:
            # The library takes no whole number for it.
            settings[name] = float(value)
    if edge < patch:
        raise MicrodlError(
            f"'{folder.name}' has patches of {patch} px in images of {edge} px; fetch its "
            "config.json again."
        )
    config = TransformersConfig(
        family=kind,
        dim=settings["hidden_size"],
        depth=settings["num_hidden_layers"],
        patch_size=patch,
        in_channels=settings["num_channels"],
        settings=tuple((k, settings[k]) for k in (*_SHAPE, *family.settings) if k in settings),
    )
    spec = describe(
        config,
        model_id=folder.name,
        title=f"{folder.name} ({kind})",
        tile_size=edge // patch * patch,
        licence=UNKNOWN_LICENCE,
        source=f"local folder '{folder.name}'",
        channels=rule_of_channels(config.in_channels),
    )
    preprocessing = read_preprocessing(folder, config.in_channels, *family.constants)
    return TransformersRecipe(spec, config, preprocessing)
