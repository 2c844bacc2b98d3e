"""Which layer of a model tells treated from control best, on the user's own fields."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.core.arrays import drawn_rows
from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.fields.intensity import IntensityScaling
from napari_microdl.metrics import probe_scores
from napari_microdl.models.base import TokenModel
from napari_microdl.pipeline.inputs import (
    Labels,
    check_fields,
    load_model_of,
    named_channels,
    tile_plan,
)
from napari_microdl.pipeline.stages import cells_of, measure_intensities, units_of_field
from napari_microdl.tokens import MemoryLimited, ScaledImage, TokenCache, embed_layers
from napari_microdl.tokens.units import pool

MOST_FOLDS = 5
# More make a fit longer and the scores hardly steadier.
MOST_UNITS = 20_000


def layer_scores(
    fields: Sequence[Field],
    config: PipelineConfig | None = None,
    layers: Sequence[int] | None = None,
    *,
    cache: TokenCache | None = None,
    most_units: int = MOST_UNITS,
) -> pd.DataFrame:
    """How well a linear probe tells treated units from controls in fields it has not seen.

    For every layer, units are pooled as in a run, and a logistic regression on standardised
    dimensions, in which both classes weigh the same, is fitted on some fields and judged on others.
    Fields of one well stay together.

    Parameters
    ----------
    fields : sequence of Field
        At least two control fields and two treated ones, from different wells.
    config : PipelineConfig, optional
        Model, site, channels, scaling, tiles and units; the defaults where not given. Its layer
        plays no part, and the position component is left in.
    layers : sequence of int, optional
        Which layers; all of the model where not given.
    cache : TokenCache, optional
        Where tokens are kept if the settings have it so; the usual place where not given.
    most_units : int, default=20_000
        Units that are drawn where there are more.

    Returns
    -------
    DataFrame with one row a layer, in ascending order
        ``layer``; ``auc`` and ``balanced_accuracy``, 0 to 1 with 0.5 for chance, means over the
        folds; ``auc_spread`` and ``balanced_accuracy_spread``, their standard deviations over the
        folds; ``n_folds`` and ``n_units``.

    Raises
    ------
    MicrodlError
        If there are too few fields to leave some out, or fields and settings do not fit together.

    Notes
    -----
    The paper chose its layers by the accuracy of linear probes (Donhauser et al. 2025).
    """
    config, task = config or PipelineConfig(), current_task()
    channels = check_fields(fields, config, fitting=False)
    folds = field_folds(fields)
    with task.stage("fields"):
        model = load_model_of(config, channels)
        depth = model.spec.depth
        layers = tuple(range(1, depth + 1)) if layers is None else tuple(sorted(set(layers)))
        for layer in layers:
            if not 1 <= layer <= depth:
                raise MicrodlError(
                    f"Layer {layer} does not exist: this model has layers 1 to {depth}."
                )
        channels = named_channels(channels, config, model.spec)
        measured = measure_intensities(fields, config, model.spec, channels)
    labels: list[Labels] = [None] * len(fields)
    if config.units.kind == "cell":
        with task.stage("cells"):
            for index, f in enumerate(fields):
                with task.step(index, len(fields), f"Finding cells in {f.name}"):
                    labels[index] = cells_of(f, config)
    cache = (cache or TokenCache()) if config.cache else None
    limited = MemoryLimited(model)
    pooled: dict[int, list[NDArray[np.float32]]] = {layer: [] for layer in layers}
    with task.stage("tokens"):
        for index, f in enumerate(fields):
            with task.step(index, len(fields), f"Reading {len(layers)} layers of {f.name}"):
                scaler = measured.scaler.of_field(index)
                samples = samples_of_layers(
                    f, scaler, limited, config, channels, layers, labels[index], cache=cache
                )
            for layer, vectors in samples.items():
                pooled[layer].append(vectors)

    n_units = [len(part) for part in pooled[layers[0]]]
    fold = np.repeat(folds, n_units)
    treated = np.repeat([not f.is_control for f in fields], n_units)
    chosen = drawn_rows(len(fold), most_units, config.random_state)
    rows = []
    with task.stage("dictionary"):
        for number, layer in enumerate(layers):
            message = f"Telling treated from control in layer {layer}"
            with task.step(number, len(layers), message):
                samples_of_layer = np.concatenate(pooled.pop(layer))[chosen]
                scores = probe_scores(samples_of_layer, treated[chosen], fold[chosen])
            rows.append(
                {
                    "layer": layer,
                    "auc": scores.auc,
                    "auc_spread": scores.auc_spread,
                    "balanced_accuracy": scores.balanced_accuracy,
                    "balanced_accuracy_spread": scores.spread,
                    "n_folds": scores.n_folds,
                    "n_units": scores.n_samples,
                }
            )
        task.progress(len(layers), len(layers), "Done")
    return pd.DataFrame(rows)


def samples_of_layers(
    field: Field,
    scaler: IntensityScaling,
    model: TokenModel,
    config: PipelineConfig,
    channels: tuple[str, ...],
    layers: tuple[int, ...],
    labels: Labels,
    *,
    cache: TokenCache | None = None,
) -> dict[int, NDArray[np.float32]]:
    """Mean tokens of every unit of one field, in several layers from one pass.

    Parameters
    ----------
    field, scaler, model, config, channels, cache
        As for `napari_microdl.pipeline.stages.tokens_of`.
    layers : tuple of int
        The layers.
    labels : ndarray of shape (height, width) or None
        Cells of the field.

    Returns
    -------
    dict of int to ndarray of shape (n_units, d)
    """
    grids = embed_layers(
        ScaledImage(field, scaler, 0, channels),
        model,
        tile_plan(model.spec, config),
        layers,
        site=config.tokens.site,
        channel_tokens=config.tokens.channel_tokens,
        orientations=config.tokens.orientations,
        batch_size=config.model.batch_size,
        cache=cache,
    )
    units = units_of_field(field, grids[layers[0]], labels, config)
    pooled = {}
    for layer, grid in grids.items():
        # Cells of a large image take a part of a second in every layer.
        current_task().check()
        pooled[layer] = pool(grid, units)
    return pooled


def best_layer(table: pd.DataFrame) -> int:
    """Layer of the highest AUC, the earliest of several; from the table of `layer_scores`."""
    return int(table["layer"][table["auc"].idxmax()])


def field_folds(fields: Sequence[Field]) -> NDArray[np.int64]:
    """Parts that fields are left out in, each with control and treated fields.

    Parameters
    ----------
    fields : sequence of Field
        Fields of one well stay together; one without a well stands for itself.

    Returns
    -------
    ndarray of shape (n_fields,)
        Number of the part, from 0; 2 to 5 parts.

    Raises
    ------
    MicrodlError
        If there are not two wells or fields of either kind.
    """
    wells: dict[tuple[str, str] | int, list[int]] = {}
    for index, f in enumerate(fields):
        wells.setdefault((f.plate, f.well) if f.well else index, []).append(index)
    # A well with a control field in it counts as control, whole.
    kinds: tuple[list[list[int]], list[list[int]]] = ([], [])
    for members in wells.values():
        kinds[not any(fields[i].is_control for i in members)].append(members)
    n_folds = min(MOST_FOLDS, *(len(kind) for kind in kinds))
    if n_folds < 2:
        raise MicrodlError(
            "Layers are compared on fields that the probe has not seen, which takes control fields "
            f"of at least two wells and treated fields of two others; there are {len(kinds[0])} "
            f"and {len(kinds[1])}. Add fields, or mark more of them as control."
        )
    folds = np.empty(len(fields), np.int64)
    for kind in kinds:
        for number, members in enumerate(kind):
            folds[members] = number % n_folds
    return folds
