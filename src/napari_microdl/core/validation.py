"""Checks that several estimators make of their samples."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError

# Rows looked at at a time, so that memory does not grow with the number of samples.
_CHUNK_ROWS = 8192


def require_finite(x: NDArray[Any]) -> None:
    """Refuse samples that hold NaN or infinity.

    Parameters
    ----------
    x : ndarray of shape (n_samples, n_features)
        Samples.

    Raises
    ------
    MicrodlError
        If any value is NaN or infinite.
    """
    bad = 0
    first = -1
    for start in range(0, len(x), _CHUNK_ROWS):
        wrong = np.flatnonzero(~np.isfinite(x[start : start + _CHUNK_ROWS]).all(axis=1))
        if len(wrong) and first < 0:
            first = start + int(wrong[0])
        bad += len(wrong)
    if bad:
        raise MicrodlError(
            f"{bad} of {len(x)} samples hold NaN or inf (infinity), the first of them row {first}: "
            "remove or repair these samples first."
        )
