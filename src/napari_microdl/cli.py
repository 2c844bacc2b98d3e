"""The command ``napari-microdl``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option, Typer

from napari_microdl.core.config import (
    AUTOMATIC,
    EvaluationChoices,
    Independent,
    Library,
    PipelineConfig,
    SetBy,
    read_config,
)
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import Progress, Task

if TYPE_CHECKING:
    from napari_microdl.concepts.dictionary import ConceptDictionary
    from napari_microdl.fields.field import Field
    from napari_microdl.pipeline.run import PipelineResult

NAME = "napari-microdl"
_ASKED = EvaluationChoices()

DictionaryFile = Annotated[Path, Argument(help="*.microdl.safetensors file.")]
Table = Annotated[
    Path,
    Argument(
        help="CSV, TSV or Parquet file with a row a field: FileName_<channel>, "
        "PathName_<channel> and Metadata_* columns."
    ),
]
Out = Annotated[Path, Option(metavar="DIR", help="Folder for the results.")]
SettingsFile = Annotated[
    Path | None,
    Option(
        "--config",
        metavar="FILE",
        help="Settings, as the window or an earlier run saved them (JSON).",
    ),
]
Controls = Annotated[
    str | None,
    Option(
        metavar="QUERY",
        help="Which fields are controls, such as \"Metadata_condition == 'DMSO'\"; else the "
        "column Metadata_control says so.",
    ),
]
Atlas = Annotated[
    bool,
    Option("--atlas", help="Also write atlas.html, a card a concept on a page to send to others."),
]
Figures = Annotated[
    int,
    Option(
        "--figures",
        metavar="N",
        min=0,
        help="Also write a figure of one page (PDF) for each of the N most telling concepts.",
    ),
]
Metadata = Annotated[
    Path | None,
    Option(
        metavar="FILE",
        help="Plate maps or conditions of wells: barcode_platemap.csv, a plate map, or a table "
        "with well, or row and column. A barcode_platemap.csv that lies there is found.",
    ),
]

app = Typer(
    help="Concepts in microscopy images, by dictionary learning on model tokens.",
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain text, as in a log.
    rich_markup_mode=None,
)


@app.command(short_help="Run the main job on the bundled treated and control wells.")
def demo(
    headless: Annotated[bool, Option("--headless", help="No window; write files instead.")] = False,
    out: Annotated[Path, Option(metavar="DIR", help="Where --headless writes to.")] = Path(
        "demo-output"
    ),
) -> None:
    """Run the main job on the bundled sample, in a napari window or without one."""
    if headless:
        from napari_microdl.pipeline.demo import run_demo

        with _followed():
            sentence = run_demo(out)
        print(f"{sentence}\nThe table, the dictionary and the figures are in {out}.")
        return
    try:
        from napari_microdl.gui.plugin.launch import launch_demo
    except ImportError as error:
        raise MicrodlError(
            f"The window needs napari and Qt ({error}); install them with "
            "pip install 'napari-microdl[gui]', or use --headless."
        ) from error
    launch_demo()


@app.command(short_help="Fit a dictionary on a table of image files.")
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
) -> None:
    """Run from images to concepts.

    Written are the dictionary, the table of cells, the ranking of the concepts, the settings and
    a report. Printed is whether the best concept is more than the best of many by luck.
    """
    from napari_microdl.pipeline.files import table_fields

    config = _settings(config_file)
    fields = table_fields(table, controls, config.images)
    result = _run(fields, out, config, n_refits=n_refits)
    _draw(result, fields, out, atlas, n_figures)


@app.command(short_help="Apply a dictionary to a table of image files.")
def apply(
    dictionary: DictionaryFile,
    table: Table,
    *,
    out: Out,
    config_file: SettingsFile = None,
    controls: Controls = None,
    atlas: Atlas = False,
    n_figures: Figures = 0,
) -> None:
    """Find the concepts of a dictionary in other images, and write the same files as fit."""
    from napari_microdl.pipeline.files import table_fields

    config = _settings(config_file)
    fields = table_fields(table, controls, config.images)
    _draw(_run(fields, out, config, dictionary), fields, out, atlas, n_figures)


@app.command(short_help="Apply a dictionary to fields it has not seen, and measure its concepts.")
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
        table_fields,
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
    config = _settings(config_file)
    fields = table_fields(table, controls, config.images)
    check_labels(fields, table, labels, *([] if batches == AUTOMATIC else [batches]))
    # The evaluation tells what was found.
    result = _run(fields, out, config, dictionary, announce=False)
    add_columns(result.activations.units, table)
    with _followed():
        report = evaluate_run(result, fields, out, choices)
    for sentence in summary_sentences(report, result.config.units.kind):
        print(sentence)
    for note in report.notes:
        print(f"Note: {note}")
    print(f"The evaluation is in {out / EVALUATION_PAGE}.")


@app.command(short_help="Write the table of fields that a folder or plate makes up.")
def manifest(
    folder: Annotated[
        Path,
        Argument(
            help="Folder with image files, in folders or not; an OME-Zarr plate, an index of "
            "Harmony, or a table of files."
        ),
    ],
    *,
    out: Annotated[Path, Option(metavar="CSV", help="Where the table is written to.")],
    pattern: Annotated[
        str | None,
        Option(
            help="How files are named, such as {well}_{site}_{channel}; with slashes also their "
            "folders. Else the best of those that microscopes use."
        ),
    ] = None,
    plane: Annotated[
        str,
        Option(help="Which plane of a stack of files stands for it: middle, all or a number."),
    ] = "middle",
    metadata: Metadata = None,
    config_file: SettingsFile = None,
    check: Annotated[
        bool,
        Option("--check", help="Also open the header of every file, and list every fault."),
    ] = False,
) -> None:
    """Read plate, well, site, channel, plane, time and condition of all fields.

    Written is a table that fit, apply and evaluate take, a row a field; conditions may be filled
    in there. Printed is how files were understood, and what was left out.
    """
    from napari_microdl.core.files import write_whole
    from napari_microdl.fields.file_patterns import own_pattern
    from napari_microdl.fields.sources import check_source, find_source, left_out_sentences

    images = _settings(config_file).images
    with _followed():
        found = find_source(
            folder,
            images,
            metadata=metadata,
            pattern=None if pattern is None else own_pattern(pattern),
            plane=plane,
            # What was written before is no source for what is written now.
            passed_over=[out],
        )
        if check:
            found = check_source(found).found
    for note in found.notes:
        print(note)
    for left in found.left_out:
        print(f"Left out: {left.path}: {left.reason}")
    if not found.fields:
        raise MicrodlError(
            f"No fields were found in '{folder}'; choose a folder of TIFF, PNG or JPEG files, or "
            "another pattern."
        )
    with write_whole(out) as part:
        found.table(out.parent).to_csv(part, index=False)
    controls = sum(field.is_control for field in found.fields)
    print(f"{len(found.fields)} fields, {controls} of them called like controls, are in {out}.")
    for sentence in left_out_sentences(found):
        print(sentence)


plates = Typer(
    help="The same over plates of thousands of fields, on several processes or a cluster; the same "
    "command again goes on where it was stopped.",
    rich_markup_mode=None,
)
app.add_typer(plates, name="plate")

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
) -> None:
    """Fit a dictionary on a plate, and find its concepts in all cells of it."""
    place = {"workers": workers, "scheduler": scheduler, "cluster": cluster}
    _plate(
        source, out, config_file, controls, metadata, place,
        dry_run=dry_run, most_samples=samples or None, held_back=held_back,
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
) -> None:
    """Leave the vectors of the cells of every field in files, and the table of the fields."""
    place = {"workers": workers, "scheduler": scheduler, "cluster": cluster}
    _plate(
        source, out, config_file, controls, metadata, place, dry_run=dry_run, until="vectors"
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
) -> None:
    """Fit a dictionary on a plate, and leave its codes for later."""
    place = {"workers": workers, "scheduler": scheduler, "cluster": cluster}
    _plate(
        source, out, config_file, controls, metadata, place,
        dry_run=dry_run, most_samples=samples or None, held_back=held_back, until="dictionary",
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
) -> None:
    """Find the concepts of a dictionary in all cells of a plate."""
    place = {"workers": workers, "scheduler": scheduler, "cluster": cluster}
    _plate(source, out, config_file, controls, metadata, place, dictionary, dry_run=dry_run)


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
    with _followed():
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
    with _followed(), sole_driver(folder):
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
    with _followed(), _ended_by_signals():
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
    **options: Any,
) -> None:
    """Run a plate, or say what it will take."""
    from napari_microdl.pipeline.plate.forkserver import start_forkserver

    if place["workers"] and not dry_run:
        # Before this process has imported what it needs itself.
        start_forkserver()
    from napari_microdl.concepts.dictionary import ConceptDictionary
    from napari_microdl.pipeline.plate.dry_run import outlook
    from napari_microdl.pipeline.plate.engine import Place
    from napari_microdl.pipeline.plate.listing import list_fields
    from napari_microdl.pipeline.plate.run import PlateOptions, run_plate
    from napari_microdl.pipeline.plate.summary import sentences

    config = _settings(config_file)
    applied = None if dictionary is None else ConceptDictionary.load(dictionary)
    listing = list_fields(source, controls, config.images, metadata)
    if dry_run:
        with _followed():
            text = outlook(listing, config, applied)
        print(text)
        return
    # Before any of the weights are fetched.
    print(_terms(config, applied), file=sys.stderr, flush=True)
    with _followed(), _ended_by_signals():
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
def _ended_by_signals() -> Iterator[None]:
    """The end of a job's time, as a batch system tells it, is the same as Ctrl-C."""
    import signal

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        raise _StoppedError from None
    finally:
        signal.signal(signal.SIGTERM, before)


class _StoppedError(Exception):
    """A plate was stopped by a person or a batch system."""


def _settings(file: Path | None) -> PipelineConfig:
    return PipelineConfig() if file is None else read_config(file)


def _run(
    fields: list[Field],
    out: Path,
    config: PipelineConfig,
    dictionary_file: Path | None = None,
    *,
    n_refits: int | None = None,
    announce: bool = True,
) -> PipelineResult:
    """Fit or apply a dictionary, write what comes of it and say so."""
    from napari_microdl.concepts.dictionary import ConceptDictionary
    from napari_microdl.pipeline.files import write_run
    from napari_microdl.pipeline.run import run_pipeline
    from napari_microdl.report.findings import best_concepts, find_finding

    dictionary = None if dictionary_file is None else ConceptDictionary.load(dictionary_file)
    # Before any of the weights are fetched.
    print(_terms(config, dictionary), file=sys.stderr, flush=True)
    # A folder that cannot be written to is found before the work, not after.
    out.mkdir(parents=True, exist_ok=True)
    with _followed():
        result = run_pipeline(fields, config, dictionary=dictionary)
        finding = find_finding(result.activations, n_refits=n_refits)
        write_run(result, out, finding=finding)
    for note in result.warnings:
        print(f"Note: {note}")
    activations = result.activations
    print(
        f"{len(activations.units)} {result.config.units.kind}s, {activations.n_concepts} concepts: "
        f"the tables, the dictionary and the report are in {out}."
    )
    if announce:
        print(f"{finding.sentence()}\n{best_concepts(activations)}")
    return result


def _draw(
    result: PipelineResult, fields: list[Field], out: Path, atlas: bool, n_figures: int
) -> None:
    """Write the atlas and the figures that were asked for, and say so."""
    if atlas or n_figures:
        from napari_microdl.pipeline.files import write_pictures

        with _followed():
            names = write_pictures(result, fields, out, atlas=atlas, n_figures=n_figures)
        print(f"Also there: {', '.join(names)}.")


def _terms(config: PipelineConfig, dictionary: ConceptDictionary | None) -> str:
    """What the weights of the model may be used for, and where they come from."""
    from napari_microdl.models.base import terms_of
    from napari_microdl.models.registry import model_spec, weights_pin
    from napari_microdl.pipeline.inputs import config_of

    if dictionary is None:
        spec = model_spec(config.model.name, joint=config.model.joint)
    else:
        spec, config = dictionary.model, config_of(dictionary, config)
    return f"Model: {spec.title}. {terms_of(spec)} {weights_pin(config.model.name)}".rstrip()


class _ProgressBars:
    """A bar a stage where somebody watches, a line a stage in a log.

    What should stay in view gets a line of its own in both.
    """

    def __init__(self) -> None:
        # Not where somebody only asks for help.
        from tqdm import tqdm

        self._tqdm = tqdm
        self._part: str | None = None
        self._line = ""
        self._bar: Any = None

    def __call__(self, progress: Progress) -> None:
        part = progress.stage or progress.message
        if progress.stays or part != self._part:
            self.finish()
        if progress.stays:
            print(progress.message, file=sys.stderr)
            return
        self._part = part
        if not sys.stderr.isatty():
            self._line = f"{progress.message} ({progress.done}/{progress.total})"
            return
        if self._bar is None:
            self._bar = self._tqdm(
                total=1.0,
                file=sys.stderr,
                bar_format="{l_bar}{bar}| {elapsed}, {remaining} left",
                dynamic_ncols=True,
            )
        self._bar.set_description_str(progress.message, refresh=False)
        self._bar.update(progress.share - self._bar.n)

    def finish(self) -> None:
        """The stage is done."""
        if self._bar is not None:
            self._bar.update(1.0 - self._bar.n)
        elif self._line:
            print(self._line, file=sys.stderr)
        self._line = ""
        self.close()

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None


@contextmanager
def _followed() -> Iterator[None]:
    """A task for the work inside, whose progress is shown."""
    bars = _ProgressBars()
    try:
        with Task(bars).active():
            yield
        bars.finish()
    finally:
        bars.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process where not given.

    Returns
    -------
    int
        Exit status: 0; 2 after one sentence about what was wrong; 130 where a plate was stopped
        and can be gone on with.
    """
    try:
        app(arguments, prog_name=NAME)
    except SystemExit as ended:
        if ended.code:
            raise
    except MicrodlError as error:
        print(f"{NAME}: {error}", file=sys.stderr)
        return 2
    except _StoppedError:
        print(f"{NAME}: stopped; the same command goes on from here.", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"{NAME}: cannot write the results: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
