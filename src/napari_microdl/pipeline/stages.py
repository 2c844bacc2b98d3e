"""The stages of a run: what is made of one field, and what is learned from all of them.

What is made of one field (`cells_of`, `tokens_of`, `vectors_of`) is given and returns what can be
pickled and knows of no other field, so that fields can be shared out among processes.
`napari_microdl.pipeline.run` puts the stages together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.concepts.activations import ConceptActivations, unit_table
from napari_microdl.concepts.dictionary import ConceptDictionary, DictionarySpec
from napari_microdl.core.config import Intensity, PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.estimators.icfl.starts import fit_steadiest
from napari_microdl.estimators.plates import (
    PlateReferences,
    fit_references,
    kind_for,
    moments_of,
)
from napari_microdl.estimators.shrinkage import fit_whitening
from napari_microdl.estimators.whitening import ControlWhitening, MomentSums
from napari_microdl.fields.field import Field, FieldInfo
from napari_microdl.fields.intensity import ChannelLimits, IntensityScaling
from napari_microdl.fields.labels import number_cells
from napari_microdl.fields.segmentation import segment_cells
from napari_microdl.metrics.background import BackgroundTest
from napari_microdl.models.base import ModelSpec, TokenModel
from napari_microdl.pipeline.inputs import Labels, layer_of, tile_plan
from napari_microdl.tokens import (
    ScaledImage,
    TilePlan,
    TokenCache,
    TokenGrid,
    TokenStorage,
    check_wants,
    embed_field,
)
from napari_microdl.tokens.positions import PositionComponent, left_out_share, position_share
from napari_microdl.tokens.spread import measure_spread, place_scales
from napari_microdl.tokens.units import (
    Units,
    background_squares,
    far_patches,
    pool,
    units_of,
)

# With fewer, a place's mean is largely the image itself.
LEAST_TOKENS_PER_PLACE = 4.0
# Samples whitened between two looks whether to go on, and units coded, which takes a second or so.
_WHITENED_ROWS = 8192
_CODED_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Intensities:
    """What has to be known before the first tile is read.

    Parameters
    ----------
    channels : tuple of str
        Channels that the model sees.
    plan : TilePlan
        How fields are cut.
    scaler : IntensityScaling
        Fitted on the fields.
    """

    channels: tuple[str, ...]
    plan: TilePlan
    scaler: IntensityScaling


@dataclass(frozen=True, eq=False)
class Tokens:
    """Tokens of every field.

    Parameters
    ----------
    grids : list of TokenGrid
        Without their position component, where the settings have it so.
    position : PositionComponent or None
        What was removed.
    share : dict of str to float
        Share of the variance of tokens that their place in the tile explains, before and after.
    channels : tuple of str
        Channels that the model saw.
    plan : TilePlan
        How fields were cut.
    model : ModelSpec
        The model.
    device : str
        Where it ran.
    limits : list of ChannelLimits
        Measured intensities, one entry a field and channel.
    notes : tuple of str
        What a user should know.
    order : ndarray of shape (n_fields,)
        Numbers of the fields in the order in which they are learned from, see `order_by_content`.
    """

    grids: list[TokenGrid]
    position: PositionComponent | None
    share: dict[str, float]
    channels: tuple[str, ...]
    plan: TilePlan
    model: ModelSpec
    device: str
    limits: list[ChannelLimits]
    notes: tuple[str, ...]
    order: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class FieldBackground:
    """The background of one field.

    Parameters
    ----------
    mean : ndarray of shape (d,)
        Mean vector of squares of it, pooled as cells are: what a whitening may know. NaN where
        there are no cells, or they leave no room.
    far : ndarray of shape (d,)
        Mean token of what is farther from all cells than a cell's radius; NaN where nothing is.
    share : float
        How much of the field that is, 0 to 1; NaN where there are no cells.
    cover : float
        How much of it is covered by cells.
    """

    mean: NDArray[np.float32]
    far: NDArray[np.float32]
    share: float
    cover: float


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples of every field.

    Parameters
    ----------
    geometry : list of Units
        Units of every field.
    vectors : ndarray of shape (n_units, d)
        Means or spreads of their tokens.
    order : ndarray of shape (n_fields,)
        As in `Tokens`.
    scales : ndarray of shape (n_places, d), or None
        What distances of tokens were divided by.
    backgrounds : list of FieldBackground, or None
        Of every field; None where the settings do not want them.
    """

    geometry: list[Units]
    vectors: NDArray[np.float32]
    order: NDArray[np.int64]
    scales: NDArray[np.float32] | None = None
    backgrounds: list[FieldBackground] | None = None

    def of_field(self) -> NDArray[np.int64]:
        """Number of the field of every unit, shape (n_units,)."""
        counts = [len(units) for units in self.geometry]
        return np.repeat(np.arange(len(counts), dtype=np.int64), counts)

    def is_control(self, fields: Sequence[Field]) -> NDArray[np.bool_]:
        """Whether every unit lies in a control field, shape (n_units,)."""
        return np.array([f.is_control for f in fields], bool)[self.of_field()]

    def plates(self, fields: Sequence[Field]) -> NDArray[np.str_]:
        """Plate of every unit, shape (n_units,)."""
        return np.array([f.plate for f in fields], np.str_)[self.of_field()]

    def in_order(self) -> NDArray[np.int64]:
        """Rows of all units in the order in which they are learned from, shape (n_units,)."""
        return np.argsort(np.argsort(self.order)[self.of_field()], kind="stable")


@dataclass(frozen=True, eq=False)
class Whitened:
    """Samples in the space in which concepts are learned.

    Parameters
    ----------
    whitening : ControlWhitening or None
        Fitted on the controls.
    vectors : ndarray of shape (n_units, k)
        Whitened samples.
    notes : tuple of str
        What a user should know.
    nuisance : ndarray of shape (d, d), or None
        What was added to the covariance of the controls, or would have been with other conditions.
    plates : PlateReferences or None
        What the samples of each plate were brought to those of all by.
    background : BackgroundTest or None
        What decided whether the nuisance was added; None where the settings did.
    """

    whitening: ControlWhitening | None
    vectors: NDArray[np.float32]
    notes: tuple[str, ...] = ()
    nuisance: NDArray[np.float64] | None = None
    plates: PlateReferences | None = None
    background: BackgroundTest | None = None


@dataclass(frozen=True, eq=False)
class Learned:
    """A dictionary that was learned.

    Parameters
    ----------
    dictionary : ConceptDictionary
        With all that is needed to apply it, but not yet where it came from.
    notes : tuple of str
        What a user should know.
    """

    dictionary: ConceptDictionary
    notes: tuple[str, ...]


# Of one field --------------------------------------------------------------------------------


def cells_of(field: Field, config: PipelineConfig) -> Labels:
    """Cells of one field, its own or found by the built-in segmentation.

    Parameters
    ----------
    field : Field
        The field.
    config : PipelineConfig
        Its units and cells are used.

    Returns
    -------
    ndarray of shape (height, width) or None
        None where the unit is no cell. What was made of labels that are odd is noted.
    """
    if config.units.kind != "cell":
        return None
    if field.labels is not None:
        labels, note = number_cells(np.asarray(field.labels))
        if note:
            current_task().note(f"Field '{field.name}': {note}")
        return labels
    name = config.cells.channel
    channel = field.channel_indices((name,) if name else None)[0]
    return segment_cells(field.read((channel,))[0], config.cells)


def tokens_of(
    field: Field,
    scaler: IntensityScaling,
    model: TokenModel,
    config: PipelineConfig,
    channels: tuple[str, ...],
    *,
    cache: TokenCache | None = None,
    storage: TokenStorage | None = None,
) -> TokenGrid:
    """Tokens of one field, as the model gives them.

    Parameters
    ----------
    field : Field
        The field.
    scaler : IntensityScaling
        That of this field alone (`IntensityScaling.of_field`).
    model : TokenModel
        Frozen encoder.
    config : PipelineConfig
        Its tokens are used, and the batch size.
    channels : tuple of str
        Channels that the model sees.
    cache : TokenCache, optional
        Where tokens seen before are kept.
    storage : TokenStorage, optional
        Where the grid is kept, with others of the same run.

    Returns
    -------
    TokenGrid
    """
    return embed_field(
        ScaledImage(field, scaler, 0, channels),
        model,
        tile_plan(model.spec, config),
        layer=layer_of(model.spec, config),
        site=config.tokens.site,
        channel_tokens=config.tokens.channel_tokens,
        orientations=config.tokens.orientations,
        batch_size=config.model.batch_size,
        cache=cache,
        storage=storage,
    )


def units_of_field(field: Field, grid: TokenGrid, labels: Labels, config: PipelineConfig) -> Units:
    """Units of one field.

    Parameters
    ----------
    field : Field
        The field.
    grid : TokenGrid
        Its tokens, of which only the geometry is used.
    labels : ndarray of shape (height, width) or None
        Its cells.
    config : PipelineConfig
        Its units are used.

    Returns
    -------
    Units

    Raises
    ------
    MicrodlError
        If there are none; says in which field.
    """
    units = config.units
    try:
        return units_of(
            grid,
            units.kind,
            labels=labels,
            crop_size=units.crop_size,
            crop_stride=units.crop_stride,
        )
    except MicrodlError as error:
        raise MicrodlError(f"Field '{field.name}': {error}") from error


def vectors_of(
    grid: TokenGrid,
    units: Units,
    config: PipelineConfig,
    scales: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Mean, or spread, of the tokens of every unit of one field, as the settings have it.

    Parameters
    ----------
    grid : TokenGrid
        Its tokens.
    units : Units
        Its units.
    config : PipelineConfig
        Its units are used.
    scales : ndarray of shape (n_places, d), optional
        As `scales_of` gives them.

    Returns
    -------
    ndarray of shape (n_units, d)
    """
    if config.units.pooled_by == "spread":
        return measure_spread(grid, units, scales).vectors
    return pool(grid, units)


def background_of(
    grid: TokenGrid,
    units: Units,
    config: PipelineConfig,
    scales: NDArray[np.float32] | None = None,
) -> FieldBackground:
    """Background of one field.

    Parameters
    ----------
    grid, units, config, scales
        As for `vectors_of`.

    Returns
    -------
    FieldBackground
    """
    mean, far = (np.full(grid.tokens.shape[-1], np.nan, np.float32) for _ in range(2))
    if not len(units):
        return FieldBackground(mean, far, np.nan, 0.0)
    squares, patches = background_squares(grid, units), far_patches(grid, units)
    if len(squares):
        mean = np.asarray(vectors_of(grid, squares, config, scales).mean(0), np.float32)
    if patches.any():
        sums = [tokens[patches[rows]].sum(0, dtype=np.float64) for rows, tokens in grid.bands()]
        far = np.asarray(np.sum(sums, axis=0) / patches.sum(), np.float32)
    cover = float(units.weights.sum() / np.prod(grid.image_shape))
    return FieldBackground(mean, far, float(patches.mean()), cover)


# Over all fields -----------------------------------------------------------------------------


def device_of(model: TokenModel) -> str:
    """Where a model runs: "cpu", "cuda" or "mps"."""
    return str(getattr(model, "device", "cpu"))


def measure_intensities(
    fields: Sequence[Field],
    config: PipelineConfig,
    model: ModelSpec,
    channels: tuple[str, ...],
    curve: Intensity | None = None,
) -> Intensities:
    """Measure intensities, after checking that the model takes channels and tiles.

    The curve is that of a dictionary which is applied; the model's where not given.
    """
    plan = tile_plan(model, config)
    check_wants(model, plan, len(channels))
    scaler = IntensityScaling(config.tokens.scaling, curve=curve or model.intensity)
    return Intensities(channels, plan, scaler.fit(fields, channels))


def remove_position(
    tokens: Tokens, config: PipelineConfig, dictionary: ConceptDictionary | None = None
) -> Tokens:
    """Take off what tokens owe to their place in the tile.

    The grids are replaced one by one, so that large ones are not there twice. What a dictionary
    that is applied removes is removed; without one the settings say whether a component is fitted.
    """
    task, grids, notes = current_task(), tokens.grids, list(tokens.notes)
    n_steps, message = len(grids) + 2, "Removing what tokens owe to their place in the tile"
    places = tokens.plan.tile_tokens**2
    ordered = [grids[number] for number in tokens.order]
    with task.step(0, n_steps, message):
        share = {"token_position_share": position_share(ordered)}
    position = None if dictionary is None else dictionary.position
    if dictionary is None and config.tokens.remove_position:
        per_place = _tokens_per_place(grids)
        if per_place < LEAST_TOKENS_PER_PLACE:
            notes.append(few_tokens(per_place))
        else:
            with task.step(1, n_steps, message):
                position = PositionComponent.fit(ordered, places)
            with task.step(2, n_steps, message):
                share["token_position_share_after"] = left_out_share(ordered, places)
    # What is replaced is let go of.
    del ordered
    if position is not None:
        for index, grid in enumerate(grids):
            with task.step(index + 2, n_steps, message):
                grids[index] = position.remove(grid)
    return dataclasses.replace(tokens, position=position, share=share, notes=tuple(notes))


def few_tokens(per_place: float) -> str:
    """Why what tokens owe to their place in the tile was not taken off."""
    return (
        f"There are only {per_place:.1f} tokens for each place in a tile, too few to tell the "
        "place from the image: the position component was left in; use more or larger fields."
    )


def scales_of(
    tokens: Tokens,
    geometry: Sequence[Units],
    config: PipelineConfig,
    dictionary: ConceptDictionary | None = None,
) -> NDArray[np.float32] | None:
    """What distances of tokens are divided by at each place of a tile, see `place_scales`.

    Those of a dictionary that is applied are taken; there are none for means, or where the place
    could not be told from the image.
    """
    if dictionary is not None:
        return None if dictionary.position is None else dictionary.position.scales
    if tokens.position is None or config.units.pooled_by != "spread":
        return None
    grids, units = ([of[number] for number in tokens.order] for of in (tokens.grids, geometry))
    return place_scales(grids, units, tokens.plan.tile_tokens**2)


def _tokens_per_place(grids: list[TokenGrid]) -> float:
    places = np.unique(np.concatenate([np.unique(g.position) for g in grids]))
    return sum(g.position.size for g in grids) / len(places)


def whiten(fields: Sequence[Field], config: PipelineConfig, samples: Samples) -> Whitened:
    """Whiten samples on the controls (paper, section 3.1); without a whitening they stay."""
    if not config.whitening.enabled:
        return Whitened(None, samples.vectors)
    task, is_control = current_task(), samples.is_control(fields)
    n_controls = f"{int(is_control.sum())} control {config.units.kind}s"
    with task.step(0, 1, f"Whitening on {n_controls}"), task.taking_notes() as notes:
        settings, order = config.whitening, samples.in_order()
        usable = [f for f, units in zip(fields, samples.geometry, strict=True) if len(units)]
        kind = kind_for(settings.plates, [f.plate for f in usable], [f.is_control for f in usable])
        plates = None
        if kind != "together":
            plates = fit_references(plate_moments(fields, samples), kind)
        aligned = align_samples(fields, samples, plates)
        controls = order[is_control[order]]
        sums = _background_sums(fields, samples, plates)
        test = background_test(samples.backgrounds or [], [f.info for f in fields], config)
        nuisance, taken_off = nuisance_of(sums, config, len(fields), test)
        whitening = fit_whitening(
            aligned.vectors[controls],
            samples.of_field()[controls],
            settings.n_components,
            settings.shrinkage,
            nuisance if taken_off else None,
        )
        if settings.shrinkage is None:
            task.note(
                f"{n_controls} with {samples.vectors.shape[1]} dimensions: the whitening is shrunk "
                f"by {whitening.shrinkage:g} times the median eigenvalue."
            )
        vectors = in_space_of(whitening, aligned)
    return Whitened(whitening, vectors, tuple(notes), nuisance, plates, test)


def _background_sums(
    fields: Sequence[Field], samples: Samples, plates: PlateReferences | None
) -> MomentSums:
    """Sums over the backgrounds of all fields, those of each plate brought to those of all."""
    backgrounds, sums = samples.backgrounds, MomentSums(samples.vectors.shape[1])
    if backgrounds is not None:
        means = np.stack([background.mean for background in backgrounds])
        known = samples.order[~np.isnan(means[samples.order, 0])]
        ordered = means[known]
        if plates is not None:
            ordered = plates.align_rows(ordered, np.array([f.plate for f in fields])[known])
        sums.add(ordered)
    return sums


def background_test(
    backgrounds: Sequence[FieldBackground], fields: Sequence[FieldInfo], config: PipelineConfig
) -> BackgroundTest | None:
    """What decides whether the background is taken off; None where the settings do.

    Parameters
    ----------
    backgrounds : sequence of FieldBackground
        Of every field.
    fields : sequence of FieldInfo
        What is known of them.
    config : PipelineConfig
        Its whitening is used.

    Returns
    -------
    BackgroundTest or None
    """
    if not config.wants_background or config.whitening.background_weight != "auto":
        return None
    return BackgroundTest.of(
        np.stack([background.far for background in backgrounds]),
        np.array([background.share for background in backgrounds]),
        np.array([background.cover for background in backgrounds]),
        np.array([field.condition for field in fields], np.str_),
        np.array([field.is_control for field in fields], bool),
        np.array([field.well for field in fields], np.str_),
        np.array([field.plate for field in fields], np.str_),
    )


def nuisance_of(
    sums: MomentSums, config: PipelineConfig, n_fields: int, test: BackgroundTest | None = None
) -> tuple[NDArray[np.float64] | None, bool]:
    """Covariance that the whitening adds to that of the controls, see `WhiteningConfig`.

    Parameters
    ----------
    sums : MomentSums
        Over the backgrounds of the fields that have one, as `background_of` gives them.
    config : PipelineConfig
        Its whitening is used.
    n_fields : int
        All fields.
    test : BackgroundTest, optional
        What decides whether it is added; what it decides is noted.

    Returns
    -------
    covariance : ndarray of shape (d, d), or None
        None where it is not wanted; and, which is noted, of crops and tokens and where fewer than
        two fields have a background.
    taken_off : bool
        Whether it is added.
    """
    if not config.wants_background:
        if config.whitening.enabled and config.background_weight > 0:
            kind = config.units.kind
            samples = "means of cells" if kind == "cell" else f"{kind}s"
            current_task().note(
                f"The background is looked at for spreads of cells; here are {samples}, so it was "
                "left in."
                if config.whitening.background_weight == "auto"
                else f"Only cells have a background, so none was taken off {samples}."
            )
        return None, False
    if test is not None:
        decision = test.decide()
        current_task().note(decision.sentence)
        covariance = None
        if sums.count > 1:
            covariance = config.background_weight * sums.scatter / (sums.count - 1)
        return covariance, decision.taken_off and covariance is not None
    if sums.count < 2:
        current_task().note(
            f"Of {n_fields} fields {sums.count} have a background without cells, so it could not "
            "be taken off: the whitening knows the controls alone."
        )
        return None, False
    if sums.count < n_fields:
        current_task().note(
            f"The background was measured in {sums.count} of {n_fields} fields; in the others "
            "there are no cells, or they leave no room."
        )
    return config.background_weight * sums.scatter / (sums.count - 1), True


def plate_moments(fields: Sequence[Field], samples: Samples) -> dict[str, MomentSums]:
    """Sums over the controls of every plate, in the order of learning."""
    order, is_control = samples.in_order(), samples.is_control(fields)
    return moments_of(samples.vectors[order], samples.plates(fields)[order], is_control[order])


def align_samples(
    fields: Sequence[Field], samples: Samples, plates: PlateReferences | None
) -> Samples:
    """The samples of each plate brought to those of all; as they are where plates are."""
    if plates is None:
        return samples
    aligned = plates.align_rows(samples.vectors, samples.plates(fields))
    return dataclasses.replace(samples, vectors=aligned)


def in_space_of(whitening: ControlWhitening | None, samples: Samples) -> NDArray[np.float32]:
    """Whitened samples, (n_units, k); in the order of learning, so that they are always the same.

    The last digits of a product depend on the place of a row in its block.
    """
    if whitening is None:
        return samples.vectors
    vectors = np.empty((len(samples.vectors), len(whitening.components_)), np.float32)
    order = samples.in_order()
    for start in range(0, len(vectors), _WHITENED_ROWS):
        current_task().check()
        rows = order[start : start + _WHITENED_ROWS]
        vectors[rows] = whitening.transform(samples.vectors[rows])
    return vectors


def learn(
    fields: Sequence[Field],
    config: PipelineConfig,
    tokens: Tokens,
    samples: Samples,
    whitened: Whitened,
) -> Learned:
    """Learn a dictionary from whitened samples (paper, section 3.2)."""
    order = samples.in_order()
    controls = None
    if config.dictionary.control_atoms is not None:
        controls = samples.is_control(fields)[order]
    icfl, notes = learn_atoms(whitened.vectors[order], config, controls)
    spec = DictionarySpec.of(
        tokens.model, config.tokens, config.units, tokens.plan, tokens.channels
    )
    position = tokens.position
    if position is not None:
        position = PositionComponent(position.offsets, position.basis, samples.scales)
    dictionary = ConceptDictionary(spec, icfl, whitened.whitening, position, plates=whitened.plates)
    return Learned(dictionary, notes)


def learn_atoms(
    x: NDArray[np.float32], config: PipelineConfig, controls: NDArray[np.bool_] | None = None
) -> tuple[ICFL, tuple[str, ...]]:
    """Learn the atoms of a dictionary.

    Parameters
    ----------
    x : ndarray of shape (n_samples, k)
        Whitened samples.
    config : PipelineConfig
        Its dictionary and seed are used.
    controls : ndarray of bool, shape (n_samples,), optional
        Which are controls, where the settings ask for atoms of their own for these.

    Returns
    -------
    icfl : ICFL
        Fitted.
    notes : tuple of str
        What a user should know.
    """
    task, settings = current_task(), dict(config.dictionary)
    n_starts = settings.pop("n_starts")
    with task.taking_notes() as notes:
        icfl = fit_steadiest(
            ICFL(**settings),
            x,
            config.random_state,
            n_starts,
            controls=controls,
            message="Fitting the dictionary",
        )
        if settings["n_atoms"] is None:
            task.note(
                f"{len(x)} {config.units.kind}s: a dictionary of {icfl.n_atoms_} atoms with at "
                f"most {icfl.n_iterations_} x {icfl.atoms_per_iteration_} active was chosen."
            )
    # What is to be known of the samples is told by every start.
    return icfl, tuple(dict.fromkeys(notes))


def encode(
    fields: Sequence[Field],
    tokens: Tokens,
    samples: Samples,
    vectors: NDArray[np.float32],
    dictionary: ConceptDictionary,
) -> ConceptActivations:
    """Code every unit, and rank the concepts; `vectors` are in the space of the dictionary."""
    task, n = current_task(), len(vectors)
    parts = []
    for start in range(0, n, _CODED_ROWS):
        task.progress(start, n, f"Encoding {n} {dictionary.spec.units.kind}s")
        parts.append(dictionary.icfl.transform(vectors[start : start + _CODED_ROWS]))
    activations = ConceptActivations(
        units=unit_table(fields, samples.geometry),
        codes=parts[0] if len(parts) == 1 else sparse.csr_array(sparse.vstack(parts)),
        vectors=vectors,
        dictionary=dictionary,
        grids=tokens.grids,
        geometry=samples.geometry,
    )
    with task.step(1, 1, "Ranking concepts"):
        _ = activations.ranking
    return activations
