from __future__ import annotations

import os
import sys
import traceback

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

import references
from estimators.cases import PROCESSES
from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.icfl import ICFL

if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
    pytest.skip("torch was built without gloo", allow_module_level=True)

SHAPE = (3000, 32)
# Enough steps for the redraw at step 100 and for the final solve.
SMALL = {
    "n_atoms": 24,
    "n_iterations": 2,
    "atoms_per_iteration": 1,
    "validation_fraction": 0.05,
    "max_steps": 151,
    "random_state": 7,
}
CASES = {
    "newton": {"batch_size": 256},
    "newton, odd batches": {"batch_size": 201},
    "adam, odd batches": {
        "update": "adam",
        "learning_rate": 3e-3,
        "batch_size": 201,
        "max_steps": 110,
    },
    "control first": {"control_atoms": 6, "batch_size": 201, "max_steps": 60},
    "early stopping": {
        "early_stopping": True,
        "tol": 0.05,
        "n_iter_no_change": 2,
        "batch_size": 201,
    },
}
OF_THREE = ["newton, odd batches"]


def read(path):
    return np.memmap(path, np.float32, "r", shape=SHAPE)


def fitted(case, x, **keywords):
    if "control_atoms" in CASES[case]:
        keywords["controls"] = np.arange(len(x)) % 3 == 0
    return ICFL(**SMALL | CASES[case]).fit(x, **keywords)


def outcome(icfl):
    return {
        "components": icfl.components_,
        "bias": icfl.bias_,
        "dead": icfl.dead_,
        "groups": icfl.groups_.tolist(),
        "steps": [record.step for record in icfl.history_],
        "r2": [record.r2 for record in icfl.history_],
        "held_out_r2": [record.held_out_r2 for record in icfl.history_],
        "resets": icfl.history_[-1].resets,
        "n_samples": icfl.history_[-1].n_samples,
    }


def fit_cases(x, group, folder, cases):
    return {case: outcome(fitted(case, x, process_group=group)) for case in cases}


def cancel_and_resume(x, group, folder, cases):
    """Cancel after 70 steps, and go on with what the first process has saved."""
    icfl = ICFL(**SMALL | CASES[cases[0]])
    keywords = {"checkpoint": folder / "fit", "process_group": group}
    steps = icfl.fit_iter(x, **keywords)
    for _ in range(70):
        next(steps)
    steps.close()
    torch.distributed.barrier()
    files = sorted(path.name for path in folder.iterdir() if path.name.startswith("fit"))
    steps = icfl.fit_iter(x, resume=True, **keywords)
    first = next(steps).step
    for _ in steps:
        pass
    return {"files": files, "first": first, **outcome(icfl)}


def meet_a_bad_row(x, group, folder, cases):
    x = x.copy()
    x[1717] = np.nan
    np.save(folder / f"bad{group.rank()}.npy", x)
    icfl = ICFL(**SMALL | CASES[cases[0]])
    try:
        icfl.fit(np.load(folder / f"bad{group.rank()}.npy", mmap_mode="r"), process_group=group)
    except MicrodlError as error:
        return str(error), hasattr(icfl, "components_")
    return None


def take_part(rank, count, folder, task, cases, connection):
    """One of the processes of a fit."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    try:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count
        )
        group = torch.distributed.group.WORLD
        connection.send((task(read(folder / "x"), group, folder, cases), None))
        torch.distributed.destroy_process_group()
    except BaseException:
        connection.send((None, traceback.format_exc()))


def together(count, folder, task, cases=()):
    """What each of some processes makes of a task."""
    (folder / "meeting").unlink(missing_ok=True)
    ends, running = [], []
    try:
        for rank in range(count):
            here, there = PROCESSES.Pipe(duplex=False)
            process = PROCESSES.Process(
                target=take_part, args=(rank, count, folder, task, tuple(cases), there)
            )
            process.start()
            there.close()
            ends.append(here)
            running.append(process)
        told = []
        for here in ends:
            assert here.poll(120), "the processes wait for each other"
            told.append(here.recv())
        # The others tell only that one has gone.
        errors = sorted((error for _, error in told if error), key=len)
        assert not errors, errors[0]
        told = [result for result, _ in told]
    finally:
        for here, process in zip(ends, running, strict=True):
            process.join(timeout=10)
            process.kill()
            here.close()
    return told


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    # As many atoms as are learned: rounding errors die away, since no two of them share a place.
    _, x = references.planted_dictionary(*SHAPE, 24, 2, seed=0)
    np.memmap(folder / "x", np.float32, "w+", shape=SHAPE)[:] = x
    return folder


@pytest.fixture(scope="module")
def of_two(folder):
    return together(2, folder, fit_cases, CASES)


@pytest.fixture(scope="module")
def of_three(folder):
    return together(3, folder, fit_cases, OF_THREE)


@pytest.fixture(scope="module")
def alone(folder):
    return fit_cases(read(folder / "x"), None, folder, CASES)


def assert_the_same(one, other):
    for key, value in one.items():
        assert_array_equal(value, other[key], err_msg=key)


EVERY_CASE = [("of_two", case) for case in CASES] + [("of_three", case) for case in OF_THREE]


@pytest.mark.parametrize(("processes", "case"), EVERY_CASE)
def test_all_processes_end_with_identical_atoms(processes, case, request):
    first, *others = (outcomes[case] for outcomes in request.getfixturevalue(processes))
    assert len(others) == {"of_two": 1, "of_three": 2}[processes]
    for other in others:
        assert_the_same(first, other)


@pytest.mark.parametrize(("processes", "case"), EVERY_CASE)
def test_processes_that_share_a_fit_learn_what_one_learns_alone(processes, case, alone, request):
    shared = request.getfixturevalue(processes)[0][case]
    expected = alone[case]
    for key in ("steps", "groups", "resets", "n_samples"):
        assert shared[key] == expected[key], key
    assert_array_equal(shared["dead"], expected["dead"])
    assert_allclose(shared["components"], expected["components"], atol=1e-4)
    assert_allclose(shared["bias"], expected["bias"], atol=1e-4)
    for key in ("r2", "held_out_r2"):
        # None becomes NaN, which is equal to itself here.
        mine, theirs = (np.array(one[key], dtype=float) for one in (shared, expected))
        assert_allclose(mine, theirs, atol=1e-4)


def test_the_cases_put_redraws_and_early_stopping_to_the_test(alone):
    for case in ("newton", "newton, odd batches", "adam, odd batches"):
        assert alone[case]["resets"] > 0, case
    assert 20 < alone["early stopping"]["steps"][-1] < 151
    assert set(alone["control first"]["groups"]) == {"seen in controls", "only in treated"}


def test_a_shared_fit_that_was_cancelled_goes_on_to_the_same_dictionary(folder, of_two):
    case = "newton, odd batches"
    told = together(2, folder, cancel_and_resume, [case])
    assert [one.pop("files") for one in told] == [["fit"], ["fit"]]
    assert [one.pop("first") for one in told] == [71, 71]
    for one in told:
        assert_the_same(one, of_two[0][case])


def test_all_processes_stop_at_a_bad_row(folder):
    for message, is_fitted in together(2, folder, meet_a_bad_row, ["newton"]):
        assert (
            message == "Row 1717 of the samples holds NaN or infinity: remove or repair it first."
        )
        assert not is_fitted


def share_two_samples(x, group, folder, cases):
    icfl = ICFL(**SMALL | {"batch_size": 2})
    with pytest.raises(MicrodlError) as caught:
        icfl.fit(x, process_group=group)
    return str(caught.value)


def test_more_processes_than_samples_in_a_batch_are_refused(folder):
    message = (
        "A batch of 2 samples cannot be shared by 3 processes: "
        "set a larger batch_size or use fewer processes."
    )
    assert together(3, folder, share_two_samples) == [message] * 3
