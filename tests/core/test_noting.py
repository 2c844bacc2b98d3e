"""Notes of a fit are those of its own thread."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Generator

import numpy as np
import pytest

from napari_microdl.core.noting import noted, steps_noted, warn
from napari_microdl.estimators.icfl import ICFL, FewSamplesWarning
from napari_microdl.estimators.whitening import ControlWhitening, FewControlsWarning


def working(rounds: int = 1) -> Generator[int, None, str]:
    """Warns before every step and once more at the end."""
    for number in range(rounds):
        warn(f"step {number}", FewControlsWarning)
        yield number
    warn("end", FewControlsWarning)
    return "result"


def test_nobody_takes_notes_so_it_is_a_warning_of_the_place_that_called():
    with pytest.warns(FewControlsWarning, match="few") as caught:
        warn("few", FewControlsWarning)
    assert caught[0].filename == __file__


def test_steps_are_taken_with_notes_and_code_between_them_keeps_its_warnings():
    notes: list[str] = []
    steps = steps_noted(working(2), notes)
    assert next(steps) == 0
    with pytest.warns(FewSamplesWarning, match="between"):
        warn("between", FewSamplesWarning)
    assert next(steps) == 1
    with pytest.raises(StopIteration) as ended:
        next(steps)
    assert ended.value.value == "result"
    assert notes == ["step 0", "step 1", "end"]


def test_notes_within_notes_are_apart():
    outer: list[str] = []
    inner: list[str] = []
    with noted(outer):
        with noted(inner):
            warn("in", FewControlsWarning)
        warn("out", FewControlsWarning)
    assert (outer, inner) == (["out"], ["in"])


def test_an_error_ends_the_taking_of_notes():
    with pytest.raises(ZeroDivisionError), noted([]):
        raise ZeroDivisionError
    with pytest.warns(FewControlsWarning):
        warn("after", FewControlsWarning)


def test_two_threads_at_once_take_their_own_and_leave_the_filters_as_they_were():
    # The second begins within the first and is still at it when the first has ended.
    first_in, second_in, first_out = threading.Event(), threading.Event(), threading.Event()
    notes: dict[str, list[str]] = {"first": [], "second": []}
    filters = list(warnings.filters)

    def first() -> None:
        with noted(notes["first"]):
            first_in.set()
            assert second_in.wait(10)
            warn("of the first", FewControlsWarning)
        first_out.set()

    def second() -> None:
        assert first_in.wait(10)
        with noted(notes["second"]):
            second_in.set()
            assert first_out.wait(10)
            warn("of the second", FewControlsWarning)

    threads = [threading.Thread(target=work) for work in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert notes == {"first": ["of the first"], "second": ["of the second"]}
    assert list(warnings.filters) == filters


@pytest.mark.parametrize("method", ["fit", "partial_fit", "fit_transform"])
def test_an_estimator_warns_at_the_line_that_calls_it(method: str):
    x = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)
    icfl = ICFL(n_atoms=16, n_iterations=1, atoms_per_iteration=2, max_steps=2)
    with pytest.warns(FewSamplesWarning, match="12 samples for 16 atoms") as of_icfl:
        getattr(icfl, method)(x)
    whitening = ControlWhitening()
    if method == "partial_fit":
        # It solves for the axes when they are asked for.
        whitening.partial_fit(x)
        method = "transform"
    with pytest.warns(FewControlsWarning, match="12 control samples for 16") as of_whitening:
        getattr(whitening, method)(x)
    assert {w.filename for w in (*of_icfl, *of_whitening)} == {__file__}


def test_a_fit_adds_to_the_notes_that_are_taken():
    x = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    notes: list[str] = []
    with noted(notes):
        ICFL(n_atoms=16, n_iterations=1, atoms_per_iteration=2, max_steps=2).fit(x)
    assert notes == [
        "There are 12 samples for 16 atoms, so that atoms may hold single samples; use more "
        "samples or fewer atoms."
    ]
