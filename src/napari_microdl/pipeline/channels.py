"""Which channels of the images go into a model, in the order that it knows them in."""

from __future__ import annotations

from collections.abc import Sequence

from napari_microdl.core.config import PipelineConfig
from napari_microdl.models.base import ModelSpec
from napari_microdl.models.channels import are_colours, in_order_of
from napari_microdl.models.recipe import Joint


def joint_of(joint: bool | None, channels: Sequence[str]) -> Joint:
    """How to ask a model to read channels: the colours of a colour image go together if they may.

    Parameters
    ----------
    joint : bool or None
        The setting of that name.
    channels : sequence of str
        Channels that a run reads.

    Returns
    -------
    bool, "preferred" or None
        What is set; without a setting "preferred" for red, green and blue.
    """
    return "preferred" if joint is None and are_colours(channels) else joint


def named_channels(
    channels: Sequence[str], config: PipelineConfig, model: ModelSpec
) -> tuple[str, ...]:
    """Channels of the images in the order of the model.

    Parameters
    ----------
    channels : sequence of str
        Channels that all fields have, or those of the settings.
    config : PipelineConfig
        Where it names channels, these stay as they are.
    model : ModelSpec
        Where it names no channels, all of `channels` stay as they are.

    Returns
    -------
    tuple of str

    Raises
    ------
    MicrodlError
        If names leave a doubt about any channel of the model; says which, and what to do.
    """
    return tuple(channels) if config.tokens.channels is not None else in_order_of(model, channels)


def channels_by_model(channels: Sequence[str], model: ModelSpec) -> dict[str, str]:
    """Channel of the images by channel of the model; empty where the model names none.

    Parameters
    ----------
    channels : sequence of str
        What the model reads.
    model : ModelSpec
        The model.

    Returns
    -------
    dict of str to str
    """
    wanted = model.channels.names
    return dict(zip(wanted, channels, strict=True)) if len(wanted) == len(channels) else {}


def channel_note(channels: Sequence[str], config: PipelineConfig, model: ModelSpec) -> str:
    """What was made of the names of channels, as a sentence.

    Parameters
    ----------
    channels : sequence of str
        From `named_channels`.
    config : PipelineConfig
        Settings.
    model : ModelSpec
        The model.

    Returns
    -------
    str
        Empty where the settings name the channels, or the model takes any.
    """
    pairs = channels_by_model(channels, model)
    if config.tokens.channels is not None or not pairs:
        return ""
    told = ", ".join(f"'{channel}' as {wanted}" for wanted, channel in pairs.items())
    return (
        f"The model was given the images' channels by their names: {told}; set channels where "
        "that is wrong."
    )
