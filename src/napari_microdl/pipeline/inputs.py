"""What a run is given: fields and settings that fit together, and the settings of a dictionary."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from napari_microdl.concepts.dictionary import ConceptDictionary, DictionarySpec
from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.models.base import ModelSpec
from napari_microdl.models.registry import known_spec, published_name
from napari_microdl.pipeline.channels import joint_of, named_channels
from napari_microdl.tokens import TilePlan


def check_fields(
    fields: Sequence[Field], config: PipelineConfig, *, fitting: bool
) -> tuple[str, ...]:
    """Names of the channels used, after checking that every field has them.

    Of a model that is known by its name they come in its order, see
    `napari_microdl.pipeline.channels.named_channels`.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    config : PipelineConfig
        Settings.
    fitting : bool
        Whether a dictionary will be fitted, for which a whitening needs controls.

    Returns
    -------
    tuple of str

    Raises
    ------
    MicrodlError
        If fields and settings do not fit together.
    """
    if not fields:
        raise MicrodlError("There are no fields; choose at least one image.")
    if fitting and config.whitening.enabled and not any(f.is_control for f in fields):
        raise MicrodlError(
            "No control field is chosen; mark at least one untreated field as control, "
            "or switch the whitening off."
        )
    channels = config.tokens.channels or fields[0].channel_names
    for f in fields:
        f.channel_indices(channels)
        if config.tokens.channels is None and set(f.channel_names) != set(channels):
            raise MicrodlError(
                f"Field '{f.name}' has the channels {f.channel_names} but '{fields[0].name}' has "
                f"{channels}; choose the channels that all fields share."
            )
    known = known_spec(config.model.name, joint=joint_of(config.model.joint, channels))
    return channels if known is None else named_channels(channels, config, known)


def config_of(dictionary: ConceptDictionary, config: PipelineConfig) -> PipelineConfig:
    """Settings with which a dictionary is applied.

    Parameters
    ----------
    dictionary : ConceptDictionary
        Decides how samples are made.
    config : PipelineConfig
        Decides the rest: segmentation, device, where the weights lie.

    Returns
    -------
    PipelineConfig
    """
    spec = dictionary.spec
    return dataclasses.replace(
        config,
        model=_model_of(spec, config),
        joint=spec.joint,
        layer=spec.layer,
        site=spec.site,
        channels=spec.channel_names,
        channel_tokens=spec.channel_tokens,
        scaling=spec.scaling,
        tile_size=spec.tile_size,
        halo=spec.halo,
        unit=spec.unit,
        crop_size=spec.crop_size,
        crop_stride=spec.crop_stride,
        remove_position=dictionary.position is not None,
        whiten=dictionary.whitening is not None,
    )


def _model_of(spec: DictionarySpec, config: PipelineConfig) -> str:
    """The dictionary's model, from where the settings say that its weights lie."""
    name = config.model.name
    here, made_with = published_name(name), published_name(spec.model_id)
    if here is not None and made_with is not None and here.model == made_with.model:
        return str(made_with._replace(place=here.place))
    return name if name.startswith("hf://") or Path(name).exists() else spec.model_id


def spec_of(
    config: PipelineConfig, model: ModelSpec, plan: TilePlan, channels: tuple[str, ...]
) -> DictionarySpec:
    """What the samples of a run are, as its dictionary will say.

    Parameters
    ----------
    config : PipelineConfig
        Settings.
    model : ModelSpec
        The model.
    plan : TilePlan
        How fields are cut.
    channels : tuple of str
        Channels that the model sees.

    Returns
    -------
    DictionarySpec

    Raises
    ------
    MicrodlError
        If a setting is not possible.
    """
    return DictionarySpec(
        model_id=model.model_id,
        weights_sha256=model.weights_sha256,
        weights_licence=model.licence,
        layer=model.default_layer if config.tokens.layer is None else config.tokens.layer,
        site=config.tokens.site,
        channel_names=channels,
        channel_tokens=config.tokens.channel_tokens,
        scaling=config.tokens.scaling,
        tile_size=plan.tile_size,
        halo=plan.halo,
        patch_size=plan.patch_size,
        unit=config.units.kind,
        crop_size=config.units.crop_size,
        crop_stride=config.units.crop_stride,
        intensity=model.intensity,
        joint=model.channels.joint,
        weights_non_commercial=model.non_commercial,
        weights_source=model.source,
    )
