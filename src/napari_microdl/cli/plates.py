"""Plates of thousands of fields: the commands ``napari-microdl plate ...``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option, Typer

from napari_microdl.cli.following import followed
from napari_microdl.cli.network import fetching
from napari_microdl.cli.options import (
    Controls,
    DictionaryFile,
    Download,
    Metadata,
    Out,
    SettingsFile,
    settings_of,
)
from napari_microdl.cli.stopping import Stopped
from napari_microdl.cli.terms import terms
from napari_microdl.core.config import AUTOMATIC, EvaluationChoices, Independent
from napari_microdl.core.errors import MicrodlError

_ASKED = EvaluationChoices()

plates = Typer(
    help="The same over plates of thousands of fields, on several processes or a cluster; the same "
    "command again goes on where it was stopped.",
    rich_markup_mode=None,
)

Workers = Annotated[
    int | None,
    Option(metavar="N", min=1, help="Processes on this machine, a thread each; else this one."),
]
Scheduler = Annotated[
    str | None, Option(metavar="ADDRESS", help="A Dask scheduler that runs already.")
]
ClusterFile = Annotated[
    Path | None,
    Option(
        "--cluster",
        metavar="YAML",
        help="A cluster of dask-jobqueue: class (such as SLURMCluster), workers, and what that "
        "class takes.",
    ),
]
Samples = Annotated[
    int,
    Option(
        "--samples",
        metavar="N",
        min=0,
        help="Cells that the dictionary is learned from at most, of all wells alike; 0 for all, "
        "which are then read from a file.",
    ),
]
DryRun = Annotated[
    bool,
    Option("--dry-run", help="Only say how many fields there are, and what they will take."),
]
HeldBack = Annotated[
    float | None,
    Option(
        "--hold-back",
        metavar="SHARE",
        min=0,
        max=0.9,
        help="Share of the control wells of each plate that the whitening does not see, for "
        "treatments to be compared with; half of those of plates with eight or more where not "
        "given.",
    ),
]
_MOST_SAMPLES = 100_000
Source = Annotated[
    Path,
    Argument(
        help="A table of image files (CSV, TSV or Parquet), an OME-Zarr plate, an index of "
        "Harmony, or a folder of images."
    ),
]


@plates.command("run", short_help="From images to profiles of wells.")
def plate_run(
    source: Source,
    *,
    out: Out,
    config_file: SettingsFile = None,
    controls: Controls = None,
    metadata: Metadata = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: ClusterFile = None,
    samples: Samples = _MOST_SAMPLES,
    held_back: HeldBack = None,
    dry_run: DryRun = False,
    download: Download = False,
) -> None:
    """Fit a dictionary on a plate, and find its concepts in all cells of it."""
    place = {"workers": workers, "scheduler": scheduler, "cluster": cluster}
    _plate(
        source, out, config_file, controls, metadata, place,
        dry_run=dry_run, download=download,
        most_samples=samples or None, held_back=held_back,
    )  # fmt: skip


@plates.command("embed", short_help="Only read the vectors of all cells; fit and run go on there.")
def plate_embed(
    source: Source,
    *,
    out: Out,
    config_file: SettingsFile = None,
    controls: Controls = None,
    metadata: Metadata = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: ClusterFile = None,
    dry_run: DryRun = False,
    download: Download = False,
) -> None:
    """Leave the vectors of the cells of every field in files, and the table of the fields."""
    place = {"workers": workers, "scheduler": scheduler, "cluster": cluster}
    _plate(
        source, out, config_file, controls, metadata, place,
        dry_run=dry_run, download=download, until="vectors",
    )  # fmt: skip


@plates.command("fit", short_help="The same up to the dictionary; run goes on from there.")
def plate_fit(
    source: Source,
    *,
    out: Out,
    config_file: SettingsFile = None,
    controls: Controls = None,
    metadata: Metadata = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: ClusterFile = None,
    samples: Samples = _MOST_SAMPLES,
    held_back: HeldBack = None,
    dry_run: DryRun = False,
    download: Download = False,
) -> None:
    """Fit a dictionary on a plate, and leave its codes for later."""
    place = {"workers": workers, "scheduler": scheduler, "cluster": cluster}
    _plate(
        source, out, config_file, controls, metadata, place,
        dry_run=dry_run, download=download,
        most_samples=samples or None, held_back=held_back, until="dictionary",
    )  # fmt: skip


@plates.command("apply", short_help="Apply a dictionary to a plate.")
def plate_apply(
    dictionary: DictionaryFile,
    source: Source,
    *,
    out: Out,
    config_file: SettingsFile = None,
    controls: Controls = None,
    metadata: Metadata = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: ClusterFile = None,
    dry_run: DryRun = False,
    download: Download = False,
) -> None:
    """Find the concepts of a dictionary in all cells of a plate."""
    place = {"workers": workers, "scheduler": scheduler, "cluster": cluster}
    _plate(
        source, out, config_file, controls, metadata, place, dictionary,
        dry_run=dry_run, download=download,
    )  # fmt: skip


@plates.command("evaluate", short_help="Measure the concepts of a plate run.")
def plate_evaluate(
    folder: Annotated[Path, Argument(help="Folder of a plate run that has ended.")],
    *,
    labels: Annotated[
        str, Option(metavar="COLUMN", help="Column of the table that concepts should tell.")
    ] = _ASKED.labels,
    independent: Annotated[
        Independent, Option(help="What was treated as one, and is shuffled and left out as one.")
    ] = _ASKED.independent,
    n_permutations: Annotated[
        int, Option("--shuffles", metavar="N", help="Shuffles of the labels.")
    ] = _ASKED.n_permutations,
    batches: Annotated[
        str, Option(metavar="COLUMN", help="Column by which controls are compared.")
    ] = _ASKED.batches,
    unseen_only: Annotated[
        bool, Option("--unseen-only", help="Leave out fields that the dictionary was fitted on.")
    ] = _ASKED.unseen_only,
    take_off_positions: Annotated[
        bool,
        Option(
            "--take-off-positions",
            help="Take off profiles what wells owe to their row, column and edge, as controls "
            "show it.",
        ),
    ] = _ASKED.take_off_positions,
) -> None:
    """Measure selectivity with its null, hits, replicates and batch effects of a plate run.

    Written are evaluation.json, evaluation.html, hits.csv and figures in its folder. Images are not
    opened again.
    """
    from napari_microdl.pipeline.files import EVALUATION_PAGE
    from napari_microdl.pipeline.plate.evaluation import evaluate_plate
    from napari_microdl.report import summary_sentences

    choices = EvaluationChoices(
        labels=labels,
        independent=independent,
        n_permutations=n_permutations,
        handcrafted=False,
        batches=batches,
        unseen_only=unseen_only,
        wells=True,
        take_off_positions=take_off_positions,
    )
    with followed():
        report = evaluate_plate(folder, choices, batches_given=batches != AUTOMATIC)
    for sentence in summary_sentences(report, "unit"):
        print(sentence)
    for note in report.notes:
        print(f"Note: {note}")
    print(f"The evaluation is in {folder / EVALUATION_PAGE}.")


@plates.command("export", short_help="Write what the folder of a plate run holds for others.")
def plate_export(
    folder: Annotated[Path, Argument(help="Folder of a plate run that has ended.")],
    *,
    out: Annotated[
        Path | None,
        Option(metavar="DIR", help="Where to; a new folder but for gallery, none for --in-images."),
    ] = None,
    layout: Annotated[
        Literal["plain", "gallery"],
        Option(help="gallery: the folders of the Cell Painting Gallery, plates beside each other."),
    ] = "plain",
    batch: Annotated[
        str | None,
        Option(metavar="NAME", help="Batch in the gallery; else the column Metadata_Batch."),
    ] = None,
    labels: Annotated[
        bool,
        Option(
            "--labels",
            help="Of a plate read from OME-Zarr, write the cells as labels with values of their "
            "concepts, and maps of these, as new OME-Zarr.",
        ),
    ] = False,
    in_images: Annotated[
        bool,
        Option("--in-images", help="Write the labels into the images instead, beside those there."),
    ] = False,
    n_concepts: Annotated[
        int, Option("--concepts", metavar="N", min=1, help="Concepts whose values labels get.")
    ] = 8,
) -> None:
    """Write cells as AnnData and their vectors as Parquet, all columns as Cytomining names them.

    With --labels or --in-images labels are written instead.
    """
    from napari_microdl.pipeline.plate.export import ended_run, export_plate
    from napari_microdl.pipeline.plate.folder import sole_driver
    from napari_microdl.pipeline.plate.gallery import export_gallery
    from napari_microdl.pipeline.plate.labels import export_labels

    if in_images == (out is not None):
        raise MicrodlError("Give either --out, a folder to write to, or --in-images.")
    run = ended_run(folder)
    with followed(), sole_driver(folder):
        if out is None or labels:
            written = export_labels(run, out, n_concepts=n_concepts)
        elif layout == "gallery":
            written = export_gallery(run, out, batch)
        else:
            written = export_plate(run, out)
    print(f"{', '.join(written)} are written{'' if out is None else f' in {out}'}.")


@plates.command("task", short_help="A plate run whose parameters and results are JSON.")
def plate_task(
    args_json: Annotated[Path | None, Option(metavar="FILE", help="Parameters to read.")] = None,
    out_json: Annotated[Path | None, Option(metavar="FILE", help="Results to write.")] = None,
    schema: Annotated[
        bool, Option("--schema", help="Print the JSON schema of the parameters instead.")
    ] = False,
    download: Download = False,
) -> None:
    """Run a plate in OME-Zarr as Fractal calls its tasks."""
    import json

    from napari_microdl.core.config import read_values
    from napari_microdl.core.files import write_text
    from napari_microdl.pipeline.plate.fractal import PlateTask, run_task

    if schema:
        print(json.dumps(PlateTask.model_json_schema(), indent=2))
        return
    if args_json is None or out_json is None:
        raise MicrodlError("Give both --args-json and --out-json, or --schema.")
    task = PlateTask(**read_values(args_json))
    with fetching(download), followed(), _goes_on():
        result = run_task(task)
    write_text(json.dumps(result, indent=2) + "\n", out_json)


def _plate(
    source: Path,
    out: Path,
    config_file: Path | None,
    controls: str | None,
    metadata: Path | None,
    place: dict[str, Any],
    dictionary: Path | None = None,
    *,
    dry_run: bool,
    download: bool,
    **options: Any,
) -> None:
    """Run a plate, or say what it will take."""
    from napari_microdl.pipeline.plate.forkserver import start_forkserver

    # Workers are told as well, which are started from here.
    with fetching(download):
        if place["workers"] and not dry_run:
            # Before this process has imported what it needs itself.
            start_forkserver()
        from napari_microdl.concepts.dictionary import ConceptDictionary
        from napari_microdl.pipeline.plate.dry_run import outlook
        from napari_microdl.pipeline.plate.engine import Place
        from napari_microdl.pipeline.plate.listing import list_fields
        from napari_microdl.pipeline.plate.run import PlateOptions, run_plate
        from napari_microdl.pipeline.plate.summary import sentences

        config = settings_of(config_file)
        applied = None if dictionary is None else ConceptDictionary.load(dictionary)
        listing = list_fields(source, controls, config.images, metadata)
        if dry_run:
            with followed():
                text = outlook(listing, config, applied)
            print(text)
            return
        # Before any of the weights are fetched.
        print(terms(config, applied), file=sys.stderr, flush=True)
        with followed(), _goes_on():
            summary = run_plate(
                listing,
                out,
                config,
                dictionary=dictionary,
                place=Place(**place),
                options=PlateOptions(**options),
            )
    for sentence in sentences(summary, out):
        print(sentence)


@contextmanager
def _goes_on() -> Iterator[None]:
    """Say of a run that is stopped inside that it can be gone on with."""
    try:
        yield
    except Stopped as error:
        error.sentence = "the same command goes on from here"
        raise
