"""Which model is read: what is known of it, on which channels, and what that takes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from typing import TYPE_CHECKING

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.text import duration, listed
from napari_microdl.gui.session.images import Images
from napari_microdl.gui.session.layers import is_lazy, plane_shape
from napari_microdl.gui.session.settings import RunSettings
from napari_microdl.models.base import terms_of
from napari_microdl.models.channels import match_channels
from napari_microdl.models.registry import (
    known_spec,
    model_spec,
    needs_weights,
    published_name,
    weights_pin,
)
from napari_microdl.pipeline.estimate import estimate_run, estimate_seconds
from napari_microdl.pipeline.inputs import joint_of

if TYPE_CHECKING:
    from napari_microdl.fields.field import Field
    from napari_microdl.models.base import ChannelRule, ModelSpec
    from napari_microdl.models.recipe import Joint
    from napari_microdl.pipeline.run import PipelineResult
    from napari_microdl.tokens.estimate import EmbeddingEstimate


# What a colour stands for: itself, as in RGB images, or what it shows by an old custom.
_COLOURS = ({"red": "red", "green": "green", "blue": "blue"}, {"blue": "DNA"})


class ModelChoice:
    """The model that the settings name.

    Attributes
    ----------
    channel_choices : dict of str to str
        Channel of the images by channel of the model, where a person has said so.
    """

    def __init__(self, images: Images, settings: RunSettings) -> None:
        self._images, self._settings = images, settings
        self.channel_choices: dict[str, str] = {}
        images.channel_renamed.connect(self._on_renamed)
        # Of one channel; the slowest run of each model, because stored tokens take no time.
        self._seconds_a_tile: dict[str, float] = {}
        # Operations a second; see `take_rate`.
        self._rate: float | None = None
        # Of all stages but the tokens, a tile, in the last run.
        self._seconds_beside = 0.0
        self._specs: dict[tuple[str, Joint], ModelSpec] = {}
        # Model, joint and channels of settings whose model has not been looked at yet.
        self._waiting: tuple[str, Joint, tuple[str, ...] | None] | None = None

    @property
    def joint(self) -> Joint:
        """How the model is asked to read channels, see `napari_microdl.models.recipe.Joint`."""
        used = [channel.name for channel in self._images.channels if channel.use]
        return joint_of(self._settings.config.model.joint, used)

    @property
    def spec(self) -> ModelSpec | None:
        """Facts about the chosen model; None while a file or folder has not been looked at."""
        key = (self._settings.config.model.name, self.joint)
        if key not in self._specs:
            known = known_spec(key[0], joint=key[1])
            if known is not None:
                self._specs[key] = known
        return self._specs.get(key)

    def asked_joint(self) -> bool | None:
        """The setting `joint` of a run: what is shown, where the model leaves the choice."""
        spec = self.spec
        if spec is not None and self.joint == "preferred" and spec.channels.either:
            return spec.channels.joint
        return self._settings.config.model.joint

    def terms(self) -> str:
        """What the weights that a run will use may be used for, as sentences.

        They are those of the dictionary's model where one is applied, and empty while a file or
        folder has not been looked at.
        """
        dictionary = self._settings.applied
        spec = self.spec if dictionary is None else dictionary.model
        if spec is None:
            return ""
        pin = ""
        # What is no place on the hub is refused by the run.
        with suppress(MicrodlError):
            pin = weights_pin(self._settings.shown_config().model.name)
        return f"{terms_of(spec)} {pin}".rstrip()

    def take_spec(self, model: str, joint: Joint, spec: ModelSpec) -> None:
        """Take in what was found in the file or folder of a model."""
        self._specs[model, joint] = spec
        config = self._settings.config
        if self._waiting == (model, joint, config.tokens.channels):
            self.take_channels()
        self._settings.changed.emit()

    def take_channels(self) -> bool:
        """Take the settings' channels for those that the model names, whatever they are called.

        False where the settings name none or not as many; of a file or folder they are taken once
        it has been looked at.
        """
        config, wanted = self._settings.config, self.channels()
        waits = self.spec is None
        self._waiting = (config.model.name, self.joint, config.tokens.channels) if waits else None
        if (
            not wanted
            or config.tokens.channels is None
            or len(wanted) != len(config.tokens.channels)
        ):
            return False
        self.channel_choices = dict(zip(wanted, config.tokens.channels, strict=True))
        return True

    def channels(self) -> dict[str, str | None]:
        """Channel of the images for each channel that the model names.

        It is what a person chose, or else what the names leave no doubt about, or the colours where
        the names say nothing; None where somebody has to say. Empty for a model that takes any
        channels.
        """
        spec = self.spec
        if spec is None or not spec.channels.names:
            return {}
        names = tuple(c.name for c in self._images.channels)
        matched = match_channels(spec.channels, names)
        matched = _by_colour(spec.channels, matched, self._images.channel_colours())
        found = dict(zip(spec.channels.names, matched, strict=True))
        chosen = {w: c for w, c in self.channel_choices.items() if w in found and c in names}
        return {**found, **chosen}

    def all_channels(self) -> tuple[str, ...]:
        """Every channel that the model names, with those that were left out."""
        published = published_name(self._settings.config.model.name)
        if self.spec is None or published is None or published.channels is None:
            return self.spec.channels.names if self.spec else ()
        return model_spec(published.model).channels.names

    def can_leave_out(self) -> bool:
        """Whether the model will do with fewer channels than it now has."""
        published = published_name(self._settings.config.model.name)
        if self.spec is None or published is None:
            return False
        subsets = model_spec(published.model).channels.subsets
        return subsets and len(self.spec.channels.names) > 1

    def used_channels(self) -> tuple[str, ...] | None:
        """Channels of the images that a run reads, in order; None for all as they come."""
        if mapped := self.channels():
            return tuple(name for name in mapped.values() if name is not None) or None
        channels = self._images.channels
        names = [c.name for c in channels]
        order = [n for n in self._settings.config.tokens.channels or () if n in names]
        order += [n for n in names if n not in order]
        used = tuple(n for n in order if channels[names.index(n)].use)
        # Where nothing is known of the model, an order that was asked for may not be that of all.
        asked = self.spec is None and self._settings.config.tokens.channels is not None
        return None if used == tuple(names) and not asked else used

    def _model_and_channels(self) -> tuple[ModelSpec, int] | None:
        """The model of the next run, and how many channels it will read."""
        dictionary = self._settings.applied
        if dictionary is not None:
            return dictionary.model, len(dictionary.spec.tokens.channels)
        if self.spec is None:
            return None
        return self.spec, len(self.used_channels() or self._images.channels)

    def token_width(self) -> int | None:
        """Numbers that a token has, its channels together; None while the model is not known."""
        known, config = self._model_and_channels(), self._settings.shown_config()
        if known is None:
            return None
        spec, n_channels = known
        several = spec.channels.n_token_channels(n_channels)
        return spec.dim * (several if config.tokens.channel_tokens == "concat" else 1)

    def _estimate(self) -> tuple[EmbeddingEstimate, ModelSpec, int] | None:
        """What a run will take, for which model, and how many channels."""
        known = self._model_and_channels()
        layers = [row.layer() for row in self._images.first_rows()]
        shapes = [plane_shape(layer) for layer in layers if layer is not None]
        if known is None or not shapes:
            return None
        spec, n_channels = known
        # One layer that is read from a file makes the fields of a run lazy.
        channels = [row.layer() for row in self._images.used_rows()]
        lazy = any(is_lazy(layer) for layer in channels if layer is not None)
        config = self._settings.shown_config()
        try:
            return estimate_run(shapes, n_channels, spec, config, lazy=lazy), spec, n_channels
        except MicrodlError:
            return None

    def expected_seconds(self) -> tuple[float, bool] | None:
        """How long a run will take, and whether that is all of it or the tokens alone.

        None where nothing is known: of a card before its first run, of a processor that has not
        been measured yet.
        """
        found, config = self._estimate(), self._settings.shown_config()
        if found is None:
            return None
        estimate, spec, n_channels = found
        measured = self._seconds_a_tile.get(config.model.name)
        if measured is not None:
            tiles = estimate.n_tiles
            return measured * tiles * n_channels + self._seconds_beside * tiles, True
        if self._rate is not None and config.model.device in ("auto", "cpu"):
            work = estimate.n_tiles, n_channels, spec, config
            return estimate_seconds(*work, rate=self._rate), False
        return None

    def cost(self) -> str:
        """What reading the tokens will take, as far as is known before the start."""
        found, config = self._estimate(), self._settings.shown_config()
        if found is None:
            return ""
        estimate, spec, n_channels = found
        sentence = f"{estimate}, beside the model."
        measured = self._seconds_a_tile.get(config.model.name)
        if measured is not None:
            seconds, by = measured * estimate.n_tiles * n_channels, "at the pace of the last run"
        elif self._rate is not None and config.model.device in ("auto", "cpu"):
            seconds = estimate_seconds(estimate.n_tiles, n_channels, spec, config, rate=self._rate)
            by = "on the processor, by its arithmetic"
        else:
            # How fast a card is shows with the first run.
            return sentence
        return f"{sentence} About {duration(seconds)} {by}, less where it was read before."

    def take_rate(self, rate: float) -> None:
        """Take in how fast the processor is, see `napari_microdl.pipeline.estimate`."""
        self._rate = rate
        self._settings.changed.emit()

    def _on_renamed(self, before: str, now: str) -> None:
        for wanted, chosen in self.channel_choices.items():
            if chosen == before:
                self.channel_choices[wanted] = now

    def choose_channel(self, wanted: str, channel: str) -> None:
        """Say which channel of the images is a channel of the model."""
        self.channel_choices[wanted] = channel
        shown = self.channels()
        if wanted not in shown:
            names = self.all_channels()
            self._use_channels([name for name in names if name in shown or name == wanted])
        self._settings.changed.emit()

    def leave_out(self, wanted: str) -> None:
        """Say that the images do not show a channel of the model; see `can_leave_out`."""
        self.channel_choices.pop(wanted, None)
        self._use_channels([name for name in self.channels() if name != wanted])

    def _use_channels(self, names: list[str]) -> None:
        published = published_name(self._settings.config.model.name)
        assert published is not None
        channels = None if tuple(names) == self.all_channels() else tuple(names)
        self._settings.configure(model=str(published._replace(channels=channels)))

    def problems(self) -> Generator[str, None, None]:
        """What has to be said before the model can run, as sentences."""
        spec = self.spec
        if spec is None or self._settings.apply_dictionary or not self._images.used_rows():
            return
        mapped = self.channels()
        missing = [wanted for wanted, channel in mapped.items() if channel is None]
        chosen = [channel for channel in mapped.values() if channel is not None]
        repeated = sorted({channel for channel in chosen if chosen.count(channel) > 1})
        used = sum(channel.use for channel in self._images.channels)
        most = spec.channels.most
        if missing:
            or_not = ", or that it is not in the images" if self.can_leave_out() else ""
            yield f"Say which channel of the images is {listed(missing, 11)}{or_not}."
        elif repeated:
            yield f"The channel {listed(repeated)} stands for two of the model's; choose others."
        elif not mapped and most is not None and used > most:
            yield f"{spec.title} takes at most {most} channels; untick some in step 1."
        if needs_weights(self._settings.config.model.name):
            yield (
                f"The weights of {spec.title} are not on the hub; get them from {spec.source} and "
                "choose their file."
            )

    def learn_speed(self, result: PipelineResult, fields: list[Field]) -> None:
        """Remember how long a run took the model."""
        spec = result.dictionary.spec
        tiles = sum(len(spec.plan.origins(field.shape)) for field in fields)
        spent = result.report["seconds"]
        seconds = spent["tokens"] / (tiles * len(spec.tokens.channels))
        self._seconds_beside = (sum(spent.values()) - spent["tokens"]) / tiles
        model = result.config.model.name
        self._seconds_a_tile[model] = max(seconds, self._seconds_a_tile.get(model, 0.0))


def _by_colour(
    rule: ChannelRule, matched: tuple[str | None, ...], colours: dict[str, str]
) -> tuple[str | None, ...]:
    """Channels that no name has given, by the colours in which they are shown."""
    for meaning in _COLOURS:
        free = {name: c for name, c in colours.items() if name not in matched and c in meaning}
        # Two of one colour stand for neither.
        named = {meaning[c]: n for n, c in free.items() if list(free.values()).count(c) == 1}
        again = match_channels(rule, tuple(named))
        matched = tuple(
            named[word] if known is None and word is not None else known
            for known, word in zip(matched, again, strict=True)
        )
    return matched
