"""What a run is given: fields, settings and a model that fit together."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import call_in_thread, current_task
from napari_microdl.fields.field import Field, FieldInfo
from napari_microdl.fields.metadata import metadata_table
from napari_microdl.fields.query import select
from napari_microdl.models.base import ModelSpec, TokenModel
from napari_microdl.models.channels import are_colours, in_order_of
from napari_microdl.models.recipe import Joint
from napari_microdl.models.registry import known_spec, load_model, published_name
from napari_microdl.tokens import TilePlan

if TYPE_CHECKING:
    from napari_microdl.concepts.dictionary import ConceptDictionary, DictionarySpec

# Cells of one field: 0 is background; None where the unit is no cell.
Labels = NDArray[np.integer] | None
Described = TypeVar("Described", bound=FieldInfo)


def mark_controls(fields: list[Described], query: str) -> list[Described]:
    """Fields whose control mark says whether a query picks them.

    Parameters
    ----------
    fields : list of FieldInfo
        Fields, or what is known of them.
    query : str
        See `napari_microdl.pipeline.table_run.open_table`.

    Returns
    -------
    list of FieldInfo
        Of the same kind.
    """
    picked = select(metadata_table(fields), query)
    return [
        dataclasses.replace(field, is_control=bool(control))
        for field, control in zip(fields, picked, strict=True)
    ]


def check_fields(
    fields: Sequence[Field],
    config: PipelineConfig,
    *,
    fitting: bool,
    model: ModelSpec | None = None,
) -> tuple[str, ...]:
    """Names of the channels used, after checking that every field has them.

    Of a model that is known they come in its order, see `named_channels`.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    config : PipelineConfig
        Settings.
    fitting : bool
        Whether a dictionary will be fitted, for which a whitening needs controls.
    model : ModelSpec, optional
        The model; as far as its name in the settings tells where not given.

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
    if fitting:
        check_controls(fields, config)
    channels = config.tokens.channels or fields[0].channel_names
    for f in fields:
        f.channel_indices(channels)
        if config.tokens.channels is None and set(f.channel_names) != set(channels):
            raise MicrodlError(
                f"Field '{f.name}' has the channels {f.channel_names} but '{fields[0].name}' has "
                f"{channels}; choose the channels that all fields share."
            )
    if model is None:
        model = known_spec(config.model.name, joint=joint_of(config.model.joint, channels))
    return channels if model is None else named_channels(channels, config, model)


def check_controls(fields: Sequence[FieldInfo], config: PipelineConfig) -> None:
    """Refuse to fit a whitening on fields none of which is a control.

    Raises
    ------
    MicrodlError
        Says what to do.
    """
    if config.whitening.enabled and not any(f.is_control for f in fields):
        raise MicrodlError(
            "No control field is chosen; mark at least one untreated field as control, "
            "or switch the whitening off."
        )


def check_cells(
    fields: Sequence[Field], labels: Sequence[Labels], config: PipelineConfig, *, fitting: bool
) -> list[str]:
    """Names of the fields without a cell, after checking that there are enough of the others.

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    labels : sequence of (ndarray of shape (height, width) or None)
        Their cells; None where the unit is no cell.
    config : PipelineConfig
        Settings.
    fitting : bool
        Whether a dictionary will be fitted, for which a whitening needs cells of controls.

    Returns
    -------
    list of str

    Raises
    ------
    MicrodlError
        If there is no cell at all, or none of controls.
    """
    empty = [labelled is not None and not (labelled > 0).any() for labelled in labels]
    check_empty(fields, empty, config, fitting=fitting)
    return [f.name for f, is_empty in zip(fields, empty, strict=True) if is_empty]


def check_empty(
    fields: Sequence[FieldInfo], empty: Sequence[bool], config: PipelineConfig, *, fitting: bool
) -> None:
    """Refuse fields without a cell where those of the others do not do, as `check_cells` does.

    Parameters
    ----------
    fields : sequence of FieldInfo
        The fields.
    empty : sequence of bool
        Whether each has no cell.
    config, fitting
        As for `check_cells`.

    Raises
    ------
    MicrodlError
        If there is no cell at all, or none of controls.
    """
    if fields and all(empty):
        raise MicrodlError(
            "No field has a cell; draw or segment cells, set their diameter, or take crops as the "
            "unit."
        )
    usable = [f for f, is_empty in zip(fields, empty, strict=True) if not is_empty]
    if fitting and config.whitening.enabled and not any(f.is_control for f in usable):
        raise MicrodlError(
            "No control field has a cell; mark another field as control, draw or segment cells "
            "there, or switch the whitening off."
        )


def layer_of(model: ModelSpec, config: PipelineConfig) -> int:
    """Layer that is read: the one of the settings, or what suits their pooling."""
    layer = config.tokens.layer
    return model.layer_for(config.units.pooled_by) if layer is None else layer


def load_model_of(config: PipelineConfig, channels: Sequence[str]) -> TokenModel:
    """Load the model that the settings name; of RGB images it may take colours together."""
    current_task().progress(0, 1, "Loading the model")
    # Neither the import of torch nor the reading of a large file can be interrupted.
    return call_in_thread(
        load_model,
        config.model.name,
        device=config.model.device,
        precision=config.model.precision,
        seed=config.random_state,
        joint=joint_of(config.model.joint, channels),
    )


def tile_plan(model: ModelSpec, config: PipelineConfig) -> TilePlan:
    """How fields are cut into tiles of a model."""
    tile_size = config.tokens.tile_size or model.tile_size
    return TilePlan(model.patch_size, tile_size, config.tokens.halo)


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
    return config.replace(
        model=config.model.replace(name=_model_name(spec, config), joint=spec.model.joint),
        tokens=config.tokens.replace(**dict(spec.tokens)),
        units=config.units.replace(**dict(spec.units)),
        whitening=config.whitening.replace(
            enabled=dictionary.whitening is not None, background_weight=0.0
        ),
    )


def _model_name(spec: DictionarySpec, config: PipelineConfig) -> str:
    """The dictionary's model, from where the settings say that its weights lie."""
    name = config.model.name
    here, made_with = published_name(name), published_name(spec.model.id)
    if here is not None and made_with is not None and here.model == made_with.model:
        return str(made_with._replace(place=here.place))
    return name if name.startswith("hf://") or Path(name).exists() else spec.model.id


def joint_of(joint: bool | None, channels: Sequence[str]) -> Joint:
    """How to ask a model to read channels: the colours of a colour image go together if they may.

    That is the setting of that name; without one "preferred" for red, green and blue.
    """
    return "preferred" if joint is None and are_colours(channels) else joint


def named_channels(
    channels: Sequence[str], config: PipelineConfig, model: ModelSpec
) -> tuple[str, ...]:
    """Channels of the images in the order of the model.

    They stay as they are where the settings name them, or the model names none.

    Raises
    ------
    MicrodlError
        If names leave a doubt about any channel of the model; says which, and what to do.
    """
    return tuple(channels) if config.tokens.channels is not None else in_order_of(model, channels)


def channels_by_model(channels: Sequence[str], model: ModelSpec) -> dict[str, str]:
    """Channel of the images by channel of the model; empty where the model names none."""
    wanted = model.channels.names
    return dict(zip(wanted, channels, strict=True)) if len(wanted) == len(channels) else {}


def channel_note(channels: Sequence[str], config: PipelineConfig, model: ModelSpec) -> str:
    """What was made of the names of channels, as a sentence.

    Empty where the settings name the channels, or the model takes any.
    """
    pairs = channels_by_model(channels, model)
    if config.tokens.channels is not None or not pairs:
        return ""
    listed = ", ".join(f"'{channel}' as {wanted}" for wanted, channel in pairs.items())
    return (
        f"The model was given the images' channels by their names: {listed}; set channels where "
        "that is wrong."
    )
