"""What holds of every estimator: those that learn a dictionary, and the whitening before them."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from estimators.cases import refused, samples
from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.icfl import ICFL, FewSamplesWarning
from napari_microdl.estimators.topk_sae import TopKSAE
from napari_microdl.estimators.whitening import ControlWhitening
from tasks import cancelling

LEARNERS = {
    "icfl": ICFL(32, 2, 2, random_state=0),
    "topk_sae": TopKSAE(32, 4, random_state=0),
}
ESTIMATORS = {**LEARNERS, "whitening": ControlWhitening()}


@pytest.fixture(params=LEARNERS)
def learner(request: pytest.FixtureRequest) -> Any:
    return clone(LEARNERS[request.param])


@pytest.fixture(params=ESTIMATORS)
def estimator(request: pytest.FixtureRequest) -> Any:
    return clone(ESTIMATORS[request.param])


@parametrize_with_checks(
    [
        ICFL(max_steps=20),
        ICFL(update="adam", init="linear", selection="absolute", max_steps=5),
        TopKSAE(max_steps=20),
        ControlWhitening(),
        ControlWhitening(n_components=1, shrinkage=0.0, unit_norm=False),
    ]
)
def test_scikit_learn_accepts_it(estimator, check):
    check(estimator)


def test_it_makes_a_pipeline_with_the_whitening(learner):
    x = samples()
    pipeline = make_pipeline(ControlWhitening(), learner.set_params(max_steps=5)).fit(x)
    assert pipeline.transform(x).shape == (400, 32)


def test_equal_seeds_give_identical_results_and_others_do_not(learner):
    x = samples()
    one, two, other = (
        clone(learner).set_params(max_steps=120, random_state=seed).fit(x) for seed in (3, 3, 4)
    )
    assert_array_equal(one.components_, two.components_)
    assert_array_equal(one.transform(x).toarray(), two.transform(x).toarray())
    assert not np.array_equal(one.components_, other.components_)


def test_it_survives_pickling_and_continues(estimator):
    x = samples()
    copy = pickle.loads(pickle.dumps(estimator.partial_fit(x[:300])))
    for one in (estimator, copy):
        one.partial_fit(x[300:])
    assert_array_equal(copy.components_, estimator.components_)
    assert abs(copy.transform(x) - estimator.transform(x)).max() == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_batch_changes_nothing(estimator, bad):
    x = samples()
    codes = estimator.partial_fit(x).transform(x)
    before = dict(vars(estimator))
    wrong = x.copy()
    wrong[[5, 9], 3] = bad
    for use in (estimator.fit, estimator.partial_fit, estimator.transform):
        with pytest.raises(MicrodlError, match=r"2 of 400 samples hold NaN or inf .* row 5"):
            use(wrong)
    name = type(estimator).__name__
    for use in (estimator.partial_fit, estimator.transform):
        with pytest.raises(ValueError, match=f"X has 5 features, but {name} is expecting 16"):
            use(x[:, :5])
        with pytest.raises(ValueError, match="0 sample"):
            use(x[:0])
    with pytest.raises(MicrodlError, match="at least 2"):
        estimator.fit(x[:1, :5])
    after = vars(estimator)
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in before)
    assert abs(estimator.transform(x) - codes).max() == 0


def test_a_cancelled_fit_changes_nothing(learner):
    learner.set_params(max_steps=9)
    for fitted in (False, True):
        if fitted:
            learner.fit(samples())
        before = dict(vars(learner))
        # The last two looks are of the final solve and of the record after it.
        for looks in (0, 1, 5, 9, 10):
            with cancelling(looks):
                learner.fit(samples(n_features=5))
        assert vars(learner) == before


def test_too_few_samples_are_refused_or_warned_of(learner):
    for use in (learner.fit, learner.partial_fit):
        with refused("at least 2 samples but got n_samples = 1", learner):
            use(samples(1))
    with pytest.warns(FewSamplesWarning, match="20 samples for 32 atoms"):
        learner.set_params(max_steps=3).fit(samples(20))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_atoms": 0}, "n_atoms is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1.0"),
        ({"early_stopping": True, "validation_fraction": 0.0}, "early_stopping needs held-out"),
        ({"n_iter_no_change": 0}, "n_iter_no_change is 0"),
    ],
)
def test_bad_parameters_are_named(learner, arguments, message):
    with refused(message, learner.set_params(**arguments)):
        learner.fit(samples())


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (ICFL(update="sgd"), "update is 'sgd'"),
        (ICFL(init="zeros"), "init is 'zeros'"),
        (ICFL(selection="best"), "selection is 'best'"),
        (ICFL(refit="never"), "refit is 'never'"),
        (ICFL(n_iterations=0), "n_iterations is 0"),
        (ICFL(atoms_per_iteration=-1), "atoms_per_iteration is -1"),
        (ICFL(allow_repeats="no"), "allow_repeats is 'no'"),
        (TopKSAE(n_active=0), "n_active is 0"),
        (TopKSAE(n_atoms=8, n_active=9), "n_active is 9 but there are only 8 atoms"),
        (TopKSAE(n_aux=0), "n_aux is 0"),
        (TopKSAE(dead_after=0), "dead_after is 0"),
        (TopKSAE(aux_weight=-1.0), "aux_weight is -1.0"),
        (ControlWhitening(n_components=0), "n_components is 0"),
        (ControlWhitening(n_components=17), "only 16 features"),
        (ControlWhitening(shrinkage=-1), "shrinkage is -1"),
        (ControlWhitening(shrinkage=np.nan), "shrinkage is nan"),
        (ControlWhitening(eigenvalue_floor=1), "eigenvalue_floor is 1"),
    ],
)
def test_bad_parameters_of_one_estimator_are_named(estimator, message):
    with refused(message, estimator):
        estimator.fit(samples())
