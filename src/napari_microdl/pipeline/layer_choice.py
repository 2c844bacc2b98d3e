"""Which layer of a model tells treated from control best, on the user's own fields."""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.stepping import retold
from napari_microdl.fields.field import Field
from napari_microdl.fields.intensity import IntensityScaling
from napari_microdl.metrics import iter_probe_scores
from napari_microdl.pipeline.channels import named_channels
from napari_microdl.pipeline.reading import iter_scale
from napari_microdl.pipeline.run import Progress, check_fields, iter_load, iter_segment
from napari_microdl.tokens import (
    BackingOff,
    ScaledImage,
    TilePlan,
    TokenCache,
    TokenStorage,
    check_wants,
    embed_layers,
)
from napari_microdl.tokens.units import pool, units_of

MOST_FOLDS = 5
# More make a fit longer and the scores hardly steadier.
_MOST_UNITS = 20_000


def iter_layer_scores(
    fields: Sequence[Field],
    config: PipelineConfig | None = None,
    layers: Sequence[int] | None = None,
    *,
    cache: TokenCache | None = None,
) -> Generator[Progress, None, pd.DataFrame]:
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

    Yields
    ------
    Progress
        Stop iterating to cancel.

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
    config = config or PipelineConfig()
    channels = check_fields(fields, config, fitting=False)
    folds = field_folds(fields)
    model = yield from iter_load(config, channels)
    depth = model.spec.depth
    layers = tuple(range(1, depth + 1)) if layers is None else tuple(sorted(set(layers)))
    for layer in layers:
        if not 1 <= layer <= depth:
            raise MicrodlError(f"Layer {layer} does not exist: this model has layers 1 to {depth}.")
    channels = named_channels(channels, config, model.spec)
    plan = TilePlan(
        model.spec.patch_size, config.tokens.tile_size or model.spec.tile_size, config.tokens.halo
    )
    check_wants(model.spec, plan, len(channels))
    scaler = IntensityScaling(config.tokens.scaling, curve=model.spec.intensity)
    yield from iter_scale(fields, scaler, channels)
    labels = yield from iter_segment(fields, config)

    model = BackingOff(model)
    cache = (cache or TokenCache()) if config.cache else None
    counts = [len(plan.origins(f.shape)) for f in fields]
    before = 0
    pooled: dict[int, list[NDArray[np.float32]]] = {layer: [] for layer in layers}
    for index, f in enumerate(fields):
        steps = embed_layers(
            ScaledImage(f, scaler, index, channels),
            model,
            plan,
            layers,
            site=config.tokens.site,
            channel_tokens=config.tokens.channel_tokens,
            batch_size=config.model.batch_size,
            cache=cache,
            # Pooled and dropped before the next field.
            storage=TokenStorage(),
        )
        while True:
            try:
                done = next(steps)
            except StopIteration as finished:
                grids = finished.value
                break
            yield Progress(
                "embed", before + done, sum(counts), f"Reading {len(layers)} layers of {f.name}"
            )
        before += counts[index]
        # Cells of a large image take a part of a second, and so do those of every layer.
        yield Progress("embed", before, sum(counts), f"Averaging tokens in {f.name}")
        units = units_of(
            grids[layers[0]],
            config.units.kind,
            labels=labels[index],
            crop_size=config.units.crop_size,
            crop_stride=config.units.crop_stride,
        )
        for layer, grid in grids.items():
            yield Progress("embed", before, sum(counts), f"Averaging tokens in {f.name}")
            pooled[layer].append(pool(grid, units))

    n_units = [len(part) for part in pooled[layers[0]]]
    fold = np.repeat(folds, n_units)
    treated = np.repeat([not f.is_control for f in fields], n_units)
    chosen = _some(len(fold), config.random_state)
    rows = []
    for number, layer in enumerate(layers):
        message = f"Telling treated from control in layer {layer}"
        yield Progress("fit", number, len(layers), message)
        vectors = np.concatenate(pooled.pop(layer))[chosen]
        told = Progress("fit", number, len(layers), message)
        trials = iter_probe_scores(vectors, treated[chosen], fold[chosen])
        scores = yield from retold(trials, told)
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
    yield Progress("fit", len(layers), len(layers), "Done")
    return pd.DataFrame(rows)


def best_layer(table: pd.DataFrame) -> int:
    """Layer of the highest AUC, the earliest of several; from the table of `iter_layer_scores`."""
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


def _some(n: int, seed: int) -> NDArray[np.int64]:
    """Rows of at most so many units, in order."""
    if n <= _MOST_UNITS:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, _MOST_UNITS, replace=False))
