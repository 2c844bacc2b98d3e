"""The curve of a fit while it runs, and a fit that ends early, from the dock."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .steps import choose, click, click_tick, write


@pytest.fixture
def ready(workflow, qtbot) -> Any:
    """The dock with crops chosen and the last step open; a fit would take minutes."""
    workflow.session.settings.configure(max_steps=100_000)
    click(qtbot, workflow.cells.heading)
    choose(qtbot, workflow.cells.unit, "Square crops")
    click(qtbot, workflow.cells.heading)
    click(qtbot, workflow.dictionary.heading)
    return workflow


def fit(qtbot: Any, workflow: Any) -> Any:
    """Press Fit and wait for the end; how the fit went."""
    click(qtbot, workflow.dictionary.run_button)
    qtbot.waitUntil(lambda: not workflow.jobs.is_running)
    assert workflow.status.text().startswith("Done: ")
    return workflow.session.settings.dictionary.icfl.history_


def drawn(workflow: Any) -> tuple[np.ndarray, np.ndarray, str, float]:
    """Steps, R2, heading, and where the axis of the steps ends, as the curve shows them."""
    (axes,) = workflow.dictionary.curve.canvas.figure.axes
    (line,) = axes.lines
    return line.get_xdata(), line.get_ydata(), axes.get_title(), axes.get_xlim()[1]


def test_the_curve_grows_while_the_fit_runs(ready, qtbot):
    curve = ready.dictionary.curve
    # More concepts than samples can use, so that some are dead.
    write(qtbot, ready.dictionary.n_atoms, "300")
    records: list[Any] = []

    def hear(progress: Any) -> None:
        if progress.record is not None:
            records.append(progress.record)

    ready.jobs.progressed.connect(hear)
    assert not curve.isVisible()
    click(qtbot, ready.dictionary.run_button)
    shown = 1
    for _ in range(3):
        qtbot.waitUntil(lambda shown=shown: curve.isVisible() and len(drawn(ready)[0]) > shown)
        assert ready.jobs.is_running
        steps, r2, title, end = drawn(ready)
        shown = len(steps)
        assert steps.tolist() == [record.step for record in records[: len(steps)]]
        np.testing.assert_array_equal(r2, [record.r2 for record in records[: len(steps)]])
        # The curve is as far from the right as the fit from its end.
        assert end == 100_000
        last = records[len(steps) - 1]
        assert title == f"explains {last.r2:.1%} of samples, {last.dead_atoms} dead concepts"
    assert any(record.dead_atoms for record in records)
    click(qtbot, ready.cancel_button)
    assert not curve.isVisible()


def test_a_finished_fit_shows_its_whole_curve(ready, qtbot):
    ready.session.settings.configure(max_steps=60)
    history = fit(qtbot, ready)
    steps, r2, title, end = drawn(ready)
    assert steps.tolist() == [record.step for record in history]
    assert r2.tolist() == [record.r2 for record in history]
    assert steps[-1] == end == 60
    assert (
        title == f"explains {history[-1].r2:.1%} of samples, {history[-1].dead_atoms} dead concepts"
    )


def test_stop_early_ends_the_fit_before_its_last_step(ready, qtbot):
    # As few concepts as are learned quickly.
    ready.session.settings.configure(max_steps=300, n_atoms=2, n_iterations=1)
    assert fit(qtbot, ready)[-1].step == 300
    box = ready.dictionary.early
    click_tick(qtbot, box)
    history = fit(qtbot, ready)
    assert history[-1].step < 300
    measured = [r.held_out_r2 for r in history if r.held_out_r2 is not None and r.step % 20 == 0]
    # It ended because samples that it had not learned from were no longer reconstructed better.
    estimator = ready.session.settings.dictionary.icfl
    last = estimator.n_iter_no_change
    assert len(measured) > last
    assert max(measured[-last:]) < max(measured[:-last]) + estimator.tol
    assert drawn(ready)[0][-1] == history[-1].step
