"""Whitening by control samples: what every well shows shrinks, what a treatment adds stands out."""

from __future__ import annotations

import copy
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from napari_microdl.core.arrays import eigh, require_finite
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task

# Rows turned to float64 at a time, so that memory does not grow with the number of samples.
_CHUNK_ROWS = 8192


# Components, explained variance and scale.
_Spectrum = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]


class FewControlsWarning(UserWarning):
    """There are fewer control samples than are needed to measure every direction."""


class MomentSums:
    """Mean and scatter matrix of the samples seen so far, float64.

    Parameters
    ----------
    width : int
        Features of a sample.
    """

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = np.zeros(width)
        self.scatter = np.zeros((width, width))

    def add(self, x: NDArray[Any]) -> None:
        """Merge samples by the update of Chan, Golub and LeVeque (1979)."""
        for start in range(0, len(x), _CHUNK_ROWS):
            current_task().check()
            chunk = x[start : start + _CHUNK_ROWS].astype(np.float64)
            mean = chunk.mean(axis=0)
            chunk -= mean
            shift = mean - self.mean
            total = self.count + len(chunk)
            self.scatter += chunk.T @ chunk
            self.scatter += np.outer(shift, shift) * (self.count * len(chunk) / total)
            self.mean = self.mean + shift * (len(chunk) / total)
            self.count = total


class ControlWhitening(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Centre and whiten by the control samples, then bring each sample to unit length.

    The controls' mean becomes the origin and their covariance the identity, so that what varies in
    every well (cell cycle, density) shrinks and what a treatment adds stands out [1]_. Statistics
    are accumulated in float64. The paper does not say how weak directions are kept from exploding;
    here a share of the *median* eigenvalue is added to every eigenvalue. A share of the mean would
    follow the few strongest directions and bury the weak ones, in which the concepts live.

    Parameters
    ----------
    n_components : int or None
        Number of principal directions of the controls to keep, strongest first. None keeps all:
        the concepts live in the weak directions, so dropping these costs concepts.
    shrinkage : float
        Share of the median non-zero eigenvalue added to every eigenvalue; 0 gives plain whitening.
    eigenvalue_floor : float
        Smallest eigenvalue used, as a share of the median non-zero one.
    unit_norm : bool
        Whether each sample is divided by its L2 norm at the end. A zero vector stays zero.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features_in_,)
        Mean of the controls, float64.
    components_ : ndarray of shape (n_components, n_features_in_)
        Principal directions of the controls in rows, strongest first, float64. The entry of the
        largest magnitude in each row is positive.
    explained_variance_ : ndarray of shape (n_components,)
        Variance of the controls along each direction, float64.
    scale_ : ndarray of shape (n_components,)
        Factor applied to each direction, float64.
    n_samples_seen_ : int
        Number of control samples.
    n_features_in_ : int
        Width of a sample.

    See Also
    --------
    sklearn.decomposition.PCA : ``PCA(whiten=True)`` gives the same result, up to signs, as
        ``ControlWhitening(shrinkage=0, unit_norm=False)``.

    Notes
    -----
    The principal directions are solved for when they are first asked for after `partial_fit`, so
    that a long stream pays for one decomposition; warnings about too few controls appear then.

    References
    ----------
    .. [1] K. Donhauser et al., "Towards scientific discovery with dictionary learning: Extracting
       biological concepts from microscopy foundation models", ICML 2025, section on control-based
       preprocessing.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> controls = rng.normal(size=(500, 8)) * np.arange(1, 9)
    >>> whitening = ControlWhitening(shrinkage=0.0, unit_norm=False).fit(controls)
    >>> np.allclose(np.cov(whitening.transform(controls), rowvar=False), np.eye(8))
    True
    """

    mean_: NDArray[np.float64]
    n_samples_seen_: int
    n_features_in_: int
    _moments: MomentSums | None
    _spectrum: _Spectrum | None
    # Beside that of the controls; 0 where there is none.
    _nuisance: NDArray[np.float64] | float = 0.0

    def __init__(
        self,
        n_components: int | None = None,
        *,
        shrinkage: float = 0.1,
        eigenvalue_floor: float = 1e-6,
        unit_norm: bool = True,
    ) -> None:
        self.n_components = n_components
        self.shrinkage = shrinkage
        self.eigenvalue_floor = eigenvalue_floor
        self.unit_norm = unit_norm

    @classmethod
    def from_arrays(
        cls,
        mean: ArrayLike,
        components: ArrayLike,
        explained_variance: ArrayLike,
        scale: ArrayLike,
        *,
        n_samples_seen: int,
        shrinkage: float = 0.1,
        eigenvalue_floor: float = 1e-6,
        unit_norm: bool = True,
    ) -> Self:
        """Rebuild a fitted whitening from its stored attributes.

        The result transforms exactly as the original did. The controls' second moment is not among
        the attributes, so that `partial_fit` cannot continue from here and says so.

        Parameters
        ----------
        mean : array-like of shape (n_features,)
            `mean_`.
        components : array-like of shape (n_components, n_features)
            `components_`.
        explained_variance : array-like of shape (n_components,)
            `explained_variance_`.
        scale : array-like of shape (n_components,)
            `scale_`.
        n_samples_seen : int
            `n_samples_seen_`.
        shrinkage, eigenvalue_floor, unit_norm
            Parameters of the original.

        Returns
        -------
        ControlWhitening
            Fitted.

        Raises
        ------
        MicrodlError
            If the shapes do not belong together or a value is not finite.
        """
        arrays = [np.array(a, dtype=np.float64) for a in (mean, components, explained_variance)]
        arrays.append(np.array(scale, dtype=np.float64))
        mean_, components_, variance_, scale_ = arrays
        if (
            mean_.ndim != 1
            or components_.ndim != 2
            or components_.shape[1] != len(mean_)
            or variance_.shape != (len(components_),)
            or scale_.shape != (len(components_),)
        ):
            raise MicrodlError(
                "The stored whitening is damaged: mean, components, explained variance and scale "
                f"have the shapes {', '.join(str(a.shape) for a in arrays)}, which do not belong "
                "together; load another file."
            )
        if not all(np.isfinite(a).all() for a in arrays):
            raise MicrodlError(
                "The stored whitening is damaged: it holds NaN or infinity; load another file."
            )
        if (scale_ < 0).any() or (variance_ < 0).any():
            raise MicrodlError(
                "The stored whitening is damaged: a scale or a variance is below 0; "
                "load another file."
            )
        whitening = cls(
            n_components=len(components_),
            shrinkage=shrinkage,
            eigenvalue_floor=eigenvalue_floor,
            unit_norm=unit_norm,
        )
        whitening.mean_ = mean_
        whitening.n_features_in_ = len(mean_)
        whitening.n_samples_seen_ = int(n_samples_seen)
        whitening._moments = None
        whitening._spectrum = (components_, variance_, scale_)
        return whitening

    @property
    def components_(self) -> NDArray[np.float64]:
        """Principal directions of the controls in rows, strongest first."""
        return self._solved()[0]

    @property
    def explained_variance_(self) -> NDArray[np.float64]:
        """Variance of the controls along each direction."""
        return self._solved()[1]

    @property
    def scale_(self) -> NDArray[np.float64]:
        """Factor applied to each direction."""
        return self._solved()[2]

    def fit(self, X: ArrayLike, y: None = None) -> Self:
        """Learn the whitening from control samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Control samples, at least two.
        y : None
            Not used; present for scikit-learn.

        Returns
        -------
        ControlWhitening
            Itself.

        Raises
        ------
        MicrodlError
            If there are fewer than two samples, all are the same, or one is not finite.

        Warns
        -----
        FewControlsWarning
            If there are not more samples than features.
        """
        self._check_parameters()
        x = self._new_samples(X)
        moments = MomentSums(x.shape[1])
        moments.add(x)
        spectrum = self._solve(moments, 0.0)
        validate_data(self, X, reset=True, skip_check_array=True)
        self._take(moments)
        self._nuisance = 0.0
        self._spectrum = spectrum
        return self

    def partial_fit(self, X: ArrayLike, y: None = None) -> Self:
        """Add a batch of control samples.

        Any split of the controls into batches gives the result of one `fit` within rounding.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Control samples, at least one.
        y : None
            Not used; present for scikit-learn.

        Returns
        -------
        ControlWhitening
            Itself.

        Raises
        ------
        MicrodlError
            If a sample is not finite or the whitening came from stored arrays. What was
            accumulated before stays.
        """
        self._check_parameters()
        first = not hasattr(self, "n_samples_seen_")
        if first:
            x = self._new_samples(X)
            moments = MomentSums(x.shape[1])
        else:
            known = self._moments_to("add controls")
            x = self._known_samples(X)
            # A copy, as adding may be cancelled half way.
            moments = copy.deepcopy(known)
        moments.add(x)
        if first:
            validate_data(self, X, reset=True, skip_check_array=True)
        self._take(moments)
        return self

    def add_nuisance(self, covariance: ArrayLike) -> Self:
        """Add a covariance to that of the controls, of what is to count less beside it.

        For instance that of the fields' backgrounds: what sets fields apart where no cell is, as
        focus and haze do, is no property of cells. Not in the paper.

        Parameters
        ----------
        covariance : array-like of shape (n_features, n_features)
            Symmetric. It stays added when `partial_fit` adds controls, and goes with a new `fit`.

        Returns
        -------
        ControlWhitening
            Itself.

        Raises
        ------
        MicrodlError
            If the shape is another one, a value is not finite, or the whitening came from stored
            arrays.
        """
        check_is_fitted(self)
        extra = np.asarray(covariance, np.float64)
        self._moments_to("add a nuisance")
        if extra.shape != 2 * (len(self.mean_),):
            raise MicrodlError(
                f"The covariance of a nuisance has the shape {extra.shape}, but samples have "
                f"{len(self.mean_)} features."
            )
        require_finite(extra)
        self._nuisance = self._nuisance + extra
        self._spectrum = None
        return self

    def transform(self, X: ArrayLike) -> NDArray[Any]:
        """Whiten samples.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, controls or not.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            Whitened samples; float64 for float64 input, otherwise float32.

        Raises
        ------
        MicrodlError
            If a sample is not finite.
        """
        whitened = self.project(X)
        if self.unit_norm:
            for start in range(0, len(whitened), _CHUNK_ROWS):
                rows = slice(start, start + _CHUNK_ROWS)
                norm = np.linalg.norm(whitened[rows], axis=1, keepdims=True)
                norm[norm == 0] = 1
                whitened[rows] /= norm
        return whitened

    def project(self, X: ArrayLike) -> NDArray[Any]:
        """Whiten samples and leave them as long as they are, whatever `unit_norm` says.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Samples, controls or not.

        Returns
        -------
        ndarray of shape (n_samples, n_components)
            An affine map of the samples; float64 for float64 input, otherwise float32.

        Raises
        ------
        MicrodlError
            If a sample is not finite.
        """
        check_is_fitted(self)
        x = self._known_samples(X)
        components, _, scale = self._solved()
        projection = (components * scale[:, None]).T.astype(x.dtype)
        whitened = np.empty((len(x), projection.shape[1]), dtype=x.dtype)
        for start in range(0, len(x), _CHUNK_ROWS):
            rows = slice(start, start + _CHUNK_ROWS)
            # Centred in float64: the mean may be large beside the differences that matter.
            centred = (x[rows] - self.mean_).astype(x.dtype, copy=False)
            np.matmul(centred, projection, out=whitened[rows])
        return whitened

    def inverse_transform(self, X: ArrayLike) -> NDArray[Any]:
        """Bring whitened vectors back to the space of the samples.

        Undoes the rotation, the scaling and the centring. The length that `unit_norm` took away is
        not stored: with ``unit_norm=True`` the result lies on the line from the controls' mean
        through the original sample, at the place where its whitened vector has unit length. With
        fewer components than features, what the dropped directions held is gone as well.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Whitened vectors, for example atoms of a dictionary.

        Returns
        -------
        ndarray of shape (n_samples, n_features_in_)
            Vectors among the original samples; float64 for float64 input, otherwise float32.

        Raises
        ------
        MicrodlError
            If the width is not the number of components.
        """
        check_is_fitted(self)
        z = np.asarray(X)
        z = z if z.dtype == np.float64 else z.astype(np.float32)
        components, _, scale = self._solved()
        if z.ndim != 2 or z.shape[1] != len(components):
            raise MicrodlError(
                f"Whitened vectors have the shape (n_samples, {len(components)}), but these have "
                f"{z.shape}: pass what transform returned."
            )
        require_finite(z)
        # A direction that was dropped for want of spread has the scale 0 and comes back as 0.
        spread = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
        back = (z * spread) @ components + self.mean_
        return np.asarray(back, dtype=z.dtype)

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_samples_seen_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    def _check_parameters(self) -> None:
        if self.n_components is not None and self.n_components < 1:
            raise MicrodlError(
                f"n_components is {self.n_components} but must be at least 1, or None for all."
            )
        if not np.isfinite(self.shrinkage) or self.shrinkage < 0:
            raise MicrodlError(f"shrinkage is {self.shrinkage} but must be 0 or more.")
        if not 0 <= self.eigenvalue_floor < 1:
            raise MicrodlError(
                f"eigenvalue_floor is {self.eigenvalue_floor} but must lie in [0, 1)."
            )

    def _new_samples(self, X: ArrayLike) -> NDArray[Any]:
        # Nothing is stored yet: a refused fit leaves the estimator as it was.
        x: NDArray[Any] = check_array(
            X, dtype=[np.float32, np.float64], ensure_all_finite=False, estimator=self
        )
        require_finite(x)
        if self.n_components is not None and self.n_components > x.shape[1]:
            raise MicrodlError(
                f"n_components is {self.n_components} but samples have only {x.shape[1]} "
                "features: ask for fewer components."
            )
        return x

    def _known_samples(self, X: ArrayLike) -> NDArray[Any]:
        x: NDArray[Any] = validate_data(
            self, X, reset=False, dtype=[np.float32, np.float64], ensure_all_finite=False
        )
        require_finite(x)
        return x

    def _moments_to(self, do: str) -> MomentSums:
        if self._moments is None:
            raise MicrodlError(
                "This whitening was rebuilt from stored arrays, which do not hold what is needed "
                f"to {do}: fit a new one instead."
            )
        return self._moments

    def _take(self, moments: MomentSums) -> None:
        self._moments = moments
        self.mean_ = moments.mean
        self.n_samples_seen_ = moments.count
        self._spectrum = None

    def _solved(self) -> _Spectrum:
        if not hasattr(self, "n_samples_seen_"):
            raise AttributeError("ControlWhitening is not fitted: call fit with control samples.")
        if self._spectrum is None:
            assert self._moments is not None
            self._spectrum = self._solve(self._moments, self._nuisance)
        return self._spectrum

    def _solve(self, moments: MomentSums, nuisance: NDArray[np.float64] | float) -> _Spectrum:
        seen, width = moments.count, len(moments.mean)
        if seen < 2:
            raise MicrodlError(
                f"Whitening needs at least 2 control samples but got n_samples = {seen}: "
                "add more controls."
            )
        variance, vectors = eigh(moments.scatter / (seen - 1) + nuisance)
        variance = np.maximum(variance[::-1], 0)
        components = vectors.T[::-1]
        largest = float(variance[0])
        # Below this, eigenvalues are rounding; centred samples span one direction less than there
        # are samples.
        noise = 10 * width * np.finfo(np.float64).eps * largest
        present = variance[: seen - 1]
        present = present[present > noise]
        if not len(present):
            raise MicrodlError(
                f"All {seen} control samples are the same, so there is no spread to whiten by: "
                "choose other controls."
            )
        if seen <= width:
            current_task().note(
                f"There are {seen} control samples for {width} dimensions, so "
                f"{width - len(present)} directions were not measured and are scaled by the "
                "shrinkage alone; use more controls, or crops or tokens instead of cells.",
                FewControlsWarning,
            )
        median = float(np.median(present))
        floored = np.maximum(variance + self.shrinkage * median, self.eigenvalue_floor * median)
        # Without shrinkage and floor, a direction without spread is dropped, not blown up.
        scale = np.zeros(width)
        scale[floored > noise] = 1 / np.sqrt(floored[floored > noise])
        # A fixed sign, so that equal data give equal files whatever LAPACK is used.
        signs = np.sign(components[np.arange(width), np.abs(components).argmax(axis=1)])
        n = width if self.n_components is None else self.n_components
        return (
            (components * signs[:, None])[:n].copy(),
            variance[:n].copy(),
            scale[:n].copy(),
        )
