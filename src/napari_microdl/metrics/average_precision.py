"""Mean average precision of treatments against controls, by copairs."""

from __future__ import annotations

from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError

NULL_SIZE = 10_000


def mean_average_precision(
    profiles: NDArray[np.float64],
    labels: NDArray[np.str_],
    control: NDArray[np.bool_],
    plates: NDArray[np.str_],
    *,
    random_state: int = 0,
) -> pd.DataFrame:
    """How well wells of a treatment find each other among the controls of their plate.

    Parameters
    ----------
    profiles : ndarray of shape (n_wells, n_features)
        Profiles of wells.
    labels : ndarray of str, shape (n_wells,)
        Their treatments.
    control : ndarray of bool, shape (n_wells,)
        Which are controls.
    plates : ndarray of str, shape (n_wells,)
        Plate of each.
    random_state : int, default=0
        Of the null.

    Returns
    -------
    DataFrame indexed by label
        ``map``, ``map_p`` against 10,000 random rankings, and ``map_q`` after Benjamini and
        Hochberg; treatments of two wells or more.

    Raises
    ------
    MicrodlError
        If copairs is not installed, or no treatment has two wells beside controls.

    Notes
    -----
    Kalinin et al. (2025): cosine similarity; other wells of the treatment, on any plate, are to
    come before controls of the same plate.
    """
    try:
        from copairs import map as copairs
        from copairs.matching import UnpairedException
    except ImportError as error:
        raise MicrodlError(
            "it takes the package copairs: pip install 'napari-microdl[plate]'."
        ) from error
    # A well at the median of its plate in everything has no direction to be compared by.
    known = (profiles != 0).any(axis=1)
    profiles, labels, control, plates = (a[known] for a in (profiles, labels, control, plates))
    # A name of its own each, so that no controls are to find each other.
    names = [f"control {number}" for number in range(len(control))]
    label = np.where(control, names, np.char.add("treated ", labels))
    meta = pd.DataFrame({"label": label, "plate": plates, "control": control})
    try:
        found = copairs.average_precision(
            meta, profiles, ["label"], [], ["plate"], ["control"], progress_bar=False
        )
    except UnpairedException as error:
        raise MicrodlError(
            "no treatment has two wells that could be told from controls of their plate."
        ) from error
    treated = found[~found["control"]]
    # It keeps nulls in the home of the user, and what is there decides what comes out.
    with TemporaryDirectory() as cache:
        scores = copairs.mean_average_precision(
            treated, ["label"], NULL_SIZE, 0.05, random_state,
            progress_bar=False, max_workers=1, cache_dir=cache,
        )  # fmt: skip
    index = pd.Index(scores["label"].str.removeprefix("treated "), name="label")
    columns = {
        "mean_average_precision": "map",
        "p_value": "map_p",
        "corrected_p_value": "map_q",
    }
    return scores[list(columns)].rename(columns=columns).set_index(index)
