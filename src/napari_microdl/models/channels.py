"""Which channel of an image is which channel of a model, by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.base import ChannelRule, ModelSpec

# Words for one and the same thing. A stain stands with what it stains; words that stain
# several things (as WGA: Golgi and plasma membrane) stand only where the models' channels mix them.
SYNONYMS: tuple[frozenset[str], ...] = tuple(
    frozenset(names.split())
    for names in (
        "nucleus nuclei nuclear dna dapi hoechst draq5 draq7",
        "er concanavalin cona reticulum calreticulin",
        "rna syto syto14 nucleoli",
        "agp actin factin phalloidin golgi wga",
        "mito mitochondria mitochondrion mitochondrial mitotracker tomm20",
        "microtubules microtubule tubulin",
        "protein poi antibody",
        "brightfield bf transmitted",
        "highzbf",
        "lowzbf",
    )
)
# Channels of RGB images; only whole names, since "MitoTracker Deep Red" is no red channel.
COLOURS = (frozenset({"r", "red"}), frozenset({"g", "green"}), frozenset({"b", "blue"}))


def _name_parts(name: str) -> set[str]:
    """Words of a channel name, whole and split at capitals and digits, in lower case."""
    parts = re.split(r"[^A-Za-z0-9]+", name)
    pieces = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return {part.lower() for part in (*parts, *pieces, "".join(parts)) if part}


def _meanings(name: str) -> set[frozenset[str]]:
    parts = _name_parts(name)
    if colour := {group for group in COLOURS if name.strip().lower() in group}:
        return colour
    return {group for group in SYNONYMS if parts & group}


def are_colours(names: Sequence[str]) -> bool:
    """Whether channels are red, green and blue by their names, in this order.

    Parameters
    ----------
    names : sequence of str
        Names of the channels.

    Returns
    -------
    bool

    Examples
    --------
    >>> are_colours(("R", "G", "B")), are_colours(("red", "green", "MitoTracker Deep Red"))
    (True, False)
    """
    return len(names) == 3 and all(
        name.strip().lower() in colour for name, colour in zip(names, COLOURS, strict=True)
    )


def match_channels(rule: ChannelRule, field_channel_names: Sequence[str]) -> tuple[str | None, ...]:
    """Channels of an image for the named channels of a model.

    Parameters
    ----------
    rule : ChannelRule
        Channels that the model wants.
    field_channel_names : sequence of str
        Names of the image's channels.

    Returns
    -------
    tuple of str or None
        For each of `rule.names` the image's channel, or None where none fits or more than one does:
        a person has to say then. The same name, whatever its capitals, counts for more than a known
        synonym ("Hoechst 33342" for "DNA"). No image channel is given out twice, and a name that
        means two things ("ER + RNA") is given to neither.

    Examples
    --------
    >>> rule = ChannelRule(names=("Mito", "DNA"), joint=True, least=2, most=2)
    >>> match_channels(rule, ("Hoechst 33342", "MitoTracker Deep Red"))
    ('MitoTracker Deep Red', 'Hoechst 33342')
    """
    names = list(field_channel_names)
    repeated = {name for name in names if names.count(name) > 1}
    exact = {
        wanted: [n for n in names if n.strip().lower() == wanted.lower() and n not in repeated]
        for wanted in rule.names
    }
    taken = {found[0] for found in exact.values() if len(found) == 1}
    matches: list[str | None] = []
    for wanted in rule.names:
        found = exact[wanted]
        if not found:
            meaning = _meanings(wanted)
            found = [
                name
                for name in names
                if meaning and _meanings(name) == meaning and name not in taken | repeated
            ]
        matches.append(found[0] if len(found) == 1 else None)
    # Two channels of the model that mean the same would both take it: neither may.
    return tuple(None if m is None or matches.count(m) > 1 else m for m in matches)


def in_order_of(model: ModelSpec, channels: Sequence[str]) -> tuple[str, ...]:
    """Channels of images in the order of a model, found by their names.

    Parameters
    ----------
    model : ModelSpec
        Where it names no channels, all of `channels` stay as they are.
    channels : sequence of str
        Names of the images' channels.

    Returns
    -------
    tuple of str

    Raises
    ------
    MicrodlError
        If names leave a doubt about any channel of the model; says which, and what to do.
    """
    wanted = model.channels.names
    if not wanted:
        return tuple(channels)
    matched = match_channels(model.channels, channels)
    found = tuple(channel for channel in matched if channel is not None)
    if len(found) == len(wanted):
        return found
    missing = [name for name, channel in zip(wanted, matched, strict=True) if channel is None]
    some = ""
    if model.channels.subsets and found:
        there = ",".join(name for name in wanted if name not in missing)
        some = f", or take the model of those that are there, '{model.model_id}[{there}]'"
    raise MicrodlError(
        f"The model '{model.title}' reads the channels {', '.join(wanted)}, but by their names "
        f"none of the images' channels {', '.join(map(repr, channels))} is clearly its "
        f'{" or ".join(missing)}; set channels ("channels" in the file of settings) to those of '
        f"the images in the model's order{some}."
    )
