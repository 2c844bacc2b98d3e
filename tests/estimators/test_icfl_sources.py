from __future__ import annotations

import dataclasses
import itertools
import json
import os
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from scipy import sparse

import references
from core.processes import python
from estimators.cases import Loader, recovered, refused, samples
from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.icfl import ICFL, FitRecord
from napari_microdl.estimators.icfl.batches import ArrayBatches, EndOfSamplesError, StreamBatches
from napari_microdl.estimators.icfl.fit import Fit, Stage
from napari_microdl.estimators.icfl.learner import Processes
from napari_microdl.estimators.icfl.plan import Plan
from napari_microdl.estimators.pursuit import PursuitOptions

PLANTED_SIZES = {"n_samples": 12_000, "n_features": 48, "n_atoms": 64, "n_active": 4}
SMALL = {
    "n_atoms": 16,
    "n_iterations": 2,
    "atoms_per_iteration": 1,
    "batch_size": 64,
    "validation_fraction": 0.05,
}


@pytest.fixture(scope="module")
def planted():
    return references.planted_dictionary(**PLANTED_SIZES, seed=0)


@pytest.fixture(scope="module")
def in_memory(planted):
    """A fit of the samples as an array."""
    return ICFL(64, 2, 2, max_steps=120, random_state=0).fit(planted[1])


@pytest.fixture
def seen(monkeypatch):
    """Batches of arrays that fits were given."""
    batches = []
    batch = ArrayBatches.batch

    def spy(self, step, size):
        batches.append(batch(self, step, size))
        return batches[-1]

    monkeypatch.setattr(ArrayBatches, "batch", spy)
    return batches


def memory_map(path, x):
    mapped = np.memmap(path, dtype=x.dtype, mode="w+", shape=x.shape)
    mapped[:] = x
    mapped.flush()
    return np.memmap(path, dtype=x.dtype, mode="r", shape=x.shape)


class Endless:
    """A loader that makes its batches and never ends."""

    def __init__(self, x, size):
        self.x = x
        self.size = size

    def __iter__(self):
        rng = np.random.default_rng(0)
        while True:
            yield self.x[rng.integers(len(self.x), size=self.size)]


def into_reused_buffer(x):
    buffer = np.empty((300, x.shape[1]), dtype=x.dtype)
    for start in range(0, len(x), 300):
        buffer[:] = x[start : start + 300]
        yield buffer


STORES = {
    "memory_map": lambda x, folder: memory_map(folder / "x", x),
    "half_memory_map": lambda x, folder: memory_map(folder / "x", x.astype(np.float16)),
    "view_of_memory_map": lambda x, folder: np.asarray(memory_map(folder / "x", x)),
    "zarr": lambda x, folder: zarr.create_array(folder / "x", data=x, chunks=(500, x.shape[1])),
    "dask": lambda x, folder: pytest.importorskip("dask.array").from_array(x, chunks=(700, 20)),
}
STREAMS = {
    "list": lambda x: np.array_split(x, 37),
    "generator": lambda x: (batch for batch in np.array_split(x, 37)),
    "reused_buffer": into_reused_buffer,
    "float64_loader": lambda x: Loader(np.array_split(x.astype(np.float64), 37)),
    "torch_loader": lambda x: torch.utils.data.DataLoader(torch.from_numpy(x), batch_size=150),
}


@pytest.mark.parametrize("store", STORES)
def test_a_file_gives_as_good_a_dictionary_and_the_same_codes_as_an_array(
    store, planted, in_memory, tmp_path
):
    atoms, x = planted
    file = STORES[store](x, tmp_path)
    icfl = ICFL(64, 2, 2, max_steps=120, random_state=0).fit(file)
    assert recovered(atoms, in_memory.components_) >= 0.97
    assert recovered(atoms, icfl.components_) >= 0.97
    assert icfl.history_[-1].r2 == pytest.approx(in_memory.history_[-1].r2, abs=0.01)
    assert icfl.n_features_in_ == 48
    kept = x.astype(np.float16) if store == "half_memory_map" else x
    assert_array_equal(icfl.transform(file).toarray(), icfl.transform(kept).toarray())


@pytest.mark.parametrize("store", STORES)
def test_marks_divide_a_file_into_controls_and_treated_samples(store, tmp_path):
    marks = np.arange(1500) % 7 < 2
    # Controls have the first features alone, treated samples the last ones.
    x = samples(1500) * (marks[:, None] == (np.arange(16) < 8))
    icfl = ICFL(**SMALL, control_atoms=6, max_steps=40, random_state=0)
    icfl.fit(STORES[store](x, tmp_path), controls=marks)
    assert icfl.groups_.tolist() == 6 * ["seen in controls"] + 10 * ["only in treated"]
    assert not icfl.components_[:6, 8:].any()
    assert not icfl.components_[6:, :8].any()


@pytest.mark.parametrize("stream", STREAMS)
def test_a_stream_gives_as_good_a_dictionary_as_an_array(stream, planted):
    atoms, x = planted
    in_memory = ICFL(64, 2, 2, max_steps=45, random_state=0).fit(x)
    icfl = ICFL(64, 2, 2, random_state=0).fit(STREAMS[stream](x))
    assert recovered(atoms, icfl.components_) >= 0.93
    assert recovered(atoms, icfl.components_) >= recovered(atoms, in_memory.components_) - 0.05
    mine, theirs = (
        ((x - fit.inverse_transform(fit.transform(x))) ** 2).sum() for fit in (icfl, in_memory)
    )
    assert mine == pytest.approx(theirs, rel=0.25)
    # One pass of batches of 256, the first of which is held out.
    assert icfl.history_[-1].step == len(x) // 256 - 1
    assert icfl.history_[-1].total_steps is None


def test_steps_that_are_left_are_done_whether_a_stream_ends_or_not(planted):
    atoms, x = planted
    loader = Loader(np.array_split(x, 37))
    settings = {"max_steps": 150, "random_state": 0}
    for stream in (loader, Endless(x, 100)):
        icfl = ICFL(64, 2, 2, **settings).fit(stream)
        assert icfl.history_[-1].step == 150
        assert {record.total_steps for record in icfl.history_} == {150}
        assert recovered(atoms, icfl.components_) >= 0.97
    # What cannot be gone through again ends sooner.
    assert ICFL(64, 2, 2, **settings).fit(iter(loader)).history_[-1].step == 45


def test_the_same_rows_give_identical_dictionaries_however_a_stream_divides_them():
    x = samples(1000)
    with_empty_ones = itertools.chain.from_iterable((part, x[:0]) for part in np.split(x, 5))
    frames = [pd.DataFrame(part) for part in np.split(x, 10)]
    first, *others = (
        ICFL(**SMALL, random_state=0).fit(iter(batches))
        for batches in (np.array_split(x, 3), np.array_split(x, 200), with_empty_ones, frames)
    )
    for fit in others:
        assert_array_equal(fit.components_, first.components_)
        assert fit.history_[-1].r2 == first.history_[-1].r2


def test_a_data_frame_still_gives_what_an_array_does_and_its_names():
    x = samples()
    names = [f"feature {i}" for i in range(16)]
    of_frame = ICFL(**SMALL, max_steps=20, random_state=0).fit(pd.DataFrame(x, columns=names))
    of_array = ICFL(**SMALL, max_steps=20, random_state=0).fit(x.tolist())
    assert_array_equal(of_frame.components_, of_array.components_)
    assert of_frame.feature_names_in_.tolist() == names
    of_frame.fit(iter([x]))
    assert not hasattr(of_frame, "feature_names_in_")
    assert of_frame.n_features_in_ == 16


@st.composite
def matrices(draw):
    """Rows that carry their own number, how many to hold out, and which of them to use."""
    n = draw(st.integers(2, 400))
    rows = None
    if draw(st.booleans()):
        rows = np.array(sorted(draw(st.sets(st.integers(0, n - 1), min_size=2))))
    n_used = n if rows is None else len(rows)
    return n, rows, draw(st.integers(0, n_used - 1)), draw(st.integers(1, n_used + 5))


class Chunked:
    """An array that, as those of zarr, tells its chunks and gives slices of rows alone."""

    def __init__(self, x, chunk_rows):
        self._x = x
        self.shape, self.dtype, self.chunks = x.shape, x.dtype, (chunk_rows, x.shape[1])

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._x[rows].copy()


def numbered(n, chunk_rows):
    x = np.repeat(np.arange(n, dtype=np.float32)[:, None], 2, axis=1)
    return x if chunk_rows is None else Chunked(x, chunk_rows)


def numbers(rows):
    assert rows.dtype == np.float32
    assert_array_equal(rows[:, 0], rows[:, 1])
    return rows[:, 0].astype(int).tolist()


def drawn_in_pieces(batches, count, size):
    """Numbers of the samples to end with."""
    pieces = [numbers(piece) for piece in batches.drawn(count, size)]
    # All pieces are full, but for the last.
    assert all(len(piece) == size for piece in pieces[:-1])
    assert all(0 < len(piece) <= size for piece in pieces)
    drawn = [*itertools.chain(*pieces)]
    assert len(drawn) == batches.n_drawn(count)
    return drawn


@settings(max_examples=200)
@given(matrices(), st.none() | st.integers(1, 130), st.booleans(), st.integers(0, 2**31 - 2))
@example((259, None, 0, 258), None, False, 0)
def test_a_pass_uses_every_row_once_and_held_out_rows_never(matrix, chunk_rows, in_memory, seed):
    n, rows, n_held_out, size = matrix
    x = numbered(n, None if in_memory else chunk_rows)
    batches = ArrayBatches(x, seed, rows=rows, n_held_out=n_held_out, in_memory=in_memory)
    wanted = set(range(n) if rows is None else rows.tolist())
    held_out = numbers(batches.held_out)
    assert len(held_out) == len(set(held_out)) == n_held_out
    assert batches.n_samples == len(wanted) - n_held_out
    left = wanted - set(held_out)
    assert len(left) == batches.n_samples
    size = min(size, len(left))
    in_a_pass = len(left) // size
    for one_pass in range(2):
        seen = []
        for step in range(one_pass * in_a_pass, (one_pass + 1) * in_a_pass):
            batch = numbers(batches.batch(step, size))
            assert len(batch) == size
            seen += batch
        assert len(seen) == len(set(seen))
        assert set(seen) <= left
        # What does not fill a batch waits for another pass.
        assert len(left) - len(seen) < size
    for count in (1, size, n + 1):
        for drawn in (numbers(batches.first(count)), drawn_in_pieces(batches, count, size)):
            assert len(drawn) == len(set(drawn)) == min(count, len(left))
            assert set(drawn) <= left


@settings(max_examples=50)
@given(matrices(), st.none() | st.integers(1, 130), st.booleans(), st.data())
def test_a_batch_depends_on_the_seed_and_the_step_alone(matrix, chunk_rows, in_memory, data):
    n, rows, n_held_out, size = matrix
    x = numbered(n, None if in_memory else chunk_rows)

    def begun():
        return ArrayBatches(x, 7, rows=rows, n_held_out=n_held_out, in_memory=in_memory)

    steps = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=6))
    together = begun()
    for step in steps:
        assert_array_equal(together.batch(step, size), begun().batch(step, size))
    assert together.fingerprint() == begun().fingerprint()


@pytest.mark.parametrize("in_memory", [True, False])
def test_passes_and_seeds_differ_in_their_order(in_memory):
    x = numbered(2000, None)
    orders = {
        frozenset(numbers(ArrayBatches(x, seed, in_memory=in_memory).batch(step, 500)))
        for seed, step in ((0, 0), (0, 4), (1, 0))
    }
    assert len(orders) == 3


def test_batches_of_a_file_mix_distant_rows():
    x = numbered(100_000, None)
    batch = np.array(numbers(ArrayBatches(x, 0, in_memory=False).batch(0, 1000)))
    assert len(np.unique(batch // 1000)) >= 6


def test_a_whole_fit_learns_from_no_held_out_row(tmp_path, seen):
    x = samples(3000)
    x[:, 0] = np.arange(3000)
    for source in (x, memory_map(tmp_path / "x", x)):
        seen.clear()
        records = list(ICFL(**SMALL, max_steps=400, random_state=0).fit_iter(source))
        counts = np.bincount(np.concatenate(seen)[:, 0].astype(int), minlength=3000)
        # 64 samples are held out, as many as are in a batch, and every pass has 45 batches.
        assert (counts == 0).sum() == 64
        assert counts[counts > 0].min() >= 6
        assert counts.max() <= 9
        assert records[-1].n_samples == counts.sum() == 400 * 64


@settings(max_examples=200)
@given(
    st.lists(st.integers(0, 9), min_size=1, max_size=12),
    st.integers(1, 11),
    st.integers(0, 12),
    st.booleans(),
)
def test_the_batches_of_a_stream_are_its_rows_in_order(sizes, size, n_held_out, again):
    n = sum(sizes)
    rows = np.repeat(np.arange(n, dtype=np.float32)[:, None], 2, axis=1)
    parts = np.split(rows, np.cumsum(sizes)[:-1])
    if n == 0:
        with pytest.raises(MicrodlError, match="no samples"):
            StreamBatches(Loader(parts), n_latest=1, n_held_out=n_held_out, once=not again)
        return
    stream = StreamBatches(Loader(parts), n_latest=2 * size, n_held_out=n_held_out, once=not again)
    held_out = numbers(stream.held_out)
    assert held_out == list(range(min(n, n_held_out)))
    left = list(range(len(held_out), n))
    expected = itertools.cycle(left) if again else iter(left)
    batches = []
    for step in range(3 * n // size + 1):
        wanted = list(itertools.islice(expected, size))
        if step == 0:
            assert numbers(stream.first(size)) == wanted
        if len(wanted) < size:
            with pytest.raises(EndOfSamplesError if step else MicrodlError):
                stream.batch(step, size)
            break
        batches.append(numbers(stream.batch(step, size)))
        assert batches[-1] == wanted
    # The latest samples are those of the last two batches.
    latest = [*itertools.chain(*batches[-2:])]
    assert drawn_in_pieces(stream, 2 * size, 3) == latest
    assert drawn_in_pieces(stream, size + 1, size) == latest[-size - 1 :]


def test_steps_that_were_done_elsewhere_are_passed_over():
    parts = np.array_split(numbered(100, None), 9)
    through = StreamBatches(Loader(parts), n_latest=30, n_held_out=5)
    for step in range(12):
        batch = through.batch(step, 10)
    joined = StreamBatches(Loader(parts), n_latest=30, n_held_out=5)
    joined.skip_to(11, 10)
    assert_array_equal(joined.batch(11, 10), batch)
    assert drawn_in_pieces(joined, 100, 7) == drawn_in_pieces(through, 100, 11)
    short = StreamBatches(iter(parts), n_latest=30, n_held_out=5)
    with pytest.raises(MicrodlError, match="ended after 9 of the 11 batches"):
        short.skip_to(11, 10)


def test_streams_are_told_apart_by_their_first_samples():
    x = samples(1000)
    other = samples(1000, seed=1)
    hashes = [
        StreamBatches(iter(batches), n_latest=1, n_held_out=n_held_out).fingerprint()
        for n_held_out in (0, 100)
        for batches in (np.split(x, 10), np.split(x, 5), np.split(other, 10))
    ]
    # However they are cut into batches; what is held out is part of it.
    assert hashes[0] == hashes[1]
    assert hashes[3] == hashes[4]
    assert hashes[0] != hashes[3]
    assert hashes[2] != hashes[0]
    assert hashes[5] != hashes[3]


PLAN = Plan(
    n_atoms=4,
    coding=PursuitOptions(1, 1),
    update="newton",
    learning_rate=1e-3,
    batch_size=8,
    max_steps=20,
    init="data",
    early_stopping=False,
    tol=0.0,
    n_iter_no_change=5,
    device="cpu",
)


def test_the_history_of_a_long_fit_stays_short_and_even():
    stage = Stage("any", PLAN, ArrayBatches(samples(), 0))
    fit = Fit([stage], 0, Processes(), history_length=5)
    assert len(list(fit.records())) == 21
    assert [record.step for record in fit.history] == [1, 5, 9, 13, 17, 20]
    # Of a stream nobody knows how long it will be.
    stream = StreamBatches(np.split(samples(800), 10), n_latest=32, once=True)
    stage = Stage("any", dataclasses.replace(PLAN, max_steps=None), stream)
    fit = Fit([stage], 0, Processes(), history_length=10)
    assert len(list(fit.records())) == 101
    steps = [record.step for record in fit.history]
    assert 10 <= len(steps) <= 21
    assert len(set(np.diff(steps[:-1]))) == 1
    assert steps[-1] == 100


MEASURE_MEMORY = """
import json, os, sys, threading, time
import numpy as np
from napari_microdl.estimators.icfl import ICFL

WIDTH = 1024
ROWS = 512

def status(name):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) / 1024

def peak():
    return status("VmHWM")

def icfl(**settings):
    return ICFL(64, 2, 2, batch_size=ROWS, random_state=0, **settings)

rng = np.random.default_rng(0)
BLOCKS = [rng.normal(size=(ROWS, WIDTH)).astype(np.float16) for _ in range(3)]

def store(n_rows):
    for i in range(n_rows // ROWS):
        yield BLOCKS[i % 3]

# What torch and numba need once is not memory of the fit.
icfl(max_steps=2, validation_fraction=0.1).fit(rng.normal(size=(600, WIDTH)))
"""

MEASURE_STREAM = (
    MEASURE_MEMORY
    + """
with open("/proc/self/clear_refs", "w") as file:
    # From here on, the peak is counted anew: compiling took more.
    file.write("5")
before = status("VmRSS")
icfl(max_steps=5).fit(store(40_000_000))
short = peak()
icfl(max_steps=50).fit(store(40_000_000))
long = peak()
icfl().fit(store(80 * ROWS))
print(json.dumps([short - before, long - short, peak() - long]))
"""
)

# A fit of a few steps and one of ten times as many; then final solves alone, with few samples an
# atom and with eight times as many. Pages of a file that is mapped count as the process's until
# they are needed elsewhere, so what it allocates itself is looked at, every millisecond.
MEASURE_MEMORY_MAP = (
    MEASURE_MEMORY
    + """
from napari_microdl.estimators.icfl.batches import ArrayBatches
from napari_microdl.estimators.icfl.fit import Fit, Stage
from napari_microdl.estimators.icfl.learner import Processes
from napari_microdl.estimators.icfl.plan import Plan
from napari_microdl.estimators.pursuit import PursuitOptions

highest = 0.0
done = threading.Event()

def watch():
    global highest
    while not done.wait(0.001):
        highest = max(highest, status("RssAnon"))

x = np.memmap(sys.argv[1], dtype=np.float16, mode="r", shape=(40_000_000, WIDTH))
threading.Thread(target=watch).start()
before = status("RssAnon")
icfl(max_steps=4).fit(x)
short = highest
icfl(max_steps=40).fit(x)
peaks = [short - before, highest - short]

coding = PursuitOptions(2, 2, refit="final", allow_repeats=False)
plan = Plan(1024, coding, "newton", 1e-3, ROWS, 2, "data", False, 0.0, 5, "cpu")
stage = Stage("any", plan, ArrayBatches(x, 0, n_held_out=ROWS, in_memory=False))
for samples_per_atom in (2, 16):
    highest = 0.0
    for _ in Fit([stage], 0, Processes(), solve_samples_per_atom=samples_per_atom).records():
        pass
    peaks.append(highest)
done.set()
print(json.dumps(peaks))
"""
)

# A batch of 512 samples in float32, in MiB.
BATCH = 512 * 1024 * 4 / 2**20


def measured(script, *arguments):
    # What is freed goes back at once, so that what is in use is measured.
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = python(script, *arguments, check=False, env=env)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory that Linux reports")
def test_memory_does_not_grow_with_the_length_of_a_stream():
    short, ten_times_longer, to_the_end = measured(MEASURE_STREAM)
    # Held out, for the final solve, buffered, coded.
    assert short < 12 * BATCH
    assert ten_times_longer < BATCH
    # 80 batches, 168 MB.
    assert to_the_end < BATCH


@pytest.mark.skipif(sys.platform != "linux", reason="reads the memory that Linux reports")
def test_a_file_takes_less_than_a_thousandth_of_its_size_in_memory(tmp_path):
    path = tmp_path / "sparse"
    size = 40_000_000 * 1024 * 2
    with path.open("wb") as file:
        file.truncate(size)
    short, ten_times_longer, few, eight_times_more = measured(MEASURE_MEMORY_MAP, path)
    path.unlink()
    assert short < size / 1000 / 2**20
    assert ten_times_longer < BATCH
    # 14 samples an atom more are 28 batches.
    assert eight_times_more - few < 4 * BATCH


@pytest.mark.parametrize("put", ["array", "memory map", "stream"])
@pytest.mark.parametrize("update", ["newton", "adam"])
def test_held_out_r2_is_that_of_a_slow_pursuit_of_the_held_out_rows(put, update, tmp_path, seen):
    x = samples(64 + 30 * 64)
    source = {"array": x, "memory map": memory_map(tmp_path / "x", x), "stream": [x]}[put]
    icfl = ICFL(**SMALL, update=update, learning_rate=1e-2, max_steps=60, random_state=0)
    icfl.fit(source)
    if put == "stream":
        held_out = x[:64]
    else:
        used = {row.tobytes() for row in np.concatenate(seen)}
        held_out = np.array([row for row in x if row.tobytes() not in used])
    assert held_out.shape == (64, 16)
    centred = held_out - icfl.bias_
    refit, repeats = ("block", True) if update == "adam" else ("final", False)
    picks = references.matching_pursuit(centred, icfl.components_, 2, 1, "signed", refit, repeats)
    left = centred - references.dense_codes(*picks, 16) @ icfl.components_
    expected = 1 - (left**2).sum() / (centred**2).sum()
    assert icfl.history_[-1].held_out_r2 == pytest.approx(expected, abs=1e-4)


def test_records_are_plain_and_measure_held_out_samples_every_twenty_steps():
    x = samples(2000)
    icfl = ICFL(**SMALL, max_steps=50, random_state=0)
    # The record at the end takes the place of that of the last step.
    records = {record.step: record for record in icfl.fit_iter(x)}
    for record in records.values():
        # Numbers of NumPy would not go through JSON.
        assert FitRecord(**json.loads(json.dumps(dataclasses.asdict(record)))) == record
    measured_at = [records[step].held_out_r2 for step in range(1, 50)]
    assert measured_at[:19] == [None] * 19
    assert type(measured_at[19]) is float
    assert set(measured_at[19:39]) == {measured_at[19]}
    assert set(measured_at[39:]) == {measured_at[39]}
    assert len({measured_at[19], measured_at[39], records[50].held_out_r2}) == 3


@pytest.mark.parametrize("wrap", [np.asarray, lambda x: iter([x])], ids=["array", "stream"])
def test_nothing_is_held_out_where_that_is_not_wanted(wrap):
    x = samples(640)
    icfl = ICFL(**SMALL | {"validation_fraction": 0}, max_steps=10, random_state=0).fit(wrap(x))
    assert {record.held_out_r2 for record in icfl.history_} == {None}
    assert icfl.history_[-1].n_samples == 640


def test_a_fit_stops_early_where_there_is_nothing_more_to_learn(planted):
    _, x = planted
    icfl = ICFL(64, 2, 2, max_steps=1500, early_stopping=True, random_state=0)
    scores = {}
    for record in icfl.fit_iter(x):
        scores.setdefault(record.step, record.held_out_r2)
    best, without_growth, expected = -np.inf, 0, None
    for step in range(20, 1500, 20):
        if scores[step] > best + 1e-3:
            best, without_growth = scores[step], 0
        else:
            without_growth += 1
        if without_growth == 5:
            expected = step
            break
    assert icfl.history_[-1].step == max(scores) == expected < 750
    longer = ICFL(64, 2, 2, max_steps=300, random_state=0).fit(x)
    assert icfl.history_[-1].held_out_r2 > longer.history_[-1].held_out_r2 - 0.01


@pytest.mark.parametrize(
    ("settings", "last"),
    [
        ({}, 120),
        ({"n_iter_no_change": 1}, 40),
        ({"n_iter_no_change": 3}, 80),
        # Any change counts.
        ({"tol": -1.0}, 300),
        ({"early_stopping": False}, 300),
    ],
)
def test_a_fit_that_learns_nothing_stops_as_it_is_told(settings, last):
    x = np.ones((500, 8), dtype=np.float32)
    settings = {"early_stopping": True} | settings
    icfl = ICFL(**SMALL, max_steps=300, random_state=0, **settings).fit(x)
    assert icfl.history_[-1].step == last


def assert_refused(icfl, message, x, **keywords):
    """The fit raises one clear sentence, before any step or on the way, and changes nothing."""
    for fitted in (False, True):
        if fitted:
            parameters = icfl.get_params()
            icfl.set_params(**SMALL, control_atoms=None, max_steps=2, random_state=0).fit(samples())
            icfl.set_params(**parameters)
        with refused(message, icfl):
            icfl.fit(x() if callable(x) else x, **keywords)


def with_value(x, row, value):
    wrong = x.copy()
    wrong[row, 3] = value
    return wrong


NO_NUMBERS = [np.nan, np.inf, -np.inf]
# The last is too large for float32.
BAD = [(bad, dtype) for bad in NO_NUMBERS for dtype in (np.float16, np.float32, np.float64)]
BAD.append((1e300, np.float64))


@pytest.mark.parametrize(("bad", "dtype"), BAD)
def test_a_bad_value_in_a_file_is_named_by_its_row(bad, dtype, tmp_path):
    x = samples(3000).clip(-50, 50).astype(dtype)
    for row in (0, 1717, 2999):
        file = memory_map(tmp_path / "x", with_value(x, row, bad))
        assert_refused(ICFL(**SMALL, max_steps=50), rf"[Rr]ow {row}\b", file)
        marks = np.arange(3000) % 2 == row % 2
        icfl = ICFL(**SMALL, control_atoms=4, max_steps=50)
        assert_refused(icfl, rf"[Rr]ow {row}\b", file, controls=marks)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_a_bad_value_in_a_stream_is_named_by_its_batch_and_row(bad):
    x = with_value(samples(1000).astype(np.float64), 777, bad)
    assert_refused(ICFL(**SMALL), r"Batch 8: 1 of 100 samples .* row 77\b", Loader(np.split(x, 10)))


GOOD = samples(640)
PARTS = np.split(GOOD, 10)


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([*PARTS, samples(64, 9)], r"Batch 11 has the shape \(64, 9\) but must have \(n, 16\)"),
        ([*PARTS, GOOD[0]], r"Batch 11 has the shape \(16,\)"),
        ([*PARTS, GOOD[None]], r"Batch 11 has the shape \(1, 640, 16\)"),
        ([GOOD[0]], r"Batch 1 has the shape \(16,\) but must have \(n, features\)"),
        ([np.ones((64, 0))], r"Batch 1 has the shape \(64, 0\)"),
        ([*PARTS, None], r"Batch 11 has the shape \(\)"),
        ([*PARTS, sparse.csr_array(GOOD)], "Batch 11 is no matrix of numbers"),
        ([*PARTS, np.full((64, 16), "a")], "Batch 11 is no matrix of numbers"),
        ([*PARTS, [[1.0, 2.0], [3.0]]], "Batch 11 is no matrix of numbers"),
        ([*PARTS, GOOD.astype(complex)], "Batch 11 is no matrix of numbers"),
        ([], "no samples"),
        ([GOOD[:0], GOOD[:0]], "no samples"),
        ([GOOD[:127]], "too few samples for one step: 64 are held out and a batch has 64"),
        ([GOOD[:50]], "too few samples for one step: 64 are held out and a batch has 64"),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_batches_that_cannot_be_used_are_refused(batches, message, again):
    assert_refused(ICFL(**SMALL), message, Loader(batches) if again else lambda: iter(batches))


def test_a_loader_shorter_than_its_held_out_samples_does_not_turn_for_ever():
    assert_refused(ICFL(**SMALL, max_steps=10), "too few samples", Loader([GOOD[:30]]))


def test_an_error_of_the_reader_comes_through_as_it_is():
    def batches():
        yield GOOD
        raise OSError(5, "the drive is gone")

    icfl = ICFL(**SMALL)
    before = set(vars(icfl))
    with pytest.raises(OSError, match="the drive is gone"):
        icfl.fit(batches())
    assert set(vars(icfl)) == before


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((40,), np.float32, r"shape \(40,\)"),
        ((4, 5, 2), np.float32, r"shape \(4, 5, 2\)"),
        ((10, 4), np.complex64, "complex64"),
        ((1, 40), np.float32, "at least 2 samples"),
    ],
)
def test_files_that_are_no_matrix_of_samples_are_refused(shape, dtype, message, tmp_path):
    file = memory_map(tmp_path / "x", np.ones(shape, dtype))
    assert_refused(ICFL(**SMALL), message, file)


MARKS = np.arange(640) < 200


@pytest.mark.parametrize(
    ("controls", "message"),
    [
        (MARKS[:-1], "controls has 639 entries of type bool .* each of the 640 samples"),
        (np.append(MARKS, True), "controls has 641 entries"),
        (MARKS.astype(int), "controls has 640 entries of type int64"),
        (MARKS.astype(int).tolist(), "controls has 640 entries of type int64"),
        (np.flatnonzero(MARKS), "controls has 200 entries of type int64"),
        (np.ones(640, bool), "640 of 640 samples are controls"),
        (np.zeros(640, bool), "0 of 640 samples are controls"),
        (np.arange(640) < 1, "at least 2 samples"),
        (samples(200, 9), "Controls have 9 features but treated samples 16"),
        (Loader([samples(200, 9)]), "Controls have 9 features but treated samples 16"),
        (with_value(samples(200), 5, np.nan), "NaN.* row 5"),
    ],
)
def test_controls_that_cannot_be_used_are_refused(controls, message, tmp_path):
    for x in (GOOD, memory_map(tmp_path / "x", GOOD)):
        assert_refused(ICFL(**SMALL, control_atoms=4), message, x, controls=controls)


@pytest.mark.parametrize(
    ("parameters", "x", "keywords", "message"),
    [
        ({"control_atoms": 4}, GOOD, {}, "needs both control_atoms and controls"),
        ({}, GOOD, {"controls": MARKS}, "needs both control_atoms and controls"),
        ({"control_atoms": 0}, GOOD, {"controls": MARKS}, "control_atoms is 0"),
        ({"control_atoms": 16}, GOOD, {"controls": MARKS}, "control_atoms is 16 .* the 16 atoms"),
        ({"control_atoms": 4}, Loader(PARTS), {"controls": MARKS}, "cannot be divided by marks"),
        ({"n_atoms": None}, Loader(PARTS), {}, "set n_atoms"),
    ],
)
def test_settings_that_contradict_the_samples_are_refused(parameters, x, keywords, message):
    assert_refused(ICFL(**SMALL | parameters), message, x, **keywords)


def test_single_batches_cannot_be_learned_from_control_first():
    icfl = ICFL(**SMALL, control_atoms=4)
    with refused("set control_atoms to None", icfl):
        icfl.partial_fit(GOOD)
