"""All commands, and what the process ends with."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from typer import Typer

from napari_microdl.cli.manifest import manifest
from napari_microdl.cli.plates import plates
from napari_microdl.cli.runs import apply, demo, evaluate, fit
from napari_microdl.cli.stopping import Stopped, stopped_by_signals
from napari_microdl.core.errors import MicrodlError

NAME = "napari-microdl"

app = Typer(
    help="Concepts in microscopy images, by dictionary learning on model tokens.",
    add_completion=False,
    pretty_exceptions_enable=False,
    # Plain text, as in a log.
    rich_markup_mode=None,
)
for command, help_in_short in (
    (demo, "Run the main job on the bundled treated and control wells."),
    (fit, "Fit a dictionary on a table of image files."),
    (apply, "Apply a dictionary to a table of image files."),
    (evaluate, "Apply a dictionary to fields it has not seen, and measure its concepts."),
    (manifest, "Write the table of fields that a folder or plate makes up."),
):
    app.command(short_help=help_in_short)(command)
app.add_typer(plates, name="plate")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Parameters
    ----------
    arguments : sequence of str, optional
        Those of the process where not given.

    Returns
    -------
    int
        Exit status: 0; 2 after one sentence about what was wrong; 130 after Ctrl-C and 143 after
        SIGTERM, with one sentence about what is left.
    """
    try:
        with stopped_by_signals():
            app(arguments, prog_name=NAME)
    except SystemExit as ended:
        if ended.code:
            raise
    except MicrodlError as error:
        return _ended(str(error), error, 2)
    except Stopped as error:
        return _ended(f"stopped; {error.sentence}.", error, 128 + error.number)
    except OSError as error:
        return _ended(f"cannot write the results: {error}", error, 2)
    return 0


def _ended(sentence: str, error: BaseException, status: int) -> int:
    """Say in one line why the command has ended, and what those have noted that it has passed."""
    notes = getattr(error, "__notes__", [])
    print(f"{NAME}: {' '.join([sentence, *notes])}", file=sys.stderr)
    return status
