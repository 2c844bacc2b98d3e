from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import signal
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from safetensors.numpy import load_file, save_file

import references
from core.refusals import Payload
from estimators.cases import PROCESSES, Loader, refused
from napari_microdl.core.safetensors_files import read_safetensors, write_record
from napari_microdl.estimators.icfl import ICFL
from tasks import cancelling

STEPS = 160
SMALL = {
    "n_atoms": 24,
    "n_iterations": 2,
    "atoms_per_iteration": 2,
    "batch_size": 64,
    "validation_fraction": 0.05,
    "random_state": 0,
}


def samples(n_samples=2000, n_features=16, seed=0):
    """So simple that 24 atoms are too many, and some are drawn anew."""
    _, x = references.planted_dictionary(n_samples, n_features, 8, 2, seed)
    return x


def batches_of_different_sizes(x):
    return np.split(x, np.cumsum([70, 1, 300, 45, 500, 128]))


def newton(folder):
    return ICFL(**SMALL, max_steps=STEPS), samples(), {}


def adam(folder):
    parameters = {"update": "adam", "init": "linear", "learning_rate": 1e-2, "max_steps": STEPS}
    return ICFL(**SMALL, **parameters), samples(), {}


def memory_map(folder):
    path = folder / "x"
    if not path.exists():
        np.memmap(path, np.float16, "w+", shape=(2000, 16))[:] = samples()
    x = np.memmap(path, np.float16, "r", shape=(2000, 16))
    return ICFL(**SMALL, max_steps=STEPS), x, {}


def stream_to_its_end(folder):
    x = samples(64 * (STEPS + 1) + 20)
    return ICFL(**SMALL), iter(batches_of_different_sizes(x)), {}


def loader_gone_through_again(folder):
    return ICFL(**SMALL, max_steps=STEPS), Loader(batches_of_different_sizes(samples())), {}


def control_first(folder):
    x = samples()
    icfl = ICFL(**SMALL, control_atoms=8, max_steps=STEPS)
    return icfl, x, {"controls": np.arange(2000) % 3 == 0}


def control_first_streams(folder):
    icfl = ICFL(**SMALL, control_atoms=8, max_steps=STEPS)
    controls, treated = (batches_of_different_sizes(samples(seed=seed)) for seed in (1, 2))
    return icfl, Loader(treated), {"controls": Loader(controls)}


def early_stopping(folder):
    parameters = {"max_steps": 3000, "early_stopping": True, "n_iter_no_change": 2}
    return ICFL(**SMALL, **parameters), samples(), {}


def fit_and_tell(make, folder, connection):
    """Fit with a checkpoint after every step, and tell every step."""
    icfl, x, keywords = make(folder)
    for record in icfl.fit_iter(x, checkpoint=folder / "fit", checkpoint_minutes=0, **keywords):
        connection.send(record.step)


def resume_and_begin_anew(make, folder, connection):
    """Tell the first step after resuming, its result, and that of a fit in one go."""
    icfl, x, keywords = make(folder)
    steps = icfl.fit_iter(x, checkpoint=folder / "fit", resume=True, **keywords)
    first = next(steps).step
    for _ in steps:
        pass
    connection.send((first, result(icfl), uninterrupted(make, folder)))


def result(icfl):
    """What a fit leaves, without the time it took."""
    history = [dataclasses.replace(record, seconds=0.0) for record in icfl.history_]
    return icfl.components_, icfl.bias_, icfl.dead_, icfl.groups_.tolist(), history


def assert_identical(one, other):
    for mine, theirs in zip(one[:3], other[:3], strict=True):
        assert mine.dtype == theirs.dtype
        assert_array_equal(mine, theirs)
    assert one[3:] == other[3:]


@contextmanager
def process_of(target, make, folder):
    """A process of its own for a case, and the end of the pipe that it tells of its work."""
    here, there = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=target, args=(make, folder, there))
    process.start()
    there.close()
    try:
        yield process, here
    finally:
        process.kill()
        process.join()
        here.close()


def told(here):
    assert here.poll(60), "the fit does not go on"
    return here.recv()


def uninterrupted(make, folder):
    icfl, x, keywords = make(folder)
    return result(icfl.fit(x, **keywords))


def steps_in(path):
    _, metadata = read_safetensors(path)
    numbers = json.loads(metadata["napari_microdl_icfl_checkpoint"])["numbers"]
    return numbers["steps_before"] + numbers["steps"]


def cancelled_at(step, icfl, x, path, **keywords):
    steps = icfl.fit_iter(x, checkpoint=path, **keywords)
    while next(steps).step < step:
        pass
    steps.close()


SOURCES = [
    newton,
    adam,
    memory_map,
    stream_to_its_end,
    loader_gone_through_again,
    control_first,
    control_first_streams,
]


# From the others it goes on where they are cancelled, which takes less time.
@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")
@pytest.mark.parametrize(
    ("make", "after"),
    [(adam, 60), (memory_map, 60), (stream_to_its_end, 60), (control_first_streams, STEPS + 20)],
)
def test_a_fit_that_was_killed_goes_on_to_the_same_dictionary(make, after, tmp_path):
    with process_of(fit_and_tell, make, tmp_path) as (process, here):
        step = 0
        while step < after:
            step = told(here)
    assert process.exitcode == -signal.SIGKILL
    saved = steps_in(tmp_path / "fit")
    # The last step that was told may or may not have been followed by another that was saved.
    assert step <= saved < STEPS * (1 + (after > STEPS))
    # In a process of the same kind: another number of threads would round otherwise.
    with process_of(resume_and_begin_anew, make, tmp_path) as (_, here):
        first, resumed, expected = told(here)
    assert first == saved + 1
    assert expected[4][-1].resets > 0
    assert_identical(resumed, expected)


@pytest.mark.parametrize("make", [*SOURCES, early_stopping])
def test_a_fit_that_was_cancelled_at_any_step_goes_on_to_the_same_dictionary(make, tmp_path):
    expected = uninterrupted(make, tmp_path)
    last = expected[4][-1].step
    path = tmp_path / "fit"
    # Cancelled again and again, also right at the ends of stages. Without a file it is begun.
    stops = {1, 59, 99, 100, STEPS - 1, STEPS, STEPS + 1, last - 1, last}
    reached = 0
    for stop in [*sorted(stop for stop in stops if stop <= last), last, last]:
        icfl, x, keywords = make(tmp_path)
        steps = icfl.fit_iter(x, checkpoint=path, resume=True, **keywords)
        for record in steps:
            assert record.step >= reached
            reached = record.step
            if reached >= stop:
                break
        steps.close()
        assert not hasattr(icfl, "components_")
        assert steps_in(path) == reached == stop
    icfl, x, keywords = make(tmp_path)
    assert_identical(result(icfl.fit(x, checkpoint=path, resume=True, **keywords)), expected)


def test_dead_atoms_of_the_first_stage_are_remembered(tmp_path):
    # Controls and treated samples have one direction each, so that most atoms are of no use.
    marks = np.arange(900) % 3 == 0
    amounts = np.random.default_rng(0).exponential(size=(900, 1))
    x = amounts * np.eye(16)[np.where(marks, 0, 1)]

    def icfl():
        return ICFL(**SMALL, control_atoms=8, max_steps=60)

    whole = icfl().fit(x, controls=marks)
    assert whole.dead_[:8].tolist() == [False] + 7 * [True]
    cancelled_at(90, icfl(), x, tmp_path / "fit", controls=marks)
    again = icfl().fit(x, controls=marks, checkpoint=tmp_path / "fit", resume=True)
    assert_identical(result(again), result(whole))


def test_cancelling_saves_although_no_checkpoint_is_due(tmp_path):
    icfl, x, _ = newton(tmp_path)
    steps = icfl.fit_iter(x, checkpoint=tmp_path / "fit", checkpoint_minutes=60)
    for _ in range(30):
        next(steps)
    assert not (tmp_path / "fit").exists()
    steps.close()
    assert steps_in(tmp_path / "fit") == 30


@pytest.mark.parametrize("make", [newton, adam])
def test_a_task_that_is_cancelled_leaves_a_fit_where_it_stands(make, tmp_path):
    expected = uninterrupted(make, tmp_path)
    path = tmp_path / "fit"
    icfl, x, _ = make(tmp_path)
    # In the middle, at the last step, and in the final solve, again and again.
    for looks, step in ((29, 30), (STEPS - 31, STEPS), (0, STEPS), (1, STEPS)):
        with cancelling(looks):
            icfl.fit(x, checkpoint=path, checkpoint_minutes=60, resume=True)
        assert steps_in(path) == step
        assert not hasattr(icfl, "components_")
    assert_identical(result(icfl.fit(x, checkpoint=path, resume=True)), expected)


def test_checkpoints_are_written_as_often_as_asked_for(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("napari_microdl.estimators.icfl.checkpoint.time.monotonic", lambda: now[0])
    icfl, x, _ = newton(tmp_path)
    steps = icfl.fit_iter(x, checkpoint=tmp_path / "fit", checkpoint_minutes=0.5)
    saved = []
    for _ in range(10):
        now[0] += 11
        next(steps)
        saved.append(steps_in(tmp_path / "fit") if (tmp_path / "fit").exists() else 0)
    assert saved == [0, 0, 3, 3, 3, 6, 6, 6, 9, 9]


@pytest.mark.parametrize("make", [newton, adam, stream_to_its_end, control_first])
def test_a_checkpoint_changes_nothing_and_a_finished_one_gives_its_result_at_once(make, tmp_path):
    path = tmp_path / "fit"
    icfl, x, keywords = make(tmp_path)
    icfl.fit(x, checkpoint=str(path), checkpoint_minutes=1e-4, **keywords)
    assert_identical(result(icfl), uninterrupted(make, tmp_path))
    assert list(tmp_path.iterdir()) == [path]
    before = path.read_bytes()
    again, x, keywords = make(tmp_path)
    records = list(again.fit_iter(x, checkpoint=path, resume=True, **keywords))
    assert records == icfl.history_[-1:]
    assert again.history_ == icfl.history_
    assert_identical(result(again), result(icfl))
    x = samples(50)
    assert_array_equal(again.transform(x).toarray(), icfl.transform(x).toarray())
    assert path.read_bytes() == before


def test_without_a_seed_a_fit_goes_on_with_that_it_was_begun_with(tmp_path):
    x = samples()

    def icfl():
        return ICFL(**SMALL | {"random_state": None}, max_steps=150)

    cancelled_at(70, icfl(), x, tmp_path / "fit")
    copies = [tmp_path / f"copy{i}" for i in range(2)]
    for copy in copies:
        copy.write_bytes((tmp_path / "fit").read_bytes())
    one, two = (result(icfl().fit(x, checkpoint=copy, resume=True)) for copy in copies)
    assert_identical(one, two)
    assert one[4][-1].step == 150
    other = result(icfl().fit(x))
    assert not np.array_equal(one[0], other[0])


@pytest.mark.parametrize(
    ("make", "place", "inside", "bad", "message"),
    [
        (memory_map, 1717, ..., np.nan, r"Row 1717 of the samples holds NaN"),
        (stream_to_its_end, 4, (7, 3), np.inf, r"Batch 5: 1 of 500 samples .* row 7\b"),
        # In the second stage, that of treated samples.
        (control_first_streams, 4, ..., np.nan, "Batch 5: 500 of 500 samples hold NaN"),
    ],
)
def test_after_a_bad_sample_is_repaired_the_fit_goes_on(
    make, place, inside, bad, message, tmp_path
):
    expected = uninterrupted(make, tmp_path)
    icfl, x, keywords = make(tmp_path)
    if make is memory_map:
        held = np.memmap(tmp_path / "x", np.float16, "r+", shape=(2000, 16))
        x = np.asarray(held)
    else:
        held = list(x)
        x = Loader(held)
    good = held[place].copy()
    wrong = good.copy()
    wrong[inside] = bad
    held[place] = wrong
    fitted = ICFL(**SMALL, max_steps=2).fit(samples())
    fitted.set_params(**icfl.get_params())
    for estimator in (icfl, fitted):
        path = tmp_path / "fit"
        path.unlink(missing_ok=True)
        with refused(message, estimator):
            estimator.fit(x, checkpoint=path, checkpoint_minutes=60, **keywords)
    saved = steps_in(path)
    assert 0 < saved < expected[4][-1].step
    # As long as nothing is repaired, it fails again and the checkpoint stays.
    with refused(message, icfl):
        icfl.fit(x, checkpoint=path, resume=True, **keywords)
    assert steps_in(path) == saved
    held[place] = good
    steps = icfl.fit_iter(x, checkpoint=path, resume=True, **keywords)
    assert next(steps).step == saved + 1
    for _ in steps:
        pass
    assert_identical(result(icfl), expected)


def test_after_a_drive_could_not_be_read_the_fit_goes_on(tmp_path):
    icfl, x, _ = loader_gone_through_again(tmp_path)
    fails = [True]

    class Drive(Loader):
        def __iter__(self):
            yield from self.batches[:4]
            if fails:
                raise OSError(5, "the drive is gone")
            yield from self.batches[4:]

    drive = Drive(x.batches)
    with pytest.raises(OSError, match="the drive is gone"):
        icfl.fit(drive, checkpoint=tmp_path / "fit", checkpoint_minutes=60)
    assert 0 < steps_in(tmp_path / "fit") < 10
    fails.clear()
    icfl.fit(drive, checkpoint=tmp_path / "fit", resume=True)
    assert_identical(result(icfl), uninterrupted(loader_gone_through_again, tmp_path))


def begun(folder, make=newton):
    """A checkpoint at step 30."""
    icfl, x, keywords = make(folder)
    cancelled_at(30, icfl, x, folder / "fit", **keywords)
    return folder / "fit"


def assert_refused(message, path, icfl=None, x=None, *, resume=True, **keywords):
    """One sentence, before any step, and the file is as it was."""
    before = path.read_bytes() if path.is_file() else None
    icfl = ICFL(**SMALL, max_steps=STEPS) if icfl is None else icfl
    with refused(message, icfl):
        icfl.fit_iter(samples() if x is None else x, checkpoint=path, resume=resume, **keywords)
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.mark.parametrize(
    "other",
    [samples(seed=1), samples()[:-1], samples()[::-1], samples()[:, :-1], [samples()]],
    ids=["values", "fewer", "order", "width", "stream"],
)
def test_other_samples_are_refused(other, tmp_path):
    assert_refused("is of a fit with other samples", begun(tmp_path), x=other)


def test_other_streams_and_controls_are_refused(tmp_path):
    path = begun(tmp_path, loader_gone_through_again)
    icfl, _, _ = loader_gone_through_again(tmp_path)
    for other in (samples(seed=1), samples()[100:]):
        # As many in a batch as are held out, so that nothing is left of the first one.
        loader = Loader(np.array_split(other, range(64, len(other), 64)))
        assert_refused("is of a fit with other samples", path, icfl, loader)
    path.unlink()
    path = begun(tmp_path, control_first)
    icfl, x, keywords = control_first(tmp_path)
    # As many as before.
    marks = np.roll(keywords["controls"], 3 * 100 + 1)
    assert marks.sum() == keywords["controls"].sum()
    assert_refused("is of a fit with other samples", path, icfl, x, controls=marks)


@pytest.mark.parametrize(
    ("other", "what"),
    [
        ({"n_atoms": 25}, "settings"),
        ({"n_iterations": 1}, "settings"),
        ({"atoms_per_iteration": 1}, "settings"),
        ({"update": "adam"}, "settings"),
        ({"batch_size": 65}, "settings"),
        ({"max_steps": STEPS + 1}, "settings"),
        ({"init": "linear"}, "settings"),
        ({"selection": "absolute"}, "settings"),
        ({"refit": "full"}, "settings"),
        ({"allow_repeats": True}, "settings"),
        ({"positive_code": True}, "settings"),
        ({"early_stopping": True}, "settings"),
        ({"tol": 0.1}, "settings"),
        ({"n_iter_no_change": 9}, "settings"),
        ({"random_state": 1}, "seed"),
        # Other samples are held out, or none.
        ({"validation_fraction": 0}, "s"),
        ({"validation_fraction": 0.01}, "s"),
        ({"validation_fraction": 0.02}, "s"),
    ],
)
def test_other_settings_are_refused(other, what, tmp_path):
    icfl = ICFL(**SMALL | {"max_steps": STEPS} | other)
    assert_refused(f"is of a fit with other {what}", begun(tmp_path), icfl)


def test_a_file_that_is_there_is_not_overwritten(tmp_path):
    path = begun(tmp_path)
    assert_refused("is there already: pass resume=True", path, resume=False)
    path.write_text("my notes")
    assert_refused("is there already: pass resume=True", path, resume=False)


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    dictionary = tmp_path / "dictionary"
    save_file({"atoms": np.ones((3, 4), np.float32)}, dictionary)
    assert_refused("is not a checkpoint of a fit", dictionary)
    path = begun(tmp_path)
    content = path.read_bytes()
    for length in (0, 5, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        assert_refused("is not a readable safetensors file", path)
    path.write_text("my notes of the experiment")
    assert_refused("is not a readable safetensors file", path)
    path.write_bytes(pickle.dumps(Payload(tmp_path / "mark")))
    assert_refused("it is a pickle, which may hold code", path)
    assert not (tmp_path / "mark").exists()
    path.unlink()
    path.mkdir()
    assert_refused("cannot be read", path)


def test_a_checkpoint_with_other_numbers_is_refused(tmp_path):
    path = begun(tmp_path)
    tensors, (_, metadata) = load_file(path), read_safetensors(path)
    for name, values in tensors.items():
        changed = values.copy()
        changed.reshape(-1)[:1] = changed.reshape(-1)[:1] == 0
        save_file({**tensors, name: changed}, path, metadata)
        if values.size:
            assert_refused("is not what was written", path)


def rewritten(path, change):
    """Change what a checkpoint says of itself."""
    tensors, (_, metadata) = load_file(path), read_safetensors(path)
    header = json.loads(metadata["napari_microdl_icfl_checkpoint"])
    change(header, tensors)
    write_record(path, "napari_microdl_icfl_checkpoint", tensors, header, allow_nan=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header, tensors: header.update(version=0), "written by another version"),
        (lambda header, tensors: header.pop("version"), "is not a checkpoint of a fit"),
        (lambda header, tensors: header.pop("identity"), "is not a checkpoint of a fit"),
        (lambda header, tensors: header.update(numbers=3), "is not a checkpoint of a fit"),
        (lambda header, tensors: header["identity"].pop("seed"), "is not a checkpoint of a fit"),
        (lambda header, tensors: header["identity"].pop("samples"), "with other samples"),
        (lambda header, tensors: tensors.pop("atoms"), "do not fit together"),
        (lambda header, tensors: header["numbers"].pop("random"), "do not fit together"),
        (lambda header, tensors: header["numbers"].update(history=[[1]]), "do not fit together"),
        (lambda header, tensors: header["numbers"].update(stage=7), "do not fit together"),
        (lambda header, tensors: tensors.update(atoms=tensors["atoms"][1:]), "do not fit together"),
    ],
)
def test_damaged_checkpoints_are_refused(change, message, tmp_path):
    path = begun(tmp_path)
    rewritten(path, lambda header, tensors: None)
    ICFL(**SMALL, max_steps=STEPS).fit_iter(samples(), checkpoint=path, resume=True)
    rewritten(path, change)
    assert_refused(message, path)


def test_a_missing_folder_and_a_time_below_zero_are_told_before_the_fit(tmp_path):
    for resume in (False, True):
        message = "The folder of the checkpoint .* does not exist"
        assert_refused(message, tmp_path / "no" / "fit", resume=resume)
    assert_refused("checkpoint_minutes is -0.1", tmp_path / "fit", checkpoint_minutes=-0.1)


def test_a_full_disk_is_told_and_the_old_checkpoint_stays(tmp_path, monkeypatch):
    path = begun(tmp_path)
    before = path.read_bytes()
    icfl, x, _ = newton(tmp_path)

    def full(descriptor):
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        with refused(re.escape(f"{path}' cannot be written (No space left on device)"), icfl):
            icfl.fit(x, checkpoint=path, checkpoint_minutes=0, resume=True)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    icfl.fit(x, checkpoint=path, resume=True)
    assert_identical(result(icfl), uninterrupted(newton, tmp_path))
