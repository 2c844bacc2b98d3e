"""Runs in one piece: demo, fit, apply and evaluate."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from napari_microdl.cli.following import followed
from napari_microdl.cli.network import fetching
from napari_microdl.cli.options import (
    Atlas,
    Controls,
    DictionaryFile,
    Download,
    Figures,
    Out,
    Overwrite,
    SettingsFile,
    Table,
    settings_of,
)
from napari_microdl.cli.stopping import usual_signals
from napari_microdl.cli.terms import terms
from napari_microdl.core.config import (
    AUTOMATIC,
    EvaluationChoices,
    Independent,
    Library,
    SetBy,
)
from napari_microdl.core.errors import MicrodlError

if TYPE_CHECKING:
    from napari_microdl.core.config import PipelineConfig
    from napari_microdl.pipeline.run import PipelineResult
    from napari_microdl.pipeline.run_folder import RunFolder
    from napari_microdl.pipeline.table_run import TableFields
    from napari_microdl.report.findings import Finding

_ASKED = EvaluationChoices()


def demo(
    headless: Annotated[bool, Option("--headless", help="No window; write files instead.")] = False,
    out: Annotated[Path, Option(metavar="DIR", help="Where --headless writes to.")] = Path(
        "demo-output"
    ),
    overwrite: Overwrite = False,
) -> None:
    """Run the main job on the bundled sample, in a napari window or without one."""
    if headless:
        from napari_microdl.pipeline.demo import run_demo

        with followed():
            sentence = run_demo(out, overwrite=overwrite)
        print(f"{sentence}\nThe table, the dictionary and the figures are in {out}.")
        return
    try:
        from napari_microdl.gui.plugin.launch import launch_demo
    except ImportError as error:
        raise MicrodlError(
            f"The window needs napari and Qt ({error}); install them with "
            "pip install 'napari-microdl[gui]', or use --headless."
        ) from error
    with usual_signals():
        launch_demo()


def fit(
    table: Table,
    *,
    out: Out,
    config_file: SettingsFile = None,
    controls: Controls = None,
    n_refits: Annotated[
        int | None,
        Option(
            "--refits",
            metavar="N",
            min=0,
            help="Arrangements of the wells for which whitening and dictionary are fitted anew to "
            "test what was found, at most; 99, or more for more than five treatments, where not "
            "given, and 0 for no test.",
        ),
    ] = None,
    atlas: Atlas = False,
    n_figures: Figures = 0,
    overwrite: Overwrite = False,
    download: Download = False,
) -> None:
    """Run from images to concepts.

    Written are the dictionary, the table of cells, the ranking of the concepts, the settings and
    a report. Printed is whether the best concept is more than the best of many by luck.
    """
    with _working(table, out, config_file, controls, overwrite, download) as job:
        done = _run(job, n_refits=n_refits)
        pictures = _draw(done, job.folder.path, atlas, n_figures)
    done.announce(job.folder, pictures)


def apply(
    dictionary: DictionaryFile,
    table: Table,
    *,
    out: Out,
    config_file: SettingsFile = None,
    controls: Controls = None,
    atlas: Atlas = False,
    n_figures: Figures = 0,
    overwrite: Overwrite = False,
    download: Download = False,
) -> None:
    """Find the concepts of a dictionary in other images, and write the same files as fit."""
    with _working(table, out, config_file, controls, overwrite, download) as job:
        done = _run(job, dictionary)
        pictures = _draw(done, job.folder.path, atlas, n_figures)
    done.announce(job.folder, pictures)


def evaluate(
    dictionary: DictionaryFile,
    table: Table,
    *,
    out: Out,
    config_file: SettingsFile = None,
    controls: Controls = None,
    labels: Annotated[
        str, Option(metavar="COLUMN", help="Column of the table that concepts should tell.")
    ] = _ASKED.labels,
    independent: Annotated[
        Independent,
        Option(
            help="What was treated as one, and is shuffled, drawn again and left out as one; "
            "fields where no well is known."
        ),
    ] = _ASKED.independent,
    n_permutations: Annotated[
        int,
        Option(
            "--shuffles",
            metavar="N",
            help="Shuffles of the labels; p cannot be less than 1 / (N + 1).",
        ),
    ] = _ASKED.n_permutations,
    handcrafted: Annotated[
        bool,
        Option(help="Whether to measure shape, intensity and texture of the cells to compare."),
    ] = _ASKED.handcrafted,
    library: Annotated[
        Library,
        Option(
            help="Whose measurements of the cells: a few dozen from scikit-image, or the hundreds "
            "of CellProfiler as the package cp-measure has them."
        ),
    ] = _ASKED.library,
    n_seeds: Annotated[
        int,
        Option(
            "--seeds",
            metavar="N",
            help="Fit N more dictionaries with other seeds, and say how far they agree; each "
            "takes as long as a fit.",
        ),
    ] = _ASKED.n_seeds,
    sets_by: Annotated[
        SetBy,
        Option(
            help="Whether a few concepts that tell a label together are chosen by their cosines "
            "and codes, or by cosines alone."
        ),
    ] = _ASKED.sets_by,
    batches: Annotated[
        str,
        Option(
            metavar="COLUMN",
            help="Column by which controls are compared to find technical concepts, such as "
            f"Metadata_Plate, Metadata_Site or one of your own; {AUTOMATIC} takes plates or, of "
            "one plate, sites.",
        ),
    ] = _ASKED.batches,
    unseen_only: Annotated[
        bool,
        Option(
            "--unseen-only",
            help="Leave out fields that the dictionary was fitted on, on which figures are "
            "optimistic.",
        ),
    ] = _ASKED.unseen_only,
    overwrite: Overwrite = False,
    download: Download = False,
) -> None:
    """Apply a dictionary and measure its concepts.

    Written is, beside what apply writes, an evaluation as JSON and as a page that can be read
    without internet: selectivity with its null and interval, probes, reconstruction, batch
    effects, handcrafted measurements, pictures.
    """
    from napari_microdl.metrics import require_library
    from napari_microdl.pipeline.files import (
        EVALUATION_PAGE,
        add_columns,
        check_labels,
        evaluate_run,
    )
    from napari_microdl.report import summary_sentences

    # A choice that means nothing is found before the work, not after.
    choices = EvaluationChoices(
        labels=labels,
        independent=independent,
        n_permutations=n_permutations,
        handcrafted=handcrafted,
        library=library,
        n_seeds=n_seeds,
        sets_by=sets_by,
        batches=batches,
        unseen_only=unseen_only,
    )
    if handcrafted:
        require_library(library)
    columns = [labels] if batches == AUTOMATIC else [labels, batches]
    checked = partial(check_labels, table=table, columns=columns)
    with _working(table, out, config_file, controls, overwrite, download, checked) as job:
        done = _run(job, dictionary)
        activations = done.result.activations
        add_columns(activations.units, table, done.table.rows)
        with followed():
            report = evaluate_run(done.result, done.table.fields, job.folder.path, choices)
    # The evaluation tells what was found.
    done.announce(job.folder, with_finding=False)
    for sentence in summary_sentences(report, done.result.config.units.kind):
        print(sentence)
    for note in report.notes:
        print(f"Note: {note}")
    print(f"The evaluation is in {out / EVALUATION_PAGE}.")


@dataclass(frozen=True, eq=False)
class _Job:
    """What a run is given: the fields of a table, settings, and a folder for its files."""

    table: TableFields
    config: PipelineConfig
    folder: RunFolder


@contextmanager
def _working(
    table: Path,
    out: Path,
    config_file: Path | None,
    controls: str | None,
    overwrite: bool,
    download: bool,
    check: Callable[..., None] | None = None,
) -> Iterator[_Job]:
    """Look at all that a run is given before it begins; its folder is in place in the end."""
    from napari_microdl.pipeline.run_folder import run_folder
    from napari_microdl.pipeline.table_run import open_table

    config = settings_of(config_file)
    fields = open_table(table, controls, config.images)
    if check is not None:
        check(fields.fields, rows_of_fields=fields.rows)
    with fetching(download), run_folder(out, config, overwrite=overwrite) as folder:
        yield _Job(fields, config, folder)


@dataclass(frozen=True, eq=False)
class _Done:
    """What a run has found, and in which fields."""

    result: PipelineResult
    table: TableFields
    finding: Finding

    def announce(
        self, folder: RunFolder, pictures: Sequence[str] = (), *, with_finding: bool = True
    ) -> None:
        """Say what was found, and where it is."""
        from napari_microdl.report.findings import best_concepts

        activations, kind = self.result.activations, self.result.config.units.kind
        for note in (*self.result.warnings, *folder.notes):
            print(f"Note: {note}")
        print(
            f"{len(activations.units)} {kind}s, {activations.n_concepts} concepts: "
            f"the tables, the dictionary and the report are in {folder.wanted}."
        )
        if with_finding:
            print(f"{self.finding.sentence()}\n{best_concepts(activations)}")
        if pictures:
            print(f"Also there: {', '.join(pictures)}.")


def _run(job: _Job, dictionary_file: Path | None = None, *, n_refits: int | None = None) -> _Done:
    """Fit or apply a dictionary, and write what comes of it."""
    from napari_microdl.concepts.dictionary import ConceptDictionary
    from napari_microdl.pipeline.files import write_run
    from napari_microdl.pipeline.table_run import run_table
    from napari_microdl.report.findings import find_finding

    dictionary = None if dictionary_file is None else ConceptDictionary.load(dictionary_file)
    # Before any of the weights are fetched.
    print(terms(job.config, dictionary), file=sys.stderr, flush=True)
    with followed():
        result, table = run_table(job.table, job.config, dictionary)
        finding = find_finding(result.activations, n_refits=n_refits)
        write_run(result, job.folder.path, finding=finding)
    job.folder.keep()
    return _Done(result, table, finding)


def _draw(done: _Done, out: Path, atlas: bool, n_figures: int) -> list[str]:
    """Write the atlas and the figures that were asked for; their names."""
    if not (atlas or n_figures):
        return []
    from napari_microdl.pipeline.files import write_pictures

    with followed():
        return write_pictures(done.result, done.table.fields, out, atlas=atlas, n_figures=n_figures)
