"""The command ``napari-microdl``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_microdl.core.errors import MicrodlError

if TYPE_CHECKING:
    from napari_microdl.pipeline.run import Progress
    from napari_microdl.report import EvaluationStep


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="napari-microdl",
        description="Concepts in microscopy images, by dictionary learning on model tokens.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="run the main job on the bundled treated and control wells",
        description="Runs the main job on the bundled sample, in a napari window or without one.",
    )
    demo.add_argument("--headless", action="store_true", help="no window; write files instead")
    demo.add_argument(
        "--out",
        type=Path,
        default=Path("demo-output"),
        metavar="DIR",
        help="where --headless writes to (default: demo-output)",
    )
    fit = commands.add_parser(
        "fit",
        help="fit a dictionary on a table of image files",
        description="Runs from images to concepts and writes the dictionary, the table of cells, "
        "the ranking of the concepts, the settings and a report.",
    )
    apply = commands.add_parser(
        "apply",
        help="apply a dictionary to a table of image files",
        description="Finds the concepts of a dictionary in other images, and writes the same "
        "files as fit.",
    )
    evaluate = commands.add_parser(
        "evaluate",
        help="apply a dictionary to fields it has not seen, and measure its concepts",
        description="Applies a dictionary and writes, beside what apply writes, an evaluation as "
        "JSON and as a page that can be read without internet: selectivity with its null and "
        "interval, probes, reconstruction, batch effects, handcrafted measurements, pictures.",
    )
    for command in (apply, evaluate):
        command.add_argument("dictionary", type=Path, help="*.microdl.safetensors file")
    for command in (fit, apply, evaluate):
        command.add_argument(
            "table",
            type=Path,
            help="CSV, TSV or Parquet file with a row a field: FileName_<channel>, PathName_"
            "<channel> and Metadata_* columns",
        )
        command.add_argument(
            "--out", type=Path, required=True, metavar="DIR", help="folder for the results"
        )
        command.add_argument(
            "--config",
            type=Path,
            metavar="FILE",
            help="settings, as the window or an earlier run saved them (JSON)",
        )
        command.add_argument(
            "--controls",
            metavar="QUERY",
            help="which fields are controls, such as \"Metadata_condition == 'DMSO'\"; else the "
            "column Metadata_control says so",
        )
    evaluate.add_argument(
        "--labels",
        metavar="COLUMN",
        default="Metadata_condition",
        help="column of the table that concepts should tell (default: Metadata_condition)",
    )
    evaluate.add_argument(
        "--independent",
        choices=("wells", "fields", "plates"),
        default="wells",
        help="what was treated as one, and is shuffled, drawn again and left out as one (default: "
        "wells; fields where no well is known)",
    )
    evaluate.add_argument(
        "--shuffles",
        type=int,
        default=999,
        metavar="N",
        help="shuffles of the labels; p cannot be less than 1 / (N + 1) (default: 999)",
    )
    evaluate.add_argument(
        "--no-handcrafted",
        action="store_true",
        help="do not measure shape, intensity and texture of the cells to compare with",
    )
    evaluate.add_argument(
        "--library",
        choices=("scikit-image", "cp_measure"),
        default="scikit-image",
        help="whose measurements of the cells: a few dozen from scikit-image, or the hundreds of "
        "CellProfiler as the package cp-measure has them (default: scikit-image)",
    )
    evaluate.add_argument(
        "--seeds",
        type=int,
        default=0,
        metavar="N",
        help="fit N more dictionaries with other seeds, and say how far they agree (default: 0, as "
        "each takes as long as a fit)",
    )
    evaluate.add_argument(
        "--batches",
        metavar="COLUMN",
        default="auto",
        help="column by which controls are compared to find technical concepts, such as "
        "Metadata_Plate, Metadata_Site or one of your own (default: plates; of one plate, sites)",
    )
    evaluate.add_argument(
        "--unseen-only",
        action="store_true",
        help="leave out fields that the dictionary was fitted on, on which figures are optimistic",
    )
    return parser


class _ProgressLine:
    """Progress on one line where somebody watches, one line a stage in a log.

    What should stay in view gets a line of its own in both.
    """

    def __init__(self) -> None:
        self._last: Progress | EvaluationStep | None = None

    def __call__(self, progress: Progress | EvaluationStep) -> None:
        if getattr(progress, "stays", False):
            self._leave(progress.message)
            return
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{self._text(progress):<78}")
            sys.stderr.flush()
        elif self._last is not None and self._last.stage != progress.stage:
            print(self._text(self._last), file=sys.stderr)
        self._last = progress

    def _leave(self, message: str) -> None:
        """Write a line that is not written over."""
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{message:<78}\n")
        else:
            if self._last is not None:
                print(self._text(self._last), file=sys.stderr)
            print(message, file=sys.stderr)
        self._last = None

    def finish(self) -> None:
        """End the line."""
        if self._last is not None:
            print("" if sys.stderr.isatty() else self._text(self._last), file=sys.stderr)

    @staticmethod
    def _text(progress: Progress | EvaluationStep) -> str:
        return f"{progress.message} ({progress.done}/{progress.total})"


def _run(options: argparse.Namespace) -> None:
    """Fit, apply or evaluate a dictionary."""
    from napari_microdl.concepts.dictionary import ConceptDictionary
    from napari_microdl.core.config import PipelineConfig, read_config
    from napari_microdl.metrics import require_library
    from napari_microdl.models.registry import model_spec, weights_pin
    from napari_microdl.models.terms import terms_of
    from napari_microdl.pipeline.files import (
        EVALUATION_PAGE,
        add_columns,
        check_labels,
        evaluate_run,
        run_table,
        table_fields,
    )
    from napari_microdl.pipeline.inputs import config_of
    from napari_microdl.report import AUTOMATIC, EvaluationChoices
    from napari_microdl.report.text import summary_sentences

    choices, fields = None, []
    if options.command == "evaluate":
        # A choice that means nothing is found before the work, not after.
        choices = EvaluationChoices(
            labels=options.labels,
            independent=options.independent,
            n_permutations=options.shuffles,
            handcrafted=not options.no_handcrafted,
            library=options.library,
            n_seeds=options.seeds,
            unseen_only=options.unseen_only,
            batches=options.batches,
        )
        if choices.handcrafted:
            require_library(choices.library)
        fields = table_fields(options.table, options.controls)
        named = [] if choices.batches == AUTOMATIC else [choices.batches]
        check_labels(fields, options.table, choices.labels, *named)
    config = PipelineConfig() if options.config is None else read_config(options.config)
    dictionary, place = None, config.model.name
    if options.command != "fit":
        dictionary = ConceptDictionary.load(options.dictionary)
        spec, place = dictionary.model, config_of(dictionary, config).model.name
    else:
        spec = model_spec(config.model.name, joint=config.model.joint)
    terms = f"Model: {spec.title}. {terms_of(spec)} {weights_pin(place)}"
    # Before any of its weights are fetched.
    print(terms.rstrip(), file=sys.stderr, flush=True)
    line = _ProgressLine()
    result = run_table(
        options.table,
        options.out,
        config,
        dictionary=dictionary,
        controls=options.controls,
        progress=line,
    )
    line.finish()
    for note in result.warnings:
        print(f"Note: {note}")
    activations = result.activations
    print(
        f"{len(activations.units)} {result.config.units.kind}s, {activations.n_concepts} concepts: the "
        f"tables, the dictionary and the report are in {options.out}."
    )
    if choices is not None:
        add_columns(result.activations.units, options.table)
        line = _ProgressLine()
        report = evaluate_run(result, fields, options.out, choices, progress=line)
        line.finish()
        for sentence in summary_sentences(report, result.config.units.kind):
            print(sentence)
        for note in report.notes:
            print(f"Note: {note}")
        print(f"The evaluation is in {options.out / EVALUATION_PAGE}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process where not given.

    Returns
    -------
    int
        Exit status: 0, or 2 after one sentence about what was wrong.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.command != "demo":
            _run(options)
        elif options.headless:
            from napari_microdl.pipeline.demo import run_demo

            line = _ProgressLine()
            sentence = run_demo(options.out, progress=line)
            line.finish()
            print(f"{sentence}\nThe table, the dictionary and the figures are in {options.out}.")
        else:
            try:
                from napari_microdl.gui.plugin.launch import launch_demo
            except ImportError as error:
                raise MicrodlError(
                    f"The window needs napari and Qt ({error}); install them with "
                    "pip install 'napari-microdl[gui]', or use --headless."
                ) from error
            launch_demo()
    except MicrodlError as error:
        print(f"napari-microdl: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"napari-microdl: cannot write the results: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
