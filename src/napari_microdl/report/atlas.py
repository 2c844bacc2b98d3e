"""All concepts of a run as one HTML file to send to a colleague: a card a concept."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from PIL import Image

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.painting import window_at
from napari_microdl.concepts.pictures import Contrast, shared_contrast
from napari_microdl.concepts.wells import Wells, plate_format, wells_of
from napari_microdl.core.task import current_task
from napari_microdl.core.text import counted
from napari_microdl.fields.field import Field
from napari_microdl.fields.metadata import row_letters
from napari_microdl.report.cell_pictures import (
    followed_channel,
    picture_edge,
    picture_of,
    require_images,
    strongest_units,
    typical_units,
)
from napari_microdl.report.concept_summary import (
    WELLS_RULE,
    ConceptSummary,
    percent,
    summarize_concept,
)
from napari_microdl.report.html import page_of
from napari_microdl.report.plate_map import COLOURS
from napari_microdl.report.results import EvaluationReport, technical_concepts
from napari_microdl.report.text import value_text

MOST_CONCEPTS = 256
MOST_BYTES = 15_000_000
_IN_A_ROW = 6
_PIXELS = 96
_QUALITY = 82
_BINS = 32
_LEVELS = 10
_MOST_PLATES = 4
# Of a card without its pictures, and of the page without its cards.
_BYTES_OF_TEXT, _BYTES_OF_PAGE = 4_000, 200_000


class _Plate(NamedTuple):
    """What the plate maps of all cards share: lines of an SVG, a unit a well."""

    key: str
    name: str
    rows: int
    columns: int
    labels: list[tuple[float, float, str]]
    empty: str
    controls: str
    without: str
    wells: NDArray[np.int64]


def concept_atlas(
    activations: ConceptActivations,
    fields: Sequence[Field],
    *,
    report: EvaluationReport | None = None,
    title: str = "Concept atlas",
    most: int = MOST_CONCEPTS,
    most_bytes: int = MOST_BYTES,
) -> str:
    """Make a page with a card for every concept.

    Parameters
    ----------
    activations : ConceptActivations
        Result of a run on `fields`, with its tokens.
    fields : sequence of Field
        All fields of the run.
    report : EvaluationReport, optional
        What was measured of the run; its technical concepts are flagged, and it is told how
        many seeds find each.
    title : str
        Heading.
    most : int, default=256
        Concepts that get a card, those that rank first.
    most_bytes : int, default=15,000,000
        Of the file; further concepts are left out.

    Returns
    -------
    str
        A whole page that loads nothing. It names the concepts that are left out, and those that are
        active in no unit.

    Raises
    ------
    MicrodlError
        If the images are not open, or there are no units.
    """
    require_images(fields, activations)
    # Whitened tokens are kept of the field looked at last; a window may be looking at another one.
    activations = activations.of_fields(activations.units["field"].unique())
    wells = wells_of(activations, fields)
    plates = _plates(wells)
    ranking = activations.ranking
    technical = set(technical_concepts(report))
    alive = [int(concept) for concept in ranking.index[~ranking["dead"]]]
    contrast = cache(lambda channel: shared_contrast(fields, channel))
    cards: list[dict[str, Any]] = []
    room = most_bytes - _BYTES_OF_PAGE
    chosen = alive[:most]
    for place, concept in enumerate(chosen):
        name = str(activations.dictionary.names[concept])
        with current_task().step(place, len(chosen), f"Drawing {name}"):
            card = _card(activations, fields, concept, wells, plates, contrast, report)
        card |= {"rank": place + 1, "flags": _flags(activations, concept, technical)}
        room -= _BYTES_OF_TEXT + len(card["note"]) + sum(map(len, _parts(card)))
        if room < 0 and cards:
            break
        cards.append(card)
    names = activations.dictionary.names
    unit = activations.dictionary.spec.units.kind
    return page_of(
        "atlas.html.jinja",
        title=title,
        unit=unit,
        wells_rule=WELLS_RULE,
        facts=_facts(activations, wells),
        cards=cards,
        plates=plates,
        more_plates=wells.on_plates["plate"].nunique() - len(plates),
        colours=[to_hex(colour) for colour in colormaps[COLOURS](np.linspace(0, 1, _LEVELS))],
        left_out=[str(names[concept]) for concept in alive[len(cards) :]],
        dead=[str(names[concept]) for concept in ranking.index[ranking["dead"]]],
    )


def _parts(card: dict[str, Any]) -> list[str]:
    """The long texts of a card."""
    pictures = [picture["data"] for picture in card["pictures"]]
    return [*pictures, *(path for plate in card["plates"] for _, path in plate["levels"])]


def _facts(activations: ConceptActivations, wells: Wells) -> str:
    units = activations.units
    unit = activations.dictionary.spec.units.kind
    n_wells = counted(len(wells.table), "well")
    conditions = [
        f"{name or 'no condition'}{' (control)' if control else ''}"
        for (name, control), _ in wells.table.groupby(["condition", "control"])
    ]
    return (
        f"{counted(activations.n_concepts, 'concept')} in {counted(len(units), unit)} of "
        f"{n_wells}: {', '.join(conditions)}. Model: {activations.dictionary.model.title}."
    )


def _flags(activations: ConceptActivations, concept: int, technical: set[int]) -> list[str]:
    """What to be wary of, in words."""
    row = activations.ranking.loc[concept]
    flags = []
    if row["duplicate_of"] >= 0:
        flags.append(f"like {activations.dictionary.names[int(row['duplicate_of'])]}")
    if row["place"] == "field":
        flags.append("whole field")
    if concept in technical:
        flags.append("technical: tells batches of controls apart")
    return flags


def _card(
    activations: ConceptActivations,
    fields: Sequence[Field],
    concept: int,
    wells: Wells,
    plates: list[_Plate],
    contrast: Callable[[int], Contrast],
    report: EvaluationReport | None,
) -> dict[str, Any]:
    """Everything about one concept, as the page is given it."""
    dictionary = activations.dictionary
    summary = summarize_concept(activations, wells, concept, report)
    channel = followed_channel(activations, fields, concept)
    unit, name = summary.unit, str(dictionary.names[concept])
    whose = f"'{summary.label}' " if summary.label else ""
    pictures = []
    for rows, caption in (
        (
            strongest_units(activations, concept, summary.inside, _IN_A_ROW),
            f"{whose}{unit}s with the highest activation",
        ),
        (
            typical_units(activations, concept, summary.against, _IN_A_ROW),
            f"typical {unit}s of {summary.others}s",
        ),
    ):
        if len(rows):
            strip = _strip(activations, fields, rows, channel, contrast(channel))
            pictures.append({"data": strip, "caption": caption, "n": len(rows)})
    ranked = activations.ranking.loc[concept]
    numbers = (
        ("Average selectivity", "selectivity"),
        ("AUC of its direction", "auc"),
        ("Effect against controls (Cliff's delta)", "effect"),
        ("p by wells, corrected for all concepts", "q_wells"),
        (f"Share of all {unit}s", "activation_rate"),
    )
    share = wells.mean(activations.activation(concept) > 0)
    return {
        "concept": concept,
        "name": name,
        "id": activations.id_of(concept),
        "label": summary.label,
        "tag": dictionary.tags[concept],
        "note": dictionary.notes[concept],
        "sentence": summary.sentence,
        "n": summary.numbers,
        "channel": fields[0].channel_names[channel],
        "share": summary.share,
        "difference": summary.share - summary.share_others,
        "selectivity": float(ranked["selectivity"]),
        "numbers": [(heading, _number(ranked[key])) for heading, key in numbers],
        "pictures": pictures,
        "histogram": _histogram(activations, concept, summary),
        "plates": [_wells_of_plate(plate, wells, share) for plate in plates],
    }


def _number(value: Any) -> str:
    return "not known" if pd.isna(value) else value_text(float(value))


def _strip(
    activations: ConceptActivations,
    fields: Sequence[Field],
    rows: NDArray[np.int64],
    channel: int,
    contrast: Contrast,
) -> str:
    """Pictures of units side by side, as a JPEG in base64."""
    edge = picture_edge(activations)
    strip = Image.new("L", (len(rows) * (_PIXELS + 2) - 2, _PIXELS), 128)
    for place, row in enumerate(rows.tolist()):
        unit = activations.units.iloc[row]
        field = fields[int(unit["field"])]
        window = window_at(unit["y"], unit["x"], edge, field.shape)
        shades = (255 * contrast.apply(picture_of(field, window, channel))).astype(np.uint8)
        picture = Image.fromarray(shades).resize((_PIXELS, _PIXELS), Image.Resampling.BICUBIC)
        strip.paste(picture, (place * (_PIXELS + 2), 0))
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=_QUALITY)
    return base64.b64encode(buffer.getvalue()).decode()


def _histogram(
    activations: ConceptActivations, concept: int, summary: ConceptSummary
) -> dict[str, Any]:
    """Lines of an SVG of 100 by 40 for both sides, and their medians."""
    cosines, others = activations.alignment(concept), f"{summary.others}s"
    sides = [
        (rows, name)
        for rows, name in ((summary.against, others), (summary.inside, summary.label))
        if rows.any()
    ]
    both = summary.inside | summary.against
    edges = np.histogram_bin_edges(cosines[both], _BINS)
    shares = [np.histogram(cosines[rows], edges)[0] / rows.sum() for rows, _ in sides]
    highest = max(float(share.max()) for share in shares) or 1.0
    step = 100 / _BINS
    lines = {
        name: "M0 40" + "".join(f"V{40 - 38 * s / highest:.1f}h{step:.4g}" for s in share) + "V40z"
        for share, name in zip(shares, ("others", "inside")[-len(shares) :], strict=True)
    }
    medians = [
        # No minus sign before a nought.
        f"{name or 'these'} {round(float(np.median(cosines[rows])), 2) + 0.0:.2f}"
        for rows, name in sides
    ]
    return {
        "lines": lines,
        "low": f"{edges[0]:.2f}",
        "high": f"{edges[-1]:.2f}",
        "others": others,
        "medians": ", ".join(medians),
    }


def _plates(wells: Wells) -> list[_Plate]:
    found = []
    for number, (name, own) in enumerate(wells.on_plates.groupby("plate", sort=True)):
        if number == _MOST_PLATES:
            break
        rows, columns = plate_format(own)
        taken = set(zip(own["row"], own["column"], strict=True))
        every = 1 if rows <= 16 else 2
        labels = [(-0.9, row + 0.5, row_letters(row)) for row in range(0, rows, every)]
        labels += [(c + 0.5, -0.5, str(c + 1)) for c in range(0, columns, every + columns // 20)]
        empty = [place for place in np.ndindex(rows, columns) if place not in taken]
        found.append(
            _Plate(
                f"plate-{number}",
                str(name),
                rows,
                columns,
                labels,
                "".join(f"M{c + 0.45:g} {r + 0.45:g}h.1v.1h-.1z" for r, c in empty),
                _squares(own[own["control"]]),
                "".join(
                    f"M{c + 0.25:g} {r + 0.25:g}l.5 .5m0-.5l-.5 .5"
                    for r, c in own.loc[own["n_units"] == 0, ["row", "column"]].to_numpy()
                ),
                own.index.to_numpy(np.int64),
            )
        )
    return found


def _squares(wells: pd.DataFrame) -> str:
    return "".join(
        f"M{c + 0.07:g} {r + 0.07:g}h.86v.86h-.86z" for r, c in wells[["row", "column"]].to_numpy()
    )


def _wells_of_plate(plate: _Plate, wells: Wells, share: NDArray[np.float64]) -> dict[str, Any]:
    """Squares of every colour, and the plate in words."""
    known = plate.wells[np.isfinite(share[plate.wells])]
    level = np.minimum((share[known] * _LEVELS).astype(int), _LEVELS - 1)
    caption = ""
    if len(known):
        ends = (known[share[known].argmax()], known[share[known].argmin()])
        caption = " and ".join(
            f"{end} in {wells.table['well'][at]} ({percent(share[at])})"
            for end, at in zip(("highest", "lowest"), ends, strict=True)
        )
    return {
        "plate": plate,
        "levels": [
            (n, _squares(wells.table.loc[known[level == n]])) for n in np.unique(level).tolist()
        ],
        "caption": caption,
    }
