"""An evaluation as one HTML file that needs nothing else to be read."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Generator, Sequence
from typing import Any

from matplotlib.figure import Figure

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.fields.field import Field
from napari_microdl.report import EvaluationReport, EvaluationStep
from napari_microdl.report.evaluation_figures import (
    ConceptPictures,
    iter_pictures,
    reconstruction_figure,
    separation_figure,
)
from napari_microdl.report.text import (
    LABELS,
    RECONSTRUCTION,
    TABLES,
    Column,
    columns_of,
    rows_of,
    summary_sentences,
    value_text,
)

TITLE = "Evaluation of concepts"
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;"
    "color:#111;background:#fff}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{padding:.2em .7em;border-bottom:1px solid #ccc;text-align:right}"
    "td:first-child,th:first-child{text-align:left}svg,img{max-width:100%;height:auto}"
    "th[title]{text-decoration:underline dotted;cursor:help}figure{margin:0}"
    "details{color:#444}"
)
_MOST_ROWS = 50


def html_report(
    report: EvaluationReport,
    unit: str = "sample",
    title: str = TITLE,
    pictures: Sequence[ConceptPictures] = (),
) -> str:
    """Tables and figures of an evaluation as HTML text, with all pictures inside.

    Parameters
    ----------
    report : EvaluationReport
        The evaluation.
    unit : str
        What one sample is.
    title : str
        Heading.
    pictures : sequence of ConceptPictures
        Pictures of the best concepts.

    Returns
    -------
    str
        A whole page without scripts or links; of more than 50 rows the first 50 of a table, and
        the histograms of the first 12 labels.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts += [f"<p>{html.escape(s)}</p>" for s in summary_sentences(report, unit)]
    parts += [f"<p>Note: {html.escape(note)}</p>" for note in report.notes]
    for table in TABLES:
        rows = rows_of(report, table)
        if not rows:
            continue
        parts += [f"<h2>{html.escape(table.heading)}</h2>", f"<p>{html.escape(table.meaning)}</p>"]
        if table is RECONSTRUCTION:
            parts.append(_svg(reconstruction_figure(rows)))
        parts.append(_table(columns_of(table, rows), rows))
        if table is LABELS and report.separation:
            parts.append("<h2>Cosine with the direction, label against all others</h2>")
            parts.append(_svg(separation_figure(report.separation)))
        if table is LABELS and pictures:
            parts.append("<h2>What the best concepts look like</h2>")
            parts += [_pictures(each) for each in pictures]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def iter_html_report(
    report: EvaluationReport,
    activations: ConceptActivations,
    fields: Sequence[Field],
    title: str = TITLE,
) -> Generator[EvaluationStep, None, str]:
    """`html_report` with pictures of the best concepts, one concept an iteration.

    Parameters
    ----------
    report : EvaluationReport
        The evaluation.
    activations : ConceptActivations
        The run evaluated.
    fields : sequence of Field
        All its fields.
    title : str
        Heading.

    Yields
    ------
    EvaluationStep
        Stop iterating to cancel.

    Returns
    -------
    str
        The page.
    """
    pictures = yield from iter_pictures(report, activations, fields)
    return html_report(report, activations.dictionary.spec.unit, title, pictures)


def _pictures(pictures: ConceptPictures) -> str:
    name = html.escape(pictures.heading)
    images = "".join(
        f'<img alt="{what} of {name}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        for what, png in (("Gallery", pictures.gallery), ("Details", pictures.details))
    )
    caption = f"<figcaption>{html.escape(pictures.caption)}</figcaption>"
    return f"<h3>{name}</h3><figure>{images}{caption}</figure>"


def _table(columns: Sequence[Column], rows: list[dict[str, Any]]) -> str:
    head = "".join(
        f'<th title="{html.escape(c.meaning)}">{html.escape(c.heading)}</th>' for c in columns
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td>{html.escape(value_text(row.get(c.key)))}</td>" for c in columns)
        + "</tr>"
        for row in rows[:_MOST_ROWS]
    )
    left_out = len(rows) - _MOST_ROWS
    more = f"<p>{left_out} more rows are in the JSON file.</p>" if left_out > 0 else ""
    # For paper and for those who cannot hover.
    words = "".join(f"<li>{html.escape(c.heading)}: {html.escape(c.meaning)}</li>" for c in columns)
    legend = f"<details><summary>What the columns mean</summary><ul>{words}</ul></details>"
    return f"<table><tr>{head}</tr>{body}</table>{more}{legend}"


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    # Neither the date nor a link to the makers of matplotlib.
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]
