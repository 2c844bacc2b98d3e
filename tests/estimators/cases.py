"""Samples, streams and refusals that the tests of several estimators share."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from napari_microdl.core.errors import MicrodlError

# Fits in processes of their own start from one that has imported torch.
PROCESSES = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
if sys.platform == "linux":
    PROCESSES.set_forkserver_preload(["numba", "pandas", "pytest", "sklearn.base", "torch"])


def samples(n_samples=400, n_features=16, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n_samples, n_features)) ** 3).astype(np.float32)


def recovered(atoms, learned):
    """Share of the atoms that a learned one meets at a cosine above 0.9."""
    return (np.abs(atoms @ learned.T).max(axis=1) > 0.9).mean()


class Loader:
    """Batches that can be gone through again."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@contextmanager
def refused(message: str, estimator: Any) -> Iterator[None]:
    """The work inside raises one clear sentence and changes nothing of the estimator."""
    before = dict(vars(estimator))
    with pytest.raises(MicrodlError, match=message) as caught:
        yield
    told = str(caught.value)
    assert told.endswith("."), told
    assert "\n" not in told
    assert ". " not in told, "more than one sentence"
    after = vars(estimator)
    assert set(after) == set(before)
    assert all(after[name] is before[name] for name in before)
