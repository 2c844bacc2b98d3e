"""Pages as one HTML file each that needs nothing else to be read, and that of an evaluation."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

from jinja2 import Environment, PackageLoader
from markupsafe import Markup
from matplotlib.figure import Figure

from napari_microdl.core.text import plain_text
from napari_microdl.report.evaluation_figures import (
    ConceptPictures,
    reconstruction_figure,
    separation_figure,
)
from napari_microdl.report.measures import summary_sentences, tables
from napari_microdl.report.results import EvaluationReport
from napari_microdl.report.text import Table, columns_of, value_text
from napari_microdl.report.well_figures import NamedFigure

TITLE = "Evaluation of concepts"
_MOST_ROWS = 50


def html_report(
    report: EvaluationReport,
    unit: str = "sample",
    title: str = TITLE,
    pictures: Sequence[ConceptPictures] = (),
    figures: Sequence[NamedFigure] = (),
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
    figures : sequence of NamedFigure
        Further figures, behind the tables.

    Returns
    -------
    str
        A whole page without scripts or links; of more than 50 rows the first 50 of a table, and
        the histograms of the first 12 labels.
    """
    curve, histograms = report.reconstruction, report.separation
    return page_of(
        "page.html.jinja",
        title=title,
        sentences=summary_sentences(report, unit),
        notes=report.notes,
        tables=[_shown(t, report.rows(t.key)) for t in tables() if report.rows(t.key)],
        figures={"reconstruction": svg_of(reconstruction_figure(curve))} if curve else {},
        separation=svg_of(separation_figure(histograms)) if histograms else "",
        pictures=pictures,
        more_figures=[(f.heading, f.caption, svg_of(f.figure)) for f in figures],
    )


def page_of(template: str, **contents: Any) -> str:
    """A page from a template of this package; texts of a person are shown as they are, never read.

    Parameters
    ----------
    template : str
        File name of the template.
    **contents : object
        What it is given. Only `Markup` is taken for HTML.

    Returns
    -------
    str
    """
    pages = Environment(
        loader=PackageLoader("napari_microdl.report", ""),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain_text(value) if type(value) is str else value,
    )
    pages.filters["base64"] = lambda png: base64.b64encode(png).decode()
    return pages.get_template(template).render(**contents)


def _shown(table: Table, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A table as the page is given it."""
    columns = columns_of(table, rows)
    return {
        "key": table.key,
        "heading": table.heading,
        "meaning": table.meaning,
        "columns": columns,
        "rows": [[value_text(row.get(c.key)) for c in columns] for row in rows[:_MOST_ROWS]],
        "left_out": len(rows) - _MOST_ROWS,
    }


def svg_of(figure: Figure) -> Markup:
    """A figure as SVG text, to stand in a page or a file."""
    buffer = io.StringIO()
    # Neither the date nor a link to the makers of matplotlib.
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format")))
    text = buffer.getvalue()
    # Its own texts are escaped by matplotlib.
    return Markup(text[text.index("<svg") :])
