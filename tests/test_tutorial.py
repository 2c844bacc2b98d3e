"""The tutorial is run as a reader would, and must print what it says that it prints."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from napari_microdl.estimators.whitening import FewControlsWarning
from napari_microdl.fields.samples import simulated

ROOT = Path(__file__).parents[1]
TUTORIAL = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```\n\nIt prints\n\n```text\n(.*?)```", TUTORIAL, re.DOTALL)
NUMBER = re.compile(r"[+-]?\d+\.\d+")
# What another processor makes of the same fit.
TOLERANCE = 0.1


def alike(found: str, written: str) -> bool:
    """Whether texts are the same but for decimals that lie near each other."""
    if NUMBER.sub("#", found) != NUMBER.sub("#", written):
        return False
    numbers = [[float(n) for n in NUMBER.findall(text)] for text in (found, written)]
    return bool(np.allclose(*numbers, rtol=0, atol=TOLERANCE))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, object]]:
    """What every block prints, and what all of them leave."""
    names: dict[str, object] = {}
    printed = []
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", FewControlsWarning)
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("tutorial")))
        for code, _ in BLOCKS:
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, "docs/tutorial.md", "exec"), names)
            printed.append(out.getvalue())
    return printed, names


def test_every_block_of_code_says_what_it_prints():
    assert len(BLOCKS) == TUTORIAL.count("```python") == 4


def test_the_blocks_print_what_the_tutorial_says(run):
    printed, _ = run
    for found, (_, written) in zip(printed, BLOCKS, strict=True):
        assert alike(found, written), found


def test_decimals_may_differ_a_little_and_nothing_else():
    assert alike("a: +0.84 of 3\n", "a: +0.79 of 3\n")
    assert not alike("a: +0.84 of 3\n", "a: +0.64 of 3\n")
    assert not alike("a: +0.84 of 3\n", "a: +0.84 of 4\n")


def test_what_the_words_say_holds(run):
    """A concept follows each factor in wells not seen; size is followed less in its own alone."""
    (_, _, followed, _), names = run
    apart = [float(line.split()[-3]) for line in followed.splitlines()]
    assert min(apart[0], *apart[2:]) > 0.5
    assert 0.1 < apart[1] < apart[0] - 0.2
    assert (names["folder"] / "evaluation.html").stat().st_size > 10_000


def test_the_sample_is_the_plate_of_the_tutorial(run):
    _, names = run
    fields, truth = simulated()
    pd.testing.assert_frame_equal(truth, names["truth"])
    for ours, theirs in zip(fields, names["fields"], strict=True):
        np.testing.assert_array_equal(ours.read(), theirs.read())
        assert ours.name == theirs.name
