"""An evaluation as one HTML file that needs nothing else to be read."""

from __future__ import annotations

import html
import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from napari_microdl.run_evaluation import EvaluationReport

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em}"
    "table{border-collapse:collapse;display:block;overflow-x:auto}"
    "td,th{padding:.2em .7em;border-bottom:1px solid #ccc;text-align:right}"
    "td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}"
)
_MOST_ROWS = 50
_MOST_HISTOGRAMS = 12


def html_report(report: EvaluationReport, title: str = "Evaluation of concepts") -> str:
    """Tables and figures of an evaluation as HTML text, figures inlined as SVG.

    Parameters
    ----------
    report : EvaluationReport
        The evaluation.
    title : str
        Heading.

    Returns
    -------
    str
        A whole page without scripts or links; of more than 50 rows the first 50 of a table, and
        the histograms of the first 12 labels.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", _table([report.summary])]
    parts += [f"<p>{html.escape(note)}</p>" for note in report.notes]
    for heading, rows, draw in (
        ("Best concept of every label", report.labels, None),
        ("Cosine with the direction, label against all others", report.separation, _histograms),
        ("Reconstruction against the number of non-zeros", report.reconstruction, _curve),
        ("Linear probes on groups not seen", report.probes, None),
        ("Batch effects of concepts in controls", report.batches, None),
    ):
        if not rows:
            continue
        parts.append(f"<h2>{heading}</h2>")
        if draw is not None:
            parts.append(_svg(draw(rows)))
        if draw is not _histograms:
            parts.append(_table(rows))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}'
        f"</title><style>{_STYLE}</style></head><body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def write_html_report(
    report: EvaluationReport, path: str | Path, title: str = "Evaluation of concepts"
) -> Path:
    """Write `html_report` to a file.

    Parameters
    ----------
    report : EvaluationReport
        The evaluation.
    path : str or Path
        File; replaced where it exists.
    title : str
        Heading.

    Returns
    -------
    Path
        The file written.
    """
    path = Path(path)
    path.write_text(html_report(report, title), encoding="utf-8")
    return path


def _table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(row.get(name))}</td>" for name in columns) + "</tr>"
        for row in rows[:_MOST_ROWS]
    )
    left_out = len(rows) - _MOST_ROWS
    more = f"<p>{left_out} more rows are in the JSON file.</p>" if left_out > 0 else ""
    return f"<table><tr>{head}</tr>{body}</table>{more}"


def _cell(value: Any) -> str:
    if value is None:
        return "&ndash;"
    return html.escape(f"{value:.3g}" if isinstance(value, float) else str(value))


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    # Neither the date nor a link to the makers of matplotlib.
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format")))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _histograms(rows: list[dict[str, Any]]) -> Figure:
    rows = rows[:_MOST_HISTOGRAMS]
    n_columns = min(3, len(rows))
    n_rows = -(-len(rows) // n_columns)
    figure = Figure(figsize=(4 * n_columns, 2.6 * n_rows), layout="constrained")
    all_axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes, row in zip(all_axes, rows, strict=False):
        axes.stairs(row["others"], row["edges"], color="#8c8c8c", fill=True, alpha=0.6)
        axes.stairs(row["label"], row["edges"], color="#d55e00", linewidth=1.5)
        auc = "" if row["auc"] is None else f", AUC {row['auc']:.2f}"
        # A dollar sign in a label is no formula.
        axes.set_title(f"{row['name']}: concept {row['concept']}{auc}", parse_math=False)
        axes.set_xlabel("cosine")
    for axes in all_axes[len(rows) :]:
        axes.set_axis_off()
    return figure


def _curve(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for name in ("cosine", "r2"):
        known = [(row["k"], row[name]) for row in rows if row[name] is not None]
        axes.plot([k for k, _ in known], [v for _, v in known], "o-", label=name)
    axes.set_xlabel("non-zeros")
    axes.legend()
    return figure
