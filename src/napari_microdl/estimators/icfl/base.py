"""What the estimators that learn a dictionary have in common: reading, coding, reconstructing."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from napari_microdl.core.arrays import require_finite
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.estimators.icfl.batches import is_store, is_stream
from napari_microdl.estimators.pursuit import codes_to_csr

if TYPE_CHECKING:
    from collections.abc import Generator
    from typing import Literal

    from napari_microdl.estimators.icfl.plan import FitRecord
    from napari_microdl.estimators.pursuit.coder import Coder

MOST_HELD_OUT = 2048
_HELD_OUT_SHARE = 0.05
_MANY_SAMPLES = 10_000
_FEWEST_HELD_OUT = 8
# Samples coded at a time by `transform`.
_SLAB_ROWS = 16384


class DictionaryEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """An estimator whose samples are a bias plus a few weighted atoms.

    A subclass fits `components_`, `bias_` and `n_atoms_`, and makes what codes in them.
    """

    components_: NDArray[np.float32]
    bias_: NDArray[np.float32]
    n_atoms_: int
    n_features_in_: int
    n_atoms: int | None
    validation_fraction: float | Literal["auto"]
    early_stopping: bool
    n_iter_no_change: int
    random_state: int | np.random.RandomState | None
    # What it is called in sentences.
    _noun: ClassVar[str]

    def partial_fit(self, X: ArrayLike, y: None = None) -> Self:
        """Learn from one batch more.

        The samples are gone through once, in the order given, `batch_size` at a time. A final solve
        is left out, nothing is held out and all atoms learn. The first call decides the number of
        atoms where `n_atoms` is None, and draws the first atoms from its samples; later calls, also
        after `fit`, go on from there.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, at least one, at least two in the first call.
        y : None
            Not used; present for scikit-learn.

        Returns
        -------
        DictionaryEstimator
            Itself.

        Raises
        ------
        MicrodlError
            If the samples cannot be used. What was learned before stays.
        """
        self._check_single_batches()
        first = not hasattr(self, "components_")
        x = self._next_samples(X, first=first)
        if first:
            self._require_two(len(x))
        learner = getattr(self, "_learner", None) or self._next_learner(x, first=first)
        for start in range(0, len(x), learner.plan.batch_size):
            learner.step(x[start : start + learner.plan.batch_size])
        if first:
            validate_data(self, X, reset=True, skip_check_array=True)
        history = [*getattr(self, "history_", []), learner.record(learner.steps)]
        self._publish_learner(learner, history)
        # With what the attributes do not tell, such as the moments of Adam.
        self._learner = learner
        return self

    def transform(self, X: ArrayLike) -> sparse.csr_array:
        """Sparse codes of samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, prepared as those of the fit; a zarr or a dask array is read piece by piece.

        Returns
        -------
        scipy.sparse.csr_array of float32, shape (n_samples, n_atoms_)
            Codes, with at most as many non-zeros a row as the estimator was told.

        Raises
        ------
        MicrodlError
            If a sample is not finite.
        """
        check_is_fitted(self)
        x: Any = X
        if not is_store(X):
            x = validate_data(
                self, X, reset=False, dtype=[np.float32, np.float64], ensure_all_finite=False
            )
            require_finite(x)
        elif len(x.shape) != 2 or x.shape[1] != self.n_features_in_:
            raise MicrodlError(
                f"The samples have the shape {tuple(x.shape)} but must have (n, "
                f"{self.n_features_in_}): pass samples prepared as those of the fit."
            )
        dtype = self._coding_dtype(x.dtype)
        coder = self._coder(dtype)
        # Codes of a slab at a time: of many samples, the sparse codes alone stay in memory.
        parts = []
        for start in range(0, x.shape[0], _SLAB_ROWS):
            slab: NDArray[Any] = np.array(x[start : start + _SLAB_ROWS], dtype=dtype, order="C")
            if is_store(X):
                require_finite(slab)
            slab -= self.bias_.astype(dtype)
            indices, values = coder.code_array(slab)
            codes = codes_to_csr(indices, values.astype(np.float32, copy=False), self.n_atoms_)
            parts.append(codes)
        if not parts:
            return sparse.csr_array((0, self.n_atoms_), dtype=np.float32)
        return parts[0] if len(parts) == 1 else sparse.csr_array(sparse.vstack(parts))

    def inverse_transform(self, X: ArrayLike | sparse.sparray | sparse.spmatrix) -> NDArray[Any]:
        """Reconstruct samples from their codes.

        Parameters
        ----------
        X : array-like or scipy.sparse matrix of shape (n_samples, n_atoms_)
            Codes.

        Returns
        -------
        ndarray of float32, shape (n_samples, n_features_in_)
            Codes times atoms, plus the bias.

        Raises
        ------
        MicrodlError
            If the width is not the number of atoms.
        """
        check_is_fitted(self)
        codes: Any = X if sparse.issparse(X) else np.asarray(X)
        if codes.ndim != 2 or codes.shape[1] != self.n_atoms_:
            raise MicrodlError(
                f"Codes have the shape (n_samples, {self.n_atoms_}), but these have "
                f"{codes.shape}: pass what transform returned."
            )
        return np.asarray(codes.astype(np.float32) @ self.components_ + self.bias_)

    @property
    def _n_features_out(self) -> int:
        return self.n_atoms_

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _take_all(self, records: Generator[FitRecord, None, None]) -> None:
        """Fit to the end; a fit that is cancelled on the way can save where it stands."""
        task = current_task()
        with closing(records):
            for record in records:
                message = f"Fitting the {self._noun}: explains {record.r2:.1%}"
                task.progress(record.step, record.total_steps or 0, message, record=record)

    def _coding_dtype(self, dtype: np.dtype[Any]) -> type[np.floating[Any]]:
        """In what samples of this dtype are coded."""
        return np.float64 if dtype == np.float64 else np.float32

    def _check_single_batches(self) -> None:
        """Refuse parameters with which nothing can be learned from single batches."""
        raise NotImplementedError

    def _next_learner(self, x: NDArray[np.float32], *, first: bool) -> Any:
        """What learns from single batches: begun, or going on from the atoms that there are."""
        raise NotImplementedError

    def _publish_learner(self, learner: Any, history: list[FitRecord]) -> None:
        """Take over what was learned."""
        raise NotImplementedError

    def _coder(self, dtype: type[np.floating[Any]]) -> Coder:
        """What codes samples of this type."""
        raise NotImplementedError

    def _seed(self) -> int:
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    def _matrix(self, X: Any) -> Any:
        """Samples that are in memory as checked float32, those in files as they are."""
        if not is_store(X):
            x = check_array(X, dtype=np.float32, ensure_all_finite=False, order="C", estimator=self)
            require_finite(x)
            return x
        if len(X.shape) != 2 or X.dtype.kind not in "fiu":
            raise MicrodlError(
                f"The samples have the shape {tuple(X.shape)} and the type {X.dtype} but must be a "
                "matrix of numbers, one sample a row."
            )
        return X

    def _next_samples(self, X: ArrayLike, *, first: bool) -> NDArray[np.float32]:
        """Checked samples for `partial_fit`."""
        if first:
            x = check_array(X, dtype=np.float32, ensure_all_finite=False, order="C", estimator=self)
        else:
            x = validate_data(
                self, X, reset=False, dtype=np.float32, ensure_all_finite=False, order="C"
            )
        require_finite(x)
        samples: NDArray[np.float32] = x
        return samples

    def _take_form(self, X: Any, width: int) -> None:
        """Remember what the samples of a fit look like."""
        if is_store(X) or is_stream(X):
            self.n_features_in_ = width
            if hasattr(self, "feature_names_in_"):
                del self.feature_names_in_
        else:
            validate_data(self, X, reset=True, skip_check_array=True)

    def _require_n_atoms(self) -> None:
        """Refuse an iterable where nobody said how many atoms to learn from it."""
        if self.n_atoms is None:
            raise MicrodlError(
                "An iterable does not tell how many samples it has: set n_atoms, about one for 24 "
                "samples."
            )

    def _require_two(self, n_samples: int) -> None:
        if n_samples < 2:
            raise MicrodlError(
                f"The {self._noun} needs at least 2 samples but got n_samples = {n_samples}: add "
                "more."
            )

    def _n_held_out(self, n_samples: int, most: int = MOST_HELD_OUT) -> int:
        share = self.validation_fraction
        if share == "auto":
            share = _HELD_OUT_SHARE if n_samples >= _MANY_SAMPLES or self.early_stopping else 0.0
        count = min(int(share * n_samples), MOST_HELD_OUT, most)
        return count if count >= _FEWEST_HELD_OUT else 0

    def _n_held_out_of_stream(self, batch_size: int) -> int:
        return 0 if self.validation_fraction == 0 else min(batch_size, MOST_HELD_OUT)

    def _check_counts(self, *names: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise MicrodlError(f"{name} is {value} but must be at least 1, or None.")

    def _check_stopping(self) -> None:
        """Refuse parameters of the held-out samples that mean nothing."""
        share = self.validation_fraction
        if share != "auto" and not 0 <= share < 1:
            raise MicrodlError(
                f"validation_fraction is {share!r} but must lie in [0, 1) or be 'auto'."
            )
        if self.early_stopping and share == 0:
            raise MicrodlError(
                "early_stopping needs held-out samples, but validation_fraction is 0: set it to "
                "'auto' or a share."
            )
        if self.n_iter_no_change < 1:
            raise MicrodlError(
                f"n_iter_no_change is {self.n_iter_no_change} but must be at least 1."
            )
