"""The main job on the bundled sample, without a display."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.samples import transfluor
from napari_microdl.pipeline.files import write_run
from napari_microdl.pipeline.run import PipelineResult, run_pipeline
from napari_microdl.report.figures import (
    distribution_figure,
    gallery_figure,
    heatmap_figure,
    unit_figure,
)
from napari_microdl.report.findings import Finding, find_finding

_TOP_CONCEPTS = 10
_FIGURE_CONCEPTS = 3


def _save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=110)


def write_outputs(result: PipelineResult, out: Path, finding: Finding) -> None:
    """Write the table, the dictionary, the report and the figures of a run on the sample.

    Parameters
    ----------
    result : PipelineResult
        Result of `run_pipeline` on `napari_microdl.fields.samples.transfluor`.
    out : Path
        Folder, made where it is missing; files of an earlier run are replaced.
    finding : Finding
        What was found.
    """
    fields = transfluor()
    activations = result.activations
    top = [int(c) for c in activations.ranking.index[:_TOP_CONCEPTS]]
    write_run(result, out, concepts=top, finding=finding)
    # A control, a well in which reacting and resting cells lie side by side, a treated well.
    names = [f.well for f in fields]
    shown = [names.index(well) for well in ("O11", "O01", "O05")]
    figures = {
        "overlay_heatmap.png": heatmap_figure(activations, fields, shown, top[0]),
        "overlay_units.png": unit_figure(activations, fields, shown, top[0], result.labels),
        "gallery.png": gallery_figure(activations, fields, top[:_FIGURE_CONCEPTS]),
        "distribution.png": distribution_figure(
            activations, top[:_FIGURE_CONCEPTS], result.config.units.kind
        ),
    }
    for name, figure in figures.items():
        _save(figure, out / name)


def run_demo(out: Path, config: PipelineConfig | None = None) -> str:
    """Run the main job on the sample and write everything it finds.

    Parameters
    ----------
    out : Path
        Folder to write to.
    config : PipelineConfig, optional
        Settings; the defaults where not given.

    Returns
    -------
    str
        A sentence on what was found, or that nothing was.
    """
    # A folder that cannot be written to is found before the work, not after.
    out.mkdir(parents=True, exist_ok=True)
    result = run_pipeline(transfluor(), config)
    finding = find_finding(result.activations)
    write_outputs(result, out, finding)
    return finding.sentence()
