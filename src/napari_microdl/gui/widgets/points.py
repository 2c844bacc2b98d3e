"""Going from point to point of a plot with the arrow keys."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from qtpy.QtCore import Qt

# Axis and direction of every key; the last two go to the ends.
_STEPS = {
    Qt.Key.Key_Left: (0, -1),
    Qt.Key.Key_Right: (0, 1),
    Qt.Key.Key_Down: (1, -1),
    Qt.Key.Key_Up: (1, 1),
}
_ENDS = {Qt.Key.Key_Home: 0, Qt.Key.Key_End: -1}


def point_by_key(places: NDArray[np.float64], current: int | None, key: int) -> int | None:
    """Point that a key leads to.

    Left and right lead to the next point along the first axis, down and up along the second; Home
    and End to the least and the greatest along the first. Every point is reached, also those that
    lie on one another.

    Parameters
    ----------
    places : ndarray of shape (n, 2)
        Places of the points; one that is not finite is not drawn, and passed over.
    current : int or None
        Point to start from; where it is not drawn, the key leads to an end.
    key : int
        Of `Qt.Key`.

    Returns
    -------
    int or None
        None for other keys, at an end, and where no point is drawn.
    """
    drawn = np.flatnonzero(np.isfinite(places).all(axis=1))
    if not len(drawn) or (key not in _STEPS and key not in _ENDS):
        return None
    axis, step = _STEPS.get(Qt.Key(key), (0, 0))
    # Of equal ones the other axis decides, and then the number: a point has one place in the row.
    order = drawn[np.lexsort((places[drawn, 1 - axis], places[drawn, axis]))]
    if key in _ENDS:
        return int(order[_ENDS[Qt.Key(key)]])
    place = np.flatnonzero(order == current)
    if not len(place):
        return int(order[0 if step > 0 else -1])
    new = int(place[0]) + step
    return int(order[new]) if 0 <= new < len(order) else None
