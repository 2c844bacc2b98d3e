from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

import references
from core.refusals import refusal
from estimators.cases import recovered, samples
from napari_microdl.estimators.icfl import ICFL, FitRecord, default_size
from tasks import recorded

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SMALL = {"n_atoms": 32, "n_iterations": 2, "atoms_per_iteration": 2, "random_state": 0}


def unit_atoms(n_atoms, n_features, seed=0):
    atoms = np.random.default_rng(seed).normal(size=(n_atoms, n_features))
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


def dictionary(*arrays, n_iterations=2, atoms_per_iteration=3, **options):
    return ICFL.from_arrays(
        *arrays, n_iterations=n_iterations, atoms_per_iteration=atoms_per_iteration, **options
    )


def test_a_planted_dictionary_is_recovered():
    atoms, x = references.planted_dictionary(20_000, 64, 128, 8, seed=0)
    icfl = ICFL(128, 4, 2, max_steps=200, random_state=0).fit(x)
    assert recovered(atoms, icfl.components_) >= 0.97
    assert icfl.history_[-1].r2 > 0.98
    assert not icfl.dead_.any()


@pytest.mark.parametrize(
    ("n_features", "n_atoms", "n_active", "n_iterations"), [(64, 128, 40, 8), (160, 256, 100, 20)]
)
def test_many_non_zeros_do_not_diverge(n_features, n_atoms, n_active, n_iterations):
    _, x = references.planted_dictionary(3_000, n_features, n_atoms, n_active, seed=0)
    icfl = ICFL(n_atoms, n_iterations, 5, max_steps=100, validation_fraction=0.05, random_state=0)
    icfl.fit(x)
    r2 = [record.r2 for record in icfl.history_]
    assert min(r2) == r2[0]
    assert r2[-1] > 0.96
    held_out = [record.held_out_r2 for record in icfl.history_ if record.held_out_r2 is not None]
    assert held_out[-1] > held_out[0]


def test_the_number_of_threads_does_not_matter_and_the_final_solve_improves_a_fit(threads):
    _, x = references.planted_dictionary(1_500, 32, 64, 4, seed=0)
    fits = []
    for number in (1, 2):
        threads(number)
        fits.append(ICFL(64, 2, 2, max_steps=30, random_state=0).fit(x))
    assert_allclose(fits[0].components_, fits[1].components_, atol=1e-3)
    assert fits[0].history_[-1].r2 > fits[0].history_[-2].r2


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("n_steps", [1, 3])
def test_adam_steps_agree_with_the_slow_reference(n_steps, device):
    x = samples(60)
    rng = np.random.default_rng(1)
    atoms = (0.3 * rng.normal(size=(24, 16))).astype(np.float32)
    bias = (0.1 * rng.normal(size=16)).astype(np.float32)
    icfl = dictionary(atoms, bias, update="adam", learning_rate=1e-3, device=device)
    step = references.AdamStep(atoms, bias, 1e-3)
    for _ in range(n_steps):
        icfl.partial_fit(x)
        expected = step(x, 2, 3)
    assert_allclose(icfl.components_, expected[0], atol=1e-5)
    assert_allclose(icfl.bias_, expected[1], atol=1e-5)


@pytest.mark.parametrize("device", DEVICES)
def test_the_codes_of_adam_are_the_printed_ones(device):
    x = samples(60)
    atoms = unit_atoms(24, 16)
    bias = np.full(16, 0.2)
    icfl = dictionary(
        atoms, bias, n_iterations=3, atoms_per_iteration=2, update="adam", device=device
    )
    expected = references.matching_pursuit(
        x - icfl.bias_, icfl.components_, 3, 2, "signed", "block", True
    )
    codes = icfl.transform(x)
    assert_allclose(codes.toarray(), references.dense_codes(*expected, 24), atol=1e-4)
    assert_allclose(
        icfl.inverse_transform(codes), codes.toarray() @ icfl.components_ + 0.2, atol=1e-5
    )


def hard_cases():
    """Whole numbers, which are exact in floating point, so that ties are ties."""
    rng = np.random.default_rng(3)
    x = rng.integers(-3, 4, size=(50, 8)).astype(np.float32)
    atoms = np.eye(8, dtype=np.float32)
    zeros = x.copy()
    zeros[::2] = 0
    return {
        "duplicate atoms": (x, np.concatenate([atoms, atoms[:4], -atoms[2:5]])),
        "zero samples": (zeros, np.concatenate([atoms, -atoms])),
        "fewer atoms than L": (x, atoms[:2]),
        "ties": (np.abs(np.sign(x)), np.concatenate([atoms, -atoms])),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", ["plain", *hard_cases()])
def test_the_first_newton_step_agrees_with_the_slow_reference(case, device):
    x, atoms = (samples(60), unit_atoms(24, 16)) if case == "plain" else hard_cases()[case]
    icfl = dictionary(atoms, device=device).partial_fit(x)
    assert_allclose(icfl.components_, references.newton_step(x, atoms, 2, 3), atol=1e-5)
    assert_array_equal(icfl.bias_, 0)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", [*hard_cases(), "dependent picks"])
def test_an_adam_step_on_a_hard_case_agrees_with_the_slow_reference(case, device):
    if case == "dependent picks":
        x, atoms = hard_cases()["ties"]
        atoms = np.concatenate([atoms[:8], atoms[:2].sum(axis=0)[None], 2 * atoms[:3]])
    else:
        x, atoms = hard_cases()[case]
    icfl = dictionary(atoms, update="adam", learning_rate=1e-3, device=device).partial_fit(x)
    expected = references.AdamStep(atoms, np.zeros(8), 1e-3)(x, 2, 3)
    assert_allclose(icfl.components_, expected[0], atol=1e-5)
    assert_allclose(icfl.bias_, expected[1], atol=1e-5)


def test_linear_init_is_that_of_a_linear_layer():
    x = samples()
    settings = {"learning_rate": 1e-12, "max_steps": 1, "random_state": 0}
    icfl = ICFL(100, 1, 1, update="adam", init="linear", **settings).fit(x)
    # Both draw weights and bias uniformly within one over the root of the inputs.
    torch.manual_seed(0)
    layer = torch.nn.Linear(100, 16)
    for drawn in (icfl.components_, layer.weight.detach().numpy(), icfl.bias_):
        assert np.abs(drawn).max() <= 0.1
        assert_allclose(drawn.std(), 0.1 / np.sqrt(3), rtol=0.5 if drawn.ndim == 1 else 0.05)


def test_newton_brings_linear_init_to_unit_length_without_bias():
    icfl = ICFL(**SMALL, init="linear", max_steps=1).fit(samples())
    assert_allclose(np.linalg.norm(icfl.components_, axis=1), 1, rtol=1e-5)
    assert_array_equal(icfl.bias_, 0)


def test_data_init_takes_samples_at_unit_length():
    x = samples()
    icfl = ICFL(**SMALL, update="adam", learning_rate=1e-12, max_steps=1).fit(x)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    assert_allclose((icfl.components_ @ unit.T).max(axis=1), 1, atol=1e-5)


# At such a rate atoms stay where they are.
SLOW_ADAM = {"update": "adam", "learning_rate": 1e-9}


@pytest.mark.parametrize(("selection", "sign"), [("signed", 1), ("absolute", -1)])
def test_adam_resets_one_of_two_close_atoms_every_hundred_steps(selection, sign):
    x = samples(50)
    atoms = unit_atoms(8, 16).astype(np.float32) * 2
    atoms[5] = sign * atoms[2]
    icfl = dictionary(atoms, **SLOW_ADAM, n_iterations=1, selection=selection)
    for _ in range(99):
        icfl.partial_fit(x)
    assert_allclose(icfl.components_, atoms, atol=1e-5)
    icfl.partial_fit(x)
    moved = np.flatnonzero(np.abs(icfl.components_ - atoms).max(axis=1) > 1e-3)
    assert len(moved) == 1
    assert moved[0] in (2, 5)
    assert_allclose(np.linalg.norm(icfl.components_[moved[0]]), 1, rtol=1e-5)
    assert icfl.history_[-1].resets == 1


def test_adam_leaves_atoms_alone_that_are_not_close():
    icfl = dictionary(np.concatenate([np.eye(16), -np.eye(16)]), **SLOW_ADAM)
    for _ in range(100):
        icfl.partial_fit(samples(50))
    assert icfl.history_[-1].resets == 0


def test_newton_redraws_atoms_that_no_sample_uses():
    x = np.abs(samples(500))
    atoms = np.concatenate([unit_atoms(15, 16), -np.ones((1, 16)) / 4])
    icfl = dictionary(atoms, n_iterations=1, atoms_per_iteration=1, random_state=0)
    for _ in range(100):
        icfl.partial_fit(x)
    assert icfl.history_[-1].resets >= 1
    assert (icfl.components_[15] @ x.T).max() > 0


def test_dead_atoms_are_those_without_positive_codes():
    x = np.abs(samples())
    assert not dictionary(np.eye(16)).dead_.any()
    fitted = ICFL(32, 1, 1, max_steps=3, random_state=0).fit(x)
    active = (fitted.transform(x).toarray() > 0).any(axis=0)
    assert fitted.dead_.dtype == bool
    assert fitted.history_[-1].dead_atoms == fitted.dead_.sum()
    assert (fitted.dead_ == ~active).mean() > 0.8


def test_attributes_after_fit():
    x = samples()
    before = torch.get_num_threads()
    icfl = ICFL(**SMALL, max_steps=7).fit(x)
    assert torch.get_num_threads() == before
    assert icfl.components_.shape == (32, 16)
    assert icfl.components_.dtype == icfl.bias_.dtype == np.float32
    assert_allclose(np.linalg.norm(icfl.components_, axis=1), 1, rtol=1e-5)
    assert (icfl.n_atoms_, icfl.n_iterations_, icfl.atoms_per_iteration_) == (32, 2, 2)
    assert icfl.n_features_in_ == 16
    assert list(icfl.get_feature_names_out()[:2]) == ["icfl0", "icfl1"]


def test_codes_are_sparse_and_reconstruct_as_dense_ones_do():
    x = samples()
    icfl = ICFL(**SMALL, max_steps=50).fit(x)
    codes = icfl.transform(x)
    assert isinstance(codes, sparse.csr_array)
    assert codes.dtype == np.float32
    assert codes.shape == (400, 32)
    assert np.diff(codes.indptr).max() <= 4
    assert_allclose(codes.toarray(), icfl.transform(x.astype(np.float64)).toarray(), atol=1e-4)
    back = icfl.inverse_transform(codes)
    assert back.dtype == np.float32
    assert_allclose(back, icfl.inverse_transform(codes.toarray()), atol=1e-5)
    assert_allclose(back, icfl.inverse_transform(sparse.coo_matrix(codes)), atol=1e-5)
    energy = (x**2).sum()
    assert 1 - ((x - back) ** 2).sum() / energy == pytest.approx(icfl.history_[-1].r2, abs=0.02)
    assert "(n_samples, 32)" in refusal(icfl.inverse_transform, codes[:, :5])


def test_a_fit_tells_its_records_and_gives_the_same_as_step_by_step():
    x = samples()
    icfl = ICFL(**SMALL, batch_size=100, max_steps=9)
    records = list(icfl.fit_iter(x))
    assert all(isinstance(record, FitRecord) for record in records)
    assert [record.step for record in records[:9]] == list(range(1, 10))
    assert {record.total_steps for record in records} == {9}
    assert records[8].n_samples == 900
    seconds = [record.seconds for record in records]
    assert seconds == sorted(seconds)
    with recorded() as heard:
        whole = ICFL(**SMALL, batch_size=100, max_steps=9).fit(x)
    assert_array_equal(icfl.components_, whole.components_)
    assert [(p.done, p.total) for p in heard] == [(record.step, 9) for record in records]
    assert heard[-1].message == f"Fitting the dictionary: explains {records[-1].r2:.1%}"
    assert heard[-1].record.r2 == records[-1].r2


def test_an_abandoned_fit_changes_nothing():
    x = samples()
    icfl = ICFL(**SMALL, max_steps=9)
    # Bad input is refused before the first record.
    assert "NaN" in refusal(icfl.fit_iter, np.full((5, 4), np.nan))
    steps = icfl.fit_iter(x)
    next(steps)
    steps.close()
    assert set(vars(icfl)) == set(vars(ICFL()))
    icfl.fit(x)
    before = icfl.components_.copy()
    steps = icfl.fit_iter(samples(seed=1, n_features=5))
    next(steps)
    steps.close()
    assert_array_equal(icfl.components_, before)
    assert icfl.n_features_in_ == 16


def test_batches_learn_too():
    atoms, x = references.planted_dictionary(20_000, 32, 64, 4, seed=0)
    icfl = ICFL(64, 2, 2, random_state=0)
    for batch in np.split(x, 10):
        icfl.partial_fit(batch)
    assert recovered(atoms, icfl.components_) > 0.8
    assert icfl.history_[-1].n_samples == 20_000


def test_batches_after_a_fit_go_on_from_its_atoms():
    x = samples()
    icfl = ICFL(**SMALL, max_steps=50).fit(x)
    before = icfl.components_.copy()
    dead = icfl.dead_.copy()
    icfl.partial_fit(x[:10])
    assert (np.diag(icfl.components_ @ before.T) > 0.5).mean() > 0.5
    assert icfl.dead_.sum() <= dead.sum()


def test_zero_and_equal_samples_are_survived():
    for x in (np.zeros((30, 8)), np.ones((30, 8))):
        icfl = ICFL(16, 2, 2, max_steps=110, random_state=0).fit(x)
        assert np.isfinite(icfl.components_).all()
        assert_allclose(icfl.inverse_transform(icfl.transform(x)), x, atol=1e-4)


@pytest.mark.parametrize(
    ("n_samples", "n_features", "expected"),
    [
        (2, 192, (2, 1, 1)),
        (100, 192, (16, 2, 1)),
        (600, 192, (32, 2, 2)),
        (1_500, 192, (64, 4, 2)),
        (3_000, 192, (128, 4, 4)),
        (6_000, 192, (256, 4, 5)),
        (6_000, 3, (256, 1, 1)),
        (25_000, 960, (1024, 4, 5)),
        (40_000_000, 1024, (8192, 4, 5)),
    ],
)
def test_default_sizes(n_samples, n_features, expected):
    assert default_size(n_samples, n_features) == expected


def test_defaults_are_used_and_told():
    for n_atoms, expected in ((None, (32, 2, 2)), (16, (16, 2, 1))):
        icfl = ICFL(n_atoms, max_steps=2, random_state=0).fit(samples(1_000, 32))
        assert (icfl.n_atoms_, icfl.n_iterations_, icfl.atoms_per_iteration_) == expected
    # Two are enough for the size that is chosen then; a warning is an error of a test.
    ICFL(max_steps=3).fit(samples(2))


@pytest.mark.parametrize("update", ["newton", "adam"])
def test_rebuilt_from_arrays_it_codes_the_same(update):
    x = samples()
    icfl = ICFL(**SMALL, update=update, max_steps=5).fit(x)
    rebuilt = dictionary(
        icfl.components_, icfl.bias_, atoms_per_iteration=2, dead=icfl.dead_, update=update
    )
    assert_array_equal(rebuilt.transform(x).toarray(), icfl.transform(x).toarray())
    assert_array_equal(rebuilt.dead_, icfl.dead_)
    assert_array_equal(rebuilt.get_feature_names_out(), icfl.get_feature_names_out())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"components": np.zeros(4)}, "do not belong together"),
        ({"components": np.zeros((0, 4))}, "do not belong together"),
        ({"bias": np.zeros(3)}, "do not belong together"),
        ({"dead": np.zeros(3)}, "do not belong together"),
        ({"components": np.full((5, 4), np.nan)}, "NaN"),
        ({"n_iterations": 0}, "n_iterations is 0"),
    ],
)
def test_damaged_arrays_are_refused(arguments, message):
    assert message in refusal(dictionary, **{"components": np.ones((5, 4))} | arguments)


def controls_and_treated(seed=0):
    """Samples of 48 atoms, of which treated ones alone show the last 16; and the atoms."""
    rng = np.random.default_rng(seed)
    atoms = unit_atoms(48, 32, seed)
    codes = np.where(rng.random((6_000, 48)) < 0.08, rng.uniform(0.5, 2, (6_000, 48)), 0)
    control = np.arange(6_000) % 2 == 0
    codes[control, 32:] = 0
    x = codes @ atoms + rng.normal(scale=0.01, size=(6_000, 32))
    return x.astype(np.float32), control, atoms


CONTROL_FIRST = {"n_iterations": 2, "atoms_per_iteration": 2, "max_steps": 120, "random_state": 0}


@pytest.fixture(scope="module")
def control_first():
    x, control, _ = controls_and_treated()
    return ICFL(48, control_atoms=32, **CONTROL_FIRST).fit(x, controls=control)


def test_control_first_learns_what_only_treated_samples_show_in_atoms_of_their_own(control_first):
    x, control, atoms = controls_and_treated()
    icfl = control_first
    assert icfl.groups_.tolist() == ["seen in controls"] * 32 + ["only in treated"] * 16
    seen, only = icfl.components_[:32], icfl.components_[32:]
    assert recovered(atoms[:32], seen) >= 0.9
    assert recovered(atoms[32:], only) >= 0.9
    codes = icfl.transform(x)[:, 32:].toarray()
    amount = [np.abs(codes[rows]).mean(axis=0) for rows in (~control, control)]
    assert (amount[0] > 3 * amount[1]).all()


def test_the_first_atoms_of_a_control_first_fit_are_those_of_a_fit_on_controls(control_first):
    x, control, _ = controls_and_treated()
    alone = ICFL(32, **CONTROL_FIRST).fit(x[control])
    assert_array_equal(control_first.components_[:32], alone.components_)
    assert alone.groups_.tolist() == ["any"] * 32
    records = list(ICFL(48, control_atoms=32, **CONTROL_FIRST).fit_iter(x, controls=control))
    assert {record.total_steps for record in records} == {240}
    assert records[-1].step == 240
    steps = [record.step for record in records]
    assert steps == sorted(steps)


def test_controls_can_be_marked_listed_or_given_by_themselves(control_first):
    x, control, _ = controls_and_treated()
    for given, controls in ((x, control.tolist()), (x[~control], x[control])):
        icfl = ICFL(48, control_atoms=32, **CONTROL_FIRST).fit(given, controls=controls)
        assert_array_equal(icfl.components_, control_first.components_)


def test_adam_keeps_the_atoms_of_controls_and_the_bias_too():
    x, control, _ = controls_and_treated()
    settings = {**CONTROL_FIRST, "update": "adam", "init": "linear", "learning_rate": 1e-2}
    both = ICFL(48, control_atoms=32, **settings).fit(x, controls=control)
    alone = ICFL(32, **settings).fit(x[control])
    assert_array_equal(both.components_[:32], alone.components_)
    assert_array_equal(both.bias_, alone.bias_)
    assert np.abs(both.components_[32:]).max() > 0


def test_groups_are_kept_by_rebuilding_and_checked(control_first):
    atoms, groups = control_first.components_, control_first.groups_
    assert_array_equal(dictionary(atoms, groups=groups).groups_, groups)
    assert "atoms of the group 'rare'" in refusal(dictionary, atoms, groups=["rare"] * 48)


def test_atoms_cannot_be_written_to_because_codes_are_made_from_a_copy():
    icfl = ICFL(**SMALL, max_steps=3).fit(samples())
    with pytest.raises(ValueError, match="read-only"):
        icfl.components_[0] = 0
    before = icfl.transform(samples()).toarray()
    icfl.components_ = icfl.components_[::-1].copy()
    assert not np.array_equal(icfl.transform(samples()).toarray(), before)


@pytest.mark.parametrize(("n_controls", "warned"), [(39, True), (40, False)])
def test_few_controls_for_control_atoms_are_warned_of(n_controls, warned):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_controls + 60, 12)).astype(np.float32)
    icfl = ICFL(12, 1, 2, control_atoms=8, max_steps=3, random_state=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        icfl.fit(x, controls=np.arange(len(x)) < n_controls)
    expected = f"There are {n_controls} controls for 8 control atoms"
    assert any(expected in str(w.message) for w in caught) == warned
