"""A few values that together tell one kind of cells from another, where one alone does not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from napari_microdl.metrics.probes import group_folds
from napari_microdl.metrics.selectivity import Labels, require_length, separation_auc

MOST_OF_A_SET = 5
# A set that tells so little better than a smaller one is not worth its further values.
_AS_GOOD = 0.005

_Choice = tuple[NDArray[np.int64], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class ValueSet:
    """Values that together tell samples of one kind from the others.

    Parameters
    ----------
    chosen : ndarray of int, shape (n_chosen,)
        Which values, the largest share first; empty where none is larger in these samples.
    weights : ndarray of shape (n_chosen,) or (n_chosen, n_parts)
        0 or above, and not all 0 of a value; the weighted sum of the values tells the samples.
    shares : ndarray of shape (n_chosen,)
        How much of the difference between the two kinds, in the weighted sum, is of each value;
        they sum to 1.
    auc : float
        Area under the ROC curve of such sets in groups that they were not chosen on.
    auc_first : float
        The same of the best value alone.
    n_folds : int
        In how many parts the groups were left out.
    """

    chosen: NDArray[np.int64]
    weights: NDArray[np.float64]
    shares: NDArray[np.float64]
    auc: float
    auc_first: float
    n_folds: int

    def told(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Weighted sum of the values of samples, as `choose_set` was given them.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_values) or (n_samples, n_values, n_parts)
            Of any samples.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return _told(values, self.chosen, self.weights)


def choose_set(
    values: NDArray[np.floating],
    positive: NDArray[np.bool_],
    groups: Labels,
    most: int = MOST_OF_A_SET,
    random_state: int = 0,
) -> ValueSet:
    """Choose a few values whose weighted sum tells samples of one kind from the others.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_values) or (n_samples, n_values, n_parts)
        For instance the cosines of samples with concepts, or for each concept its cosine and its
        code.
    positive : ndarray of bool, shape (n_samples,)
        Which samples are of the kind.
    groups : sequence of length n_samples
        Wells; what is left out as a whole to see how well a set does elsewhere.
    most : int, default=5
        Values at most.
    random_state : int, default=0
        Seed of the parts.

    Returns
    -------
    ValueSet

    Raises
    ------
    MicrodlError
        If lengths differ, or either kind is in fewer than two groups.

    Notes
    -----
    Ours. Forward selection: the value that correlates most with what is left, by one of its parts,
    is added with all of them, and all weights are solved for again by least squares that may not be
    negative (both kinds weigh the same). So every value of a set is larger in the kind, as a reader
    expects. How many are taken is the fewest with which the area is within 0.005 of the best in
    groups left out; that choice is part of what a null has to repeat.
    """
    positive = np.asarray(positive, bool)
    require_length(len(values), len(positive), "marks")
    fold = group_folds(positive, groups, random_state=random_state)
    parts = np.unique(fold)
    areas = np.full((len(parts), most), np.nan)
    for number, part in enumerate(parts):
        inside, outside = fold != part, fold == part
        path = _path(values[inside], positive[inside], most)
        for size in range(most):
            # Where no further value helps, the largest set stands for larger ones.
            chosen, weights = path[min(size, len(path) - 1)] if path else _NOTHING
            scores = _told(values[outside], chosen, weights)
            areas[number, size] = separation_auc(scores, positive[outside])
    means = np.nanmean(areas, axis=0)
    size = int(np.flatnonzero(means >= means.max() - _AS_GOOD)[0]) + 1
    path = _path(values, positive, size)
    chosen, weights = path[-1] if path else _NOTHING
    used = values[:, chosen]
    apart = weights * (used[positive].mean(0) - used[~positive].mean(0))
    apart = apart.sum(axis=tuple(range(1, apart.ndim)))
    order = np.argsort(-apart, kind="stable")
    shares = apart[order] / apart.sum() if len(apart) else apart
    return ValueSet(
        chosen[order], weights[order], shares, float(means[size - 1]), float(means[0]), len(parts)
    )


_NOTHING: _Choice = (np.empty(0, np.int64), np.empty(0))


def _told(
    values: NDArray[np.floating], chosen: NDArray[np.int64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    used = values[:, chosen].reshape(len(values), -1)
    return np.asarray(used @ weights.ravel(), np.float64)


def _path(values: NDArray[np.floating], positive: NDArray[np.bool_], most: int) -> list[_Choice]:
    """Chosen values and their weights, of sets of one value, of two, and so on."""
    # Takes a second to import.
    from scipy.optimize import nnls

    weight = np.where(positive, 1 / max(positive.sum(), 1), 1 / max((~positive).sum(), 1))
    weight = np.sqrt(weight / 2)
    # A column a part; those of a value lie side by side.
    shape = values.shape[1:]
    x = values.reshape(len(values), -1)
    mean = (np.square(weight) @ x)[None]
    scale = np.sqrt(np.square(weight) @ np.square(x - mean))
    scale[scale == 0] = np.inf
    x = (x - mean) / scale * weight[:, None]
    y = np.where(positive, 1.0, -1.0) * weight
    larger = x.T @ y > 0
    columns = np.arange(x.shape[1]).reshape(shape[0], -1)
    left, chosen, path = y, list[int](), list[_Choice]()
    for _ in range(most):
        gains = np.where(larger, x.T @ left, 0)[columns].max(axis=1)
        gains[chosen] = 0
        if gains.max() <= 1e-9:
            break
        chosen.append(int(gains.argmax()))
        # A part that is smaller in these samples marks nothing of theirs.
        taken = columns[chosen][larger[columns[chosen]]]
        found, _ = nnls(x[:, taken], y)
        left = y - x[:, taken] @ found
        weights = np.zeros(columns.size)
        weights[taken] = found / scale[taken]
        which = np.asarray(chosen)[(weights[columns[chosen]] > 0).any(axis=1)]
        path.append((which, weights[columns[which]].reshape(len(which), *shape[1:])))
    return path
