from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import fractional_matrix_power

from core.refusals import refusal
from napari_microdl.core.task import Task
from napari_microdl.estimators.plates import (
    PlateReferences,
    fit_references,
    kind_for,
    moments_of,
)


def samples(n: int = 400, width: int = 5):
    """Controls and treated cells of two plates that lie elsewhere and vary otherwise."""
    rng = np.random.default_rng(0)
    plates = np.repeat(["P1", "P2"], n)
    x = rng.normal(size=(2 * n, width))
    x[n:] = x[n:] @ rng.normal(size=(width, width)) + 50
    return x.astype(np.float32), plates, rng.random(2 * n) < 0.5


def fitted(kind, **more) -> tuple[PlateReferences, np.ndarray]:
    x, plates, control = samples(**more)
    found = fit_references(moments_of(x, plates, control), kind)
    assert found is not None
    return found, found.align_rows(x, plates)


@pytest.mark.parametrize("kind", ["centre", "scale", "whiten"])
def test_controls_of_every_plate_become_alike(kind):
    x, plates, control = samples()
    found, aligned = fitted(kind)
    own = [np.cov(x[control & (plates == p)], rowvar=False) for p in ("P1", "P2")]
    n = [int((control & (plates == p)).sum()) - 1 for p in ("P1", "P2")]
    pooled = np.average(own, axis=0, weights=n)
    for place, plate in enumerate(("P1", "P2")):
        rows = control & (plates == plate)
        np.testing.assert_allclose(aligned[rows].mean(0), 0, atol=1e-4)
        covariance = np.cov(aligned[rows], rowvar=False)
        if kind == "centre":
            expected = own[place]
        elif kind == "scale":
            expected = covariance * 1.0
            np.fill_diagonal(expected, np.diag(pooled))
        else:
            added = 0.1 * np.median(np.linalg.eigvalsh(pooled)) * np.eye(len(pooled))
            how = fractional_matrix_power(pooled + added, 0.5)
            how = how @ fractional_matrix_power(own[place] + added, -0.5)
            expected = how @ own[place] @ how.T
        np.testing.assert_allclose(covariance, expected, rtol=1e-3, atol=1e-3)
    # Treated cells are moved by what the controls say.
    treated = ~control & (plates == "P2")
    map_ = found.maps.get("P2", np.ones(x.shape[1]))
    moved = x[treated].astype(float) - x[control & (plates == "P2")].astype(float).mean(0)
    moved = moved * map_ if map_.ndim == 1 else moved @ map_.T
    np.testing.assert_allclose(aligned[treated], moved, atol=1e-3)


def test_a_plate_with_few_controls_has_a_mean_of_its_own_alone():
    x, plates, control = samples()
    few = control & ((plates == "P1") | (np.cumsum(control & (plates == "P2")) <= 40))
    with Task().active() as task, task.taking_notes() as notes:
        found = fit_references(moments_of(x, plates, few), "whiten")
    assert found is not None
    assert list(found.maps) == ["P1"]
    assert notes == [
        "The plate 'P2' has too few controls for a covariance of its own (40; 50 are enough): its "
        "samples are placed by their mean alone."
    ]


def test_plates_that_are_asked_for_are_refused_or_taken_by_what_controls_there_are():
    plates, controls = ["P1", "P2", "P2"], [True, True, False]
    assert kind_for(None, plates, controls) == "centre"
    assert kind_for(None, ["", ""], controls[:2]) == "together"
    assert kind_for("together", plates, [False] * 3) == "together"
    assert "The plate 'P2' has no control of its own" in refusal(
        lambda: kind_for("whiten", plates, [True, False, False])
    )
    with Task().active() as task, task.taking_notes() as notes:
        assert kind_for(None, plates, [True, False, False]) == "together"
    assert notes == [
        "The plate 'P2' has no control of its own to be placed by, so plates are taken as they are."
    ]


@pytest.mark.parametrize("kind", ["scale", "whiten"])
def test_plates_of_later_are_brought_to_those_that_were_learned_on(kind):
    found, _ = fitted(kind)
    x, plates, control = samples()
    x = x * np.linspace(1, 3, x.shape[1]).astype(np.float32)
    later = found.applied_to(moments_of(x, np.full(len(x), "P9"), control & (plates == "P2")))
    np.testing.assert_array_equal(later.common, found.common)
    aligned = later.align(x[control & (plates == "P2")], "P9")
    variances = np.diag(found.common) if found.common.ndim == 2 else found.common
    np.testing.assert_allclose(aligned.var(0, ddof=1), variances, rtol=0.2)
    # Without controls: the plate of its name, or none.
    none = moments_of(x, plates, np.zeros(len(x), bool))
    with Task().active() as task, task.taking_notes() as notes:
        np.testing.assert_array_equal(found.applied_to(none).means["P1"], found.means["P1"])
    assert "The plates 'P1' and 'P2' have no control here" in notes[0]
    assert "The plate 'P9' has no control" in refusal(lambda: found.applied_to({"P9": none["P1"]}))
