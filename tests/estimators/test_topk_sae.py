from __future__ import annotations

import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

import references
from core.refusals import refusal
from napari_microdl import TopKSAE
from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.icfl import FitRecord
from napari_microdl.estimators.pursuit import PursuitOptions
from napari_microdl.estimators.topk_sae import AutoencoderLearner, AutoencoderPlan
from tasks import recorded

SMALL = {"n_atoms": 32, "n_active": 4, "random_state": 0}
N_ACTIVE, N_AUX, AUX_WEIGHT, RATE = 2, 3, 0.25, 1e-3


def samples(n_samples=400, n_features=16, seed=0):
    return np.random.default_rng(seed).normal(size=(n_samples, n_features)).astype(np.float32)


def autoencoder(n_atoms=12, width=6, seed=0):
    """Decoder of unit rows, its bias, an encoder that is not its transpose, and its bias."""
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(n_atoms, width))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    arrays = (
        atoms,
        0.2 * rng.normal(size=width),
        atoms + 0.2 * rng.normal(size=atoms.shape),
        0.1 * rng.normal(size=n_atoms),
    )
    return [np.float32(a).astype(np.float64) for a in arrays]


def dead_of(n_atoms, n_dead):
    return np.arange(n_atoms) >= n_atoms - n_dead


class SlowAutoencoder:
    """The formulas one sample at a time in float64, with slopes by finite differences."""

    def __init__(self, arrays, dead):
        self.values = [a.copy() for a in arrays]
        self.idle = np.where(dead, 10**6, 0)
        self.moments = [(np.zeros_like(a), np.zeros_like(a)) for a in arrays]
        self.steps = 0

    def forward(self, x):
        """Residuals of all samples, and what dead features say of each."""
        atoms, bias, encoder, encoder_bias = self.values
        dead = np.flatnonzero(self.idle >= 10**6)
        residuals, guesses, active = [], [], np.zeros(len(atoms), bool)
        for sample in x:
            before = np.maximum(0, encoder @ (sample - bias) + encoder_bias)
            reconstruction, guess = bias.copy(), np.zeros_like(bias)
            for m in np.argsort(-before)[:N_ACTIVE]:
                reconstruction += before[m] * atoms[m]
                active[m] |= before[m] > 0
            for m in dead[np.argsort(-before[dead])][:N_AUX]:
                guess += before[m] * atoms[m]
            residuals.append(sample - reconstruction)
            guesses.append(guess)
        return np.array(residuals), np.array(guesses), active, len(dead)

    def losses(self, x, fixed=None):
        """Both losses; the residual that dead features explain is fixed while slopes are taken."""
        residuals, guesses, _, n_dead = self.forward(x)
        fixed = residuals if fixed is None else fixed
        variance = ((x - x.mean(axis=0)) ** 2).sum()
        auxiliary = 0.0
        if n_dead:
            auxiliary = min(n_dead / N_AUX, 1) * ((guesses - fixed) ** 2).sum() / variance
        return (residuals**2).sum() / variance, auxiliary

    def slopes(self, x):
        fixed = self.forward(x)[0]
        slopes = []
        for values in self.values:
            slope = np.zeros_like(values)
            for place in np.ndindex(values.shape):
                ends = []
                kept = values[place]
                for change in (-1e-6, 1e-6):
                    values[place] = kept + change
                    reconstruction, auxiliary = self.losses(x, fixed)
                    ends.append(reconstruction + AUX_WEIGHT * auxiliary)
                values[place] = kept
                slope[place] = (ends[1] - ends[0]) / 2e-6
            slopes.append(slope)
        return slopes

    def step(self, x):
        slopes = self.slopes(x)
        active = self.forward(x)[2]
        self.idle = np.where(active, 0, self.idle + len(x))
        atoms = self.values[0]
        for m, atom in enumerate(atoms):
            slopes[0][m] -= (slopes[0][m] @ atom) * atom
        self.steps += 1
        for values, slope, (first, second) in zip(self.values, slopes, self.moments, strict=True):
            first[:] = 0.9 * first + 0.1 * slope
            second[:] = 0.999 * second + 0.001 * slope**2
            mean, spread = first / (1 - 0.9**self.steps), second / (1 - 0.999**self.steps)
            values -= RATE * mean / (np.sqrt(spread) + 6.25e-10)
        atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)


@pytest.mark.parametrize("n_dead", [0, 2, 5])
def test_loss_and_gradients_agree_with_finite_differences(n_dead):
    arrays, dead, x = autoencoder(), dead_of(12, n_dead), samples(20, 6)
    plan = AutoencoderPlan(
        n_atoms=12,
        coding=PursuitOptions(1, N_ACTIVE),
        update="adam",
        learning_rate=RATE,
        batch_size=20,
        max_steps=1,
        init="data",
        early_stopping=False,
        tol=0,
        n_iter_no_change=1,
        device="cpu",
        aux_weight=AUX_WEIGHT,
        n_aux=N_AUX,
        dead_after=10**6,
    )
    loss = AutoencoderLearner(plan, *(np.float32(a) for a in arrays), dead).loss(x)
    slow = SlowAutoencoder(arrays, dead)
    expected = slow.losses(x.astype(np.float64))
    assert_allclose((loss.reconstruction, loss.auxiliary), expected, rtol=1e-5)
    assert (loss.auxiliary > 0) == (n_dead > 0)
    slopes = slow.slopes(x.astype(np.float64))
    for name, slope in zip(("atoms", "bias", "encoder", "encoder_bias"), slopes, strict=True):
        assert_allclose(loss.gradients[name].numpy(), slope, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("n_dead", [0, 2, 5])
@pytest.mark.parametrize("n_steps", [1, 3])
def test_steps_agree_with_the_slow_reference(n_steps, n_dead):
    arrays, dead, x = autoencoder(), dead_of(12, n_dead), samples(20, 6)
    sae = TopKSAE.from_arrays(
        *arrays,
        n_active=N_ACTIVE,
        dead=dead,
        learning_rate=RATE,
        aux_weight=AUX_WEIGHT,
        n_aux=N_AUX,
        dead_after=10**6,
    )
    slow = SlowAutoencoder(arrays, dead)
    for _ in range(n_steps):
        sae.partial_fit(x)
        slow.step(x.astype(np.float64))
    learned = (sae.components_, sae.bias_, sae.encoder_, sae.encoder_bias_)
    for values, expected, begun in zip(learned, slow.values, arrays, strict=True):
        assert_allclose(values, expected, atol=0.02 * RATE)
        assert np.abs(values - begun).max() > 0.5 * RATE


def test_a_planted_dictionary_is_recovered():
    atoms, x = references.planted_dictionary(6_000, 32, 64, 4, seed=0)
    sae = TopKSAE(128, 4, learning_rate=5e-3, max_steps=500, random_state=0).fit(x)
    assert (np.abs(atoms @ sae.components_.T).max(axis=1) > 0.9).mean() > 0.9
    assert sae.history_[-1].r2 > 0.85


def active_again(aux_weight):
    """How many of 32 dead features are active after 100 steps."""
    _, x = references.planted_dictionary(2_000, 32, 64, 4, seed=0)
    atoms, bias, encoder, encoder_bias = autoencoder(64, 32)
    dead = dead_of(64, 32)
    # Too weak to be among the largest of any sample, but not silent.
    encoder[dead] *= 0.01
    encoder_bias[:] = 0
    sae = TopKSAE.from_arrays(
        atoms,
        bias,
        encoder,
        encoder_bias,
        n_active=4,
        dead=dead,
        learning_rate=3e-3,
        aux_weight=aux_weight,
    )

    def n_active():
        return (sae.transform(x)[:, dead].toarray() > 0).any(axis=0).sum()

    assert n_active() == 0
    for _ in range(100):
        sae.partial_fit(x[:1024])
    return n_active()


def test_the_auxiliary_loss_brings_dead_features_back():
    back = [active_again(w) for w in (0.0, 1 / 32)]
    assert back[1] >= 24
    assert back[0] <= 4


def test_a_code_is_the_largest_positive_values_of_the_encoder():
    atoms, bias, encoder, encoder_bias = autoencoder()
    x = samples(50, 6)
    sae = TopKSAE.from_arrays(atoms, bias, encoder, encoder_bias - 0.5, n_active=4)
    before = np.maximum(0, (x - bias) @ encoder.T + encoder_bias - 0.5)
    fourth = np.sort(before, axis=1)[:, -4][:, None]
    expected = np.where(before >= fourth, before, 0)
    codes = sae.transform(x)
    assert isinstance(codes, sparse.csr_array)
    assert codes.dtype == np.float32
    assert codes.nnz < 4 * len(x)
    assert_allclose(codes.toarray(), expected, atol=1e-5)
    back = sae.inverse_transform(codes)
    assert back.dtype == np.float32
    assert_allclose(back, expected @ atoms + bias, atol=1e-5)
    assert "(n_samples, 12)" in refusal(sae.inverse_transform, codes[:, :5])


def test_it_begins_with_the_mean_and_with_the_encoder_as_the_decoder():
    x = samples() + 3
    sae = TopKSAE(**SMALL, learning_rate=1e-12, max_steps=1).fit(x)
    assert_allclose(sae.bias_, x.mean(axis=0), atol=1e-5)
    assert_allclose(sae.encoder_, sae.components_, atol=1e-6)
    assert_array_equal(sae.encoder_bias_.round(9), 0)


def test_attributes_after_fit():
    x = samples()
    sae = TopKSAE(**SMALL, max_steps=7).fit(x)
    assert sae.components_.shape == sae.encoder_.shape == (32, 16)
    assert_allclose(np.linalg.norm(sae.components_, axis=1), 1, rtol=1e-5)
    assert (sae.n_atoms_, sae.n_active_, sae.n_features_in_) == (32, 4, 16)
    assert list(sae.get_feature_names_out()[:2]) == ["topksae0", "topksae1"]
    assert sae.dead_.sum() == sae.history_[-1].dead_atoms
    assert_array_equal(sae.dead_[(sae.transform(x) > 0).toarray().any(axis=0)], False)
    chosen = TopKSAE(max_steps=2, random_state=0).fit(samples(800))
    assert (chosen.n_atoms_, chosen.n_active_) == (32, 4)


def test_records_tell_how_far_a_fit_is():
    sae = TopKSAE(**SMALL, batch_size=100, max_steps=60, validation_fraction=0.1)
    with recorded() as heard:
        sae.fit(samples())
    assert heard[-1].message.startswith("Fitting the autoencoder: explains ")
    records = [progress.record for progress in heard]
    assert all(isinstance(record, FitRecord) for record in records)
    assert [record.step for record in records] == [*range(1, 61), 60]
    assert records[-1].r2 > records[0].r2
    assert records[-1].held_out_r2 > 0
    assert records[59].n_samples == 6000


def test_early_stopping_ends_a_fit_that_learns_no_more():
    sae = TopKSAE(**SMALL, early_stopping=True, tol=1.0, n_iter_no_change=2, batch_size=100)
    assert sae.fit(samples()).history_[-1].step == 60


@pytest.mark.parametrize("kind", ["memory map", "zarr", "generator"])
def test_samples_may_come_from_files_and_streams(kind, tmp_path):
    atoms, x = references.planted_dictionary(4_000, 32, 64, 4, seed=0)
    np.save(tmp_path / "x.npy", x)
    given = {
        "generator": (x[start : start + 300] for _ in range(20) for start in range(0, 4_000, 300)),
        "zarr": zarr.array(x, chunks=(500, 32)),
        "memory map": np.load(tmp_path / "x.npy", mmap_mode="r"),
    }[kind]
    settings = {"learning_rate": 5e-3, "batch_size": 256, "random_state": 0}
    max_steps = None if kind == "generator" else 300
    sae = TopKSAE(128, 4, max_steps=max_steps, **settings).fit(given)
    assert (np.abs(atoms @ sae.components_.T).max(axis=1) > 0.9).mean() > 0.6
    assert sae.n_features_in_ == 32
    if kind != "generator":
        codes = sae.transform(given).toarray()
        assert_allclose(codes, sae.transform(x).toarray(), atol=1e-5)


def test_batches_go_on_after_a_fit_and_without_one():
    x = samples()
    sae = TopKSAE(**SMALL, max_steps=50).fit(x)
    before = sae.components_.copy()
    sae.partial_fit(x)
    assert 0 < np.abs(sae.components_ - before).max() < 0.1
    sae = TopKSAE(**SMALL, learning_rate=1e-2)
    for _ in range(30):
        sae.partial_fit(x)
    assert sae.history_[-1].r2 > sae.history_[0].r2
    assert sae.history_[-1].n_samples == 12_000


def test_samples_that_cannot_be_learned_from():
    assert "set n_atoms" in refusal(TopKSAE().fit, iter([samples()]))
    assert "the shape (4, 4, 4)" in refusal(TopKSAE().fit, zarr.zeros((4, 4, 4)))
    sae = TopKSAE(**SMALL).partial_fit(samples())
    with pytest.raises(MicrodlError, match=r"\(400, 5\) but must have \(n, 16\)"):
        sae.transform(zarr.array(samples(n_features=5)))


def test_equal_samples_do_not_break_it():
    sae = TopKSAE(4, 2, max_steps=5, random_state=0).fit(np.ones((10, 3)))
    assert np.isfinite(sae.components_).all()
    assert_allclose(sae.inverse_transform(sae.transform(np.ones((2, 3)))), 1, atol=1e-4)


def test_arrays_that_do_not_belong_together_are_refused():
    atoms, bias, encoder, encoder_bias = autoencoder()
    for wrong in (
        (atoms, bias[:3], encoder, encoder_bias),
        (atoms, bias, encoder[:3], encoder_bias),
        (atoms[0], bias, encoder, encoder_bias),
    ):
        assert "do not belong together" in refusal(TopKSAE.from_arrays, *wrong, n_active=2)
    with pytest.raises(MicrodlError, match="NaN"):
        TopKSAE.from_arrays(atoms * np.nan, bias, encoder, encoder_bias, n_active=2)
