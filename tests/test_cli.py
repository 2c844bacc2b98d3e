from __future__ import annotations

import dataclasses
import io
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from core.processes import python
from napari_microdl.cli import main
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.pipeline import demo

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
    return [dataclasses.replace(f, data=f.data[:, 100:196, 100:196]) for f in transfluor()]


def test_the_headless_demo_runs_and_says_what_it_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "transfluor", corners)
    out = tmp_path / "made" / "here"
    assert main(["demo", "--headless", "--out", str(out)]) == 0
    output = capsys.readouterr()
    # Corners hold too few cells to show it for sure.
    finding = json.loads((out / "report.json").read_text(encoding="utf-8"))["finding_figures"]
    sentence = "marks the 'puncta' condition" if finding["is_finding"] else "No finding: "
    assert sentence in output.out
    assert f"The table, the dictionary and the figures are in {out}." in output.out
    assert sorted(p.name for p in out.iterdir()) == [
        "cells.csv", "concepts.csv", "dictionary.microdl.safetensors", "distribution.png",
        "gallery.png", "overlay_heatmap.png", "overlay_units.png", "report.json", "settings.json",
    ]  # fmt: skip
    # One line a stage in a log.
    lines = output.err.splitlines()
    assert len(lines) == 9
    assert lines[-3] == "Done (1/1)"
    assert lines[-2].startswith("Asking whether wells that swap do as well (")
    assert lines[-1] == "Writing the results (0/1)"
    # And one for what a run takes, before it takes it.
    (estimate,) = [number for number, line in enumerate(lines) if ESTIMATE.fullmatch(line)]
    assert lines[estimate + 1].startswith("Reading patches of ")


def test_a_folder_that_cannot_be_written_gives_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "transfluor", corners)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "inside"):
        assert main(["demo", "--headless", "--out", str(out)]) == 2
        output = capsys.readouterr()
        assert output.out == ""
        assert output.err.startswith("napari-microdl: cannot write the results: ")
        assert str(tmp_path / "file") in output.err
        assert len(output.err.splitlines()) == 1


def test_bad_input_gives_one_sentence(tmp_path, monkeypatch, capsys):
    def refuse(out: Path, *, overwrite: bool) -> str:
        current_task().progress(0, 1, "Looking")
        raise MicrodlError("There are no fields.")

    monkeypatch.setattr(demo, "run_demo", refuse)
    assert main(["demo", "--headless", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "napari-microdl: There are no fields.\n"


def test_progress_is_a_bar_a_stage_where_somebody_watches(tmp_path, monkeypatch):
    def steps(out: Path, *, overwrite: bool) -> str:
        task = current_task()
        with task.stage("tokens"):
            for done in range(3):
                task.progress(done, 4, "Reading")
        with task.stage("dictionary"):
            task.progress(1, 2, "Fitting")
            raise MicrodlError("It did not go well.")

    terminal = Terminal()
    monkeypatch.setattr(demo, "run_demo", steps)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["demo", "--headless", "--out", str(tmp_path)]) == 2
    reading, fitting, error, end = terminal.shown()
    # A stage that ended is done, one that did not stays where it was.
    assert re.fullmatch(r"Reading: 100%\|\S+\| 00:0\d, 00:00 left", reading)
    assert re.fullmatch(r"Fitting:  50%\|.+\| 00:0\d, (00:0\d|\?) left", fitting)
    assert error == "napari-microdl: It did not go well."
    assert end == ""


def test_what_a_run_takes_stays_on_the_terminal(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(demo, "transfluor", corners)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["demo", "--headless", "--out", str(tmp_path)]) == 0
    shown = terminal.shown()
    assert ESTIMATE.fullmatch(shown[2])
    assert shown[5].startswith("Fitting the dictionary, start 8 of 8: explains ")
    # Beside the estimate and the end, every stage is done.
    assert len(shown) == 10
    assert sum("100%" in line for line in shown) == 8


def test_without_a_window_system_the_sentence_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "napari_microdl.gui.plugin.launch", None)
    assert main(["demo"]) == 2
    error = capsys.readouterr().err
    assert "pip install 'napari-microdl[gui]', or use --headless." in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("arguments", [[], ["fit"], ["apply", "a", "b"], ["demo", "--outt", "x"]])
def test_unknown_arguments_exit_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("Usage: napari-microdl")
    assert error.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize("command", ["demo", "fit", "apply", "evaluate", "manifest"])
def test_every_command_has_help_that_loads_nothing_heavy(command):
    code = (
        "import sys\n"
        "from napari_microdl.cli import main\n"
        f"assert main(['{command}', '--help']) == 0\n"
        "print([n for n in ('torch', 'sklearn', 'pandas', 'napari', 'tqdm') if n in sys.modules])"
    )
    done = python(code)
    assert done.stdout.startswith(f"Usage: napari-microdl {command}")
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_a_run_that_is_stopped_says_so_in_a_sentence_and_leaves_nothing_half(
    number, status, tmp_path
):
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "napari_microdl.cli", "demo", "--headless", "--out", str(out)],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if ESTIMATE.fullmatch(line.strip()):
            break
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == status, "".join(seen) + error
    assert error.splitlines()[-1] == "napari-microdl: stopped; nothing is left half written."
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_there_is_not_replaced_unasked(tmp_path, capsys):
    (tmp_path / "cells.csv").write_text("hours of work")
    assert main(["demo", "--headless", "--out", str(tmp_path)]) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert "holds a run already ('cells.csv'); choose another folder" in error
    assert (tmp_path / "cells.csv").read_text() == "hours of work"
