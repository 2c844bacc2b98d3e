from __future__ import annotations

import dataclasses
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from napari_microdl.cli import main
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.pipeline import demo
from napari_microdl.pipeline.run import Progress

ESTIMATE = re.compile(r"\d+ tiles will take about \d+ MB of memory, beside the model\.")


class Terminal(io.StringIO):
    """Where somebody watches."""

    def isatty(self) -> bool:
        return True

    def shown(self) -> list[str]:
        """Lines that are left to be seen: each begins anew at a carriage return."""
        lines = []
        for line in self.getvalue().split("\n"):
            seen = ""
            for text in line.split("\r"):
                seen = text + seen[len(text) :]
            lines.append(seen.rstrip())
        return lines


def corners() -> list[Field]:
    return [dataclasses.replace(f, data=f.data[:, 100:260, 100:260]) for f in transfluor()]


def test_the_headless_demo_runs_and_says_what_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(demo, "transfluor", corners)
    out = tmp_path / "made" / "here"
    assert main(["demo", "--headless", "--out", str(out)]) == 0
    output = capsys.readouterr()
    assert "marks the 'puncta' condition" in output.out
    assert f"The table, the dictionary and the figures are in {out}." in output.out
    assert sorted(p.name for p in out.iterdir()) == [
        "cells.csv",
        "concepts.csv",
        "dictionary.microdl.safetensors",
        "distribution.png",
        "gallery.png",
        "overlay_heatmap.png",
        "overlay_units.png",
        "report.json",
        "settings.json",
    ]
    # One line a stage in a log.
    lines = output.err.splitlines()
    assert len(lines) == 7
    assert lines[-1] == "Done (1/1)"
    # And one for what a run takes, before it takes it.
    (estimate,) = [number for number, line in enumerate(lines) if ESTIMATE.fullmatch(line)]
    assert lines[estimate + 1].startswith("Reading tokens of ")


def test_a_folder_that_cannot_be_written_gives_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(demo, "transfluor", corners)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "inside"):
        assert main(["demo", "--headless", "--out", str(out)]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("napari-microdl: cannot write the results: ")
        assert str(tmp_path / "file") in output.err
        assert len(output.err.splitlines()) == 1


def test_bad_input_gives_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def refuse(out: Path, progress: Callable[[Progress], None]) -> str:
        raise MicrodlError("There are no fields; choose at least one image.")

    monkeypatch.setattr(demo, "run_demo", refuse)
    assert main(["demo", "--headless", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "napari-microdl: There are no fields; choose at least one image.\n"
    )


def test_progress_stays_on_one_line_where_somebody_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def steps(out: Path, progress: Callable[[Progress], None]) -> str:
        for done in range(3):
            progress(Progress("embed", done, 2, "Reading"))
        return "Found."

    terminal = Terminal()
    monkeypatch.setattr(demo, "run_demo", steps)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["demo", "--headless", "--out", str(tmp_path)]) == 0
    assert terminal.getvalue().count("\r") == 3
    assert terminal.getvalue().count("\n") == 1
    assert "Reading (2/2)" in terminal.getvalue()


def test_what_a_run_takes_stays_on_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    terminal = Terminal()
    monkeypatch.setattr(demo, "transfluor", corners)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["demo", "--headless", "--out", str(tmp_path)]) == 0
    shown = terminal.shown()
    assert len(shown) == 3
    assert ESTIMATE.fullmatch(shown[0])
    assert shown[1:] == ["Done (1/1)", ""]


def test_without_a_window_system_the_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(sys.modules, "napari_microdl.gui.plugin.launch", None)
    assert main(["demo"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'napari-microdl[gui]', or use --headless." in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["fit"], ["apply", "a", "b"], ["demo", "--outt", "x"]])
def test_unknown_arguments_exit_with_two(arguments: list[str], capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: napari-microdl" in capsys.readouterr().err
