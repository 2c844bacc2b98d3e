"""What holds of every estimator that learns a dictionary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from estimators.cases import refused, samples
from napari_microdl.core.errors import MicrodlError
from napari_microdl.estimators.icfl import ICFL, FewSamplesWarning
from napari_microdl.estimators.topk_sae import TopKSAE
from napari_microdl.estimators.whitening import ControlWhitening

LEARNERS = {
    "icfl": ICFL(32, 2, 2, random_state=0),
    "topk_sae": TopKSAE(32, 4, random_state=0),
}


@pytest.fixture(params=LEARNERS)
def learner(request: pytest.FixtureRequest) -> Any:
    return clone(LEARNERS[request.param])


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


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_batch_changes_nothing(learner, bad):
    x = samples()
    before = learner.partial_fit(x).transform(x).toarray()
    wrong = x.copy()
    wrong[5, 3] = bad
    for use in (learner.fit, learner.partial_fit, learner.transform):
        with pytest.raises(MicrodlError, match=r"1 of 400 samples hold NaN or inf .* row 5"):
            use(wrong)
    name = type(learner).__name__
    for use in (learner.partial_fit, learner.transform):
        with pytest.raises(ValueError, match=f"X has 5 features, but {name} is expecting 16"):
            use(x[:, :5])
        with pytest.raises(ValueError, match="0 sample"):
            use(x[:0])
    assert len(learner.history_) == 1
    assert_array_equal(learner.transform(x).toarray(), before)


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
