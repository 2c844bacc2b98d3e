"""Active samples counted by group, so that resampling groups never touches single samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from napari_microdl.core.errors import MicrodlError
from napari_microdl.metrics.selectivity import active

Labels = Sequence[str] | NDArray[np.generic]


@dataclass(frozen=True)
class GroupCounts:
    """Samples and active samples of every cell of group by label that is not empty.

    Parameters
    ----------
    hits : csr_array of shape (n_cells, n_concepts)
        Samples of the cell in which the concept is active.
    sizes : ndarray of shape (n_cells,)
        Samples of the cell.
    group, label : ndarray of shape (n_cells,)
        Numbers of the cell's group and label.
    names : ndarray of shape (n_labels,)
        Labels, sorted.
    n_groups : int
        Number of groups.
    """

    hits: sparse.csr_array
    sizes: NDArray[np.float64]
    group: NDArray[np.int64]
    label: NDArray[np.int64]
    names: NDArray[np.generic]
    n_groups: int


def count_groups(codes: sparse.csr_array, labels: Labels, groups: Labels | None) -> GroupCounts:
    """Count active samples by group and label.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_concepts)
        Codes.
    labels : sequence of length n_samples
        One label a sample.
    groups : sequence of length n_samples, optional
        One group a sample; every sample is its own group where not given.

    Returns
    -------
    GroupCounts

    Raises
    ------
    MicrodlError
        If the lengths differ.
    """
    n = codes.shape[0]
    groups = np.arange(n) if groups is None else np.asarray(groups)
    for what, given in (("labels", labels), ("groups", groups)):
        if len(given) != n:
            raise MicrodlError(f"There are {n} samples but {len(given)} {what}; give one a sample.")
    names, label = np.unique(np.asarray(labels), return_inverse=True)
    kinds, group = np.unique(groups, return_inverse=True)
    cells, cell = np.unique(group * max(len(names), 1) + label, return_inverse=True)
    members = sparse.csr_array((np.ones(n), (cell, np.arange(n))), shape=(len(cells), n))
    return GroupCounts(
        hits=sparse.csr_array(members @ active(codes)),
        sizes=np.bincount(cell, minlength=len(cells)).astype(np.float64),
        group=cells // max(len(names), 1),
        label=cells % max(len(names), 1),
        names=names,
        n_groups=len(kinds),
    )
