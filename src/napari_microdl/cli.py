"""The command ``napari-microdl``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from napari_microdl.errors import MicrodlError

if TYPE_CHECKING:
    from napari_microdl.pipeline import Progress


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
    return parser


def _show(progress: Progress) -> None:
    """Progress on one line where it is watched, a line a stage in a log."""
    text = f"{progress.message} ({progress.done}/{progress.total})"
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text:<78}")
        if progress.done == progress.total:
            sys.stderr.write("\n")
    elif progress.done == progress.total:
        sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


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
        if options.headless:
            from napari_microdl.demo import run_demo

            sentence = run_demo(options.out, progress=_show)
            print(f"{sentence}\nEverything is in {options.out}{'/' if options.out.name else ''}.")
        else:
            try:
                from napari_microdl.gui.launch import launch_demo
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
