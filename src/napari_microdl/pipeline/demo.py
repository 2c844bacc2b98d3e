"""The main job on the bundled sample, without a display."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg

from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.pictures import write_figure
from napari_microdl.fields.samples import transfluor
from napari_microdl.pipeline.files import DEMO_PICTURES, write_run
from napari_microdl.pipeline.run import PipelineResult, run_pipeline
from napari_microdl.pipeline.run_folder import run_folder
from napari_microdl.report.figures import (
    distribution_figure,
    gallery_figure,
    heatmap_figure,
    unit_figure,
)
from napari_microdl.report.findings import Finding, find_finding

_TOP_CONCEPTS = 10
_FIGURE_CONCEPTS = 3


def write_outputs(result: PipelineResult, out: Path, finding: Finding) -> None:
    """Write the table, the dictionary, the report and the figures of a run on the sample.

    Parameters
    ----------
    result : PipelineResult
        Result of `run_pipeline` on `napari_microdl.fields.samples.transfluor`.
    out : Path
        Folder that exists; files of an earlier run are replaced.
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
    figures = (
        heatmap_figure(activations, fields, shown, top[0]),
        unit_figure(activations, fields, shown, top[0], result.labels),
        gallery_figure(activations, fields, top[:_FIGURE_CONCEPTS]),
        distribution_figure(activations, top[:_FIGURE_CONCEPTS], result.config.units.kind),
    )
    for name, figure in zip(DEMO_PICTURES, figures, strict=True):
        FigureCanvasAgg(figure)
        write_figure(figure, out / name, dpi=110)


def run_demo(out: Path, config: PipelineConfig | None = None, *, overwrite: bool = False) -> str:
    """Run the main job on the sample and write everything it finds.

    Parameters
    ----------
    out : Path
        Folder to write to.
    config : PipelineConfig, optional
        Settings; the defaults where not given.
    overwrite : bool, default=False
        Whether a run that is there may be replaced.

    Returns
    -------
    str
        A sentence on what was found, or that nothing was.

    Raises
    ------
    MicrodlError
        If a run is there that may not be replaced.
    """
    with run_folder(out, overwrite=overwrite) as folder:
        result = run_pipeline(transfluor(), config)
        finding = find_finding(result.activations)
        write_outputs(result, folder.path, finding)
    return finding.sentence()
