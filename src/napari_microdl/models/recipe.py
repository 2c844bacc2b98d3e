"""All that is needed to run a published model but its weights, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from napari_microdl.core.config import Intensity
from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.base import ChannelRule, ModelSpec
from napari_microdl.models.vit.config import Preprocessing, VitConfig
from napari_microdl.models.weights.hub import HubSource
from napari_microdl.models.weights.keys import KeyMap

RGB_TOGETHER = ChannelRule(names=("R", "G", "B"), joint=True, least=3, most=3)
ONE_BY_ONE = ChannelRule()
# Channels together, one by one, as the model's rule says (None), or together where that leaves a
# choice.
Joint = bool | Literal["preferred"] | None


class Shape(Protocol):
    """What `describe` asks of the shape of a network."""

    @property
    def dim(self) -> int:
        """Width of a token."""

    @property
    def depth(self) -> int:
        """Number of transformer blocks."""

    @property
    def patch_size(self) -> int:
        """Edge of a square patch in pixels."""


def rule_of_channels(in_channels: int) -> ChannelRule:
    """Rule for a network of unnamed channels that its tokenizer reads at once.

    Three are taken for the colours of photographs, and may go in one by one as grey images.
    """
    if in_channels == 3:
        return replace(ONE_BY_ONE, either=True)
    if in_channels == 1:
        return ONE_BY_ONE
    return ChannelRule(joint=True, least=in_channels, most=in_channels)


def rule_taking(spec: ModelSpec, joint: Joint) -> ChannelRule:
    """Rule of a model with its channels together, one by one, or as it is (None).

    With "preferred" they go together where the model leaves a choice.

    Raises
    ------
    MicrodlError
        If the model leaves no choice.
    """
    rule = spec.channels
    if joint == "preferred":
        joint = True if rule.either else None
    if joint is None or joint == rule.joint:
        return rule
    if not rule.either:
        how = "together" if rule.joint else "one by one"
        raise MicrodlError(f"{spec.title} always reads its channels {how}; leave `joint` out.")
    return replace(RGB_TOGETHER if joint else ONE_BY_ONE, either=True)


@dataclass(frozen=True)
class Recipe:
    """How weights become a model.

    Parameters
    ----------
    spec : ModelSpec
        What a user is shown.
    config : VitConfig
        Shape of the network.
    keys : KeyMap
        Names of the weights.
    preprocessing : Preprocessing
        From scaled tiles to model input.
    rgb : bool, default=False
        Whether it was trained on RGB images, so that channels go in as three together or one by
        one as grey images.
    hub : HubSource, optional
        Where to fetch it.
    alternative : Recipe, optional
        The same model under the names of other files, as of the code that it was trained with.
    picked : tuple of int, optional
        Channels used of those that the weights know, see `only`; all where not given.
    model_type : str, default=""
        What the ``config.json`` of its folder calls it, if that is no type of transformers.
    """

    spec: ModelSpec
    config: VitConfig
    keys: KeyMap
    preprocessing: Preprocessing
    rgb: bool = False
    hub: HubSource | None = None
    alternative: Recipe | None = None
    picked: tuple[int, ...] | None = None
    model_type: str = ""

    def __post_init__(self) -> None:
        named = bool(self.spec.channels.names)
        subsets = self.config.channel_embeddings and named and self.picked is None
        channels = replace(self.spec.channels, either=self.rgb, subsets=subsets)
        if channels != self.spec.channels:
            object.__setattr__(self, "spec", replace(self.spec, channels=channels))

    def taking(self, joint: Joint) -> Recipe:
        """The same with channels together, one by one, or as it is; see `rule_taking`."""
        rule = rule_taking(self.spec, joint)
        if rule is self.spec.channels:
            return self
        other = None if self.alternative is None else self.alternative.taking(joint)
        return replace(self, spec=replace(self.spec, channels=rule), alternative=other)

    def only(self, names: Sequence[str]) -> Recipe:
        """The same for some of the channels that it names, in the order given.

        The patches of a channel are told apart by its learned code alone, so that those of others
        can be left out (Bao et al. 2024, hierarchical channel sampling).

        Parameters
        ----------
        names : sequence of str
            Some of `ChannelRule.names`, whatever their capitals.

        Raises
        ------
        MicrodlError
            If the model needs all of its channels, or has none of that name.
        """
        rule = self.spec.channels
        if not rule.subsets:
            raise MicrodlError(f"{self.spec.title} cannot run on some of its channels; name none.")
        known = [name.lower() for name in rule.names]
        wanted = [name.strip().lower() for name in names]
        if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(known):
            raise MicrodlError(
                f"'{', '.join(names)}' are no channels of {self.spec.title}; name one or more of "
                f"{', '.join(rule.names)}, each once."
            )
        picked = tuple(known.index(name) for name in wanted)
        if picked == tuple(range(len(known))):
            return self
        used = tuple(rule.names[i] for i in picked)
        constants = self.preprocessing.mean, self.preprocessing.std
        mean, std = (c if len(c) == 1 else tuple(c[i] for i in picked) for c in constants)
        spec = replace(
            self.spec,
            model_id=f"{self.spec.model_id}[{','.join(used)}]",
            title=f"{self.spec.title}, of these {', '.join(used)}",
            channels=replace(rule, names=used, least=len(used), most=len(used)),
        )
        preprocessing = replace(self.preprocessing, mean=mean, std=std)
        return replace(self, spec=spec, preprocessing=preprocessing, picked=picked)

    def forms(self) -> tuple[Recipe, ...]:
        """Itself and its alternative, if there is one."""
        return (self,) if self.alternative is None else (self, self.alternative)


def describe(
    config: Shape,
    *,
    model_id: str,
    title: str,
    tile_size: int,
    licence: str,
    source: str,
    non_commercial: bool | None = None,
    channels: ChannelRule = ONE_BY_ONE,
    intensity: Intensity = "linear",
    fixed_tile: bool = False,
    default_layer: int | None = None,
) -> ModelSpec:
    """Facts about a model of that shape.

    Returns
    -------
    ModelSpec
        Read two thirds up unless told otherwise: about where the paper read its two models. The
        best layer has to be found on the images at hand.
    """
    return ModelSpec(
        model_id=model_id,
        title=title,
        patch_size=config.patch_size,
        dim=config.dim,
        depth=config.depth,
        default_layer=default_layer or max(1, round(2 / 3 * config.depth)),
        tile_size=tile_size,
        weights_sha256="",
        licence=licence,
        source=source,
        non_commercial=non_commercial,
        channels=channels,
        intensity=intensity,
        fixed_tile=fixed_tile,
    )
