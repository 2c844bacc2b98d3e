"""Several plates brought together by their own controls, before one whitening of all."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.arrays import eigh
from napari_microdl.core.config import PlateKind
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.estimators.whitening import MomentSums

# Controls that a plate's own scale takes, and its own covariance, in each dimension.
LEAST_TO_SCALE = 30
LEAST_A_DIMENSION = 10
# What both covariances are shrunk by, in units of the median eigenvalue of all plates.
_SHRINKAGE = 0.1
_ROWS_AT_ONCE = 8192


@dataclass(frozen=True, eq=False)
class PlateReferences:
    """What brings the samples of each plate to those of all: an affine map a plate.

    Parameters
    ----------
    kind : {"centre", "scale", "whiten"}
        How they were brought together, see `WhiteningConfig`.
    means : dict of str to ndarray of shape (d,)
        Mean of the controls of each plate, float64.
    maps : dict of str to ndarray of shape (d,) or (d, d)
        Factors, or the matrix, applied to what is left once the mean is taken off, float32; none
        where the mean is all.
    common : ndarray of shape (d,) or (d, d), optional
        Variances, or the covariance, of the controls of all plates about their own means, to which
        those of each are brought; of the plates that a dictionary was learned on.
    """

    kind: PlateKind
    means: Mapping[str, NDArray[np.float64]]
    maps: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    common: NDArray[np.float64] | None = None

    @property
    def digest(self) -> str:
        """Changes with any number."""
        digest = hashlib.sha256(self.kind.encode())
        for name in sorted(self.means):
            digest.update(name.encode() + np.ascontiguousarray(self.means[name]).tobytes())
            if name in self.maps:
                digest.update(np.ascontiguousarray(self.maps[name]).tobytes())
        return digest.hexdigest()[:16]

    def align(self, vectors: NDArray[np.float32], plate: str) -> NDArray[np.float32]:
        """Samples of one plate beside those of all.

        Parameters
        ----------
        vectors : ndarray of shape (n, d)
            Samples.
        plate : str
            Their plate.

        Returns
        -------
        ndarray of shape (n, d)
            The origin is the mean of the plate's controls; float32.

        Raises
        ------
        MicrodlError
            If nothing is known of the plate.
        """
        if plate not in self.means:
            known = ", ".join(f"'{name}'" for name in sorted(self.means))
            raise MicrodlError(
                f"Nothing is known of the controls of plate '{plate}', by which its samples are "
                f"to be placed; known are {known}. Give control fields of it."
            )
        aligned = np.empty(vectors.shape, np.float32)
        how = self.maps.get(plate)
        for start in range(0, len(vectors), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            # Centred in float64: the mean may be large beside the differences that matter.
            centred = vectors[rows] - self.means[plate]
            if how is not None:
                centred = centred * how if how.ndim == 1 else centred @ how.T
            aligned[rows] = centred
        return aligned

    def applied_to(self, moments: Mapping[str, MomentSums]) -> PlateReferences:
        """References of the plates that a dictionary is applied to.

        Parameters
        ----------
        moments : mapping of str to MomentSums
            Of the controls of every plate; of one that has none, the plate of its name here is
            taken, which is noted.

        Returns
        -------
        PlateReferences
            Of these plates alone.

        Raises
        ------
        MicrodlError
            If a plate has no controls and is not known here.
        """
        others = [plate for plate, sums in moments.items() if not sums.count]
        require_controls([plate for plate in others if plate not in self.means], applied=True)
        if others:
            current_task().note(
                f"{_listed(others)} no control here: {_its(others)} samples are placed by the "
                "controls of the plate of that name that the dictionary was learned on."
            )
        means = {plate: self.means[plate] for plate in others}
        maps = {plate: self.maps[plate] for plate in others if plate in self.maps}
        measured = {plate: sums for plate, sums in moments.items() if sums.count}
        if again := sorted(measured.keys() & self.means.keys()):
            current_task().note(
                f"{_listed(again)} controls here, and the dictionary was learned on a plate of "
                f"that name: {_its(again)} samples are placed by the controls here."
            )
        if measured:
            found = fit_references(measured, self.kind, self.common)
            assert found is not None
            means, maps = {**means, **found.means}, {**maps, **found.maps}
        return PlateReferences(self.kind, means, maps, self.common)

    def align_rows(
        self, vectors: NDArray[np.float32], plates: NDArray[np.str_]
    ) -> NDArray[np.float32]:
        """Samples of several plates beside each other; `plates` names that of each."""
        aligned = np.empty(vectors.shape, np.float32)
        for plate in np.unique(plates).tolist():
            rows = np.flatnonzero(plates == plate)
            aligned[rows] = self.align(vectors[rows], plate)
        return aligned


def kind_for(
    asked: PlateKind | None, plates: Sequence[str], is_control: Sequence[bool]
) -> PlateKind:
    """How plates are brought together, where it is not asked for by what controls there are.

    Parameters
    ----------
    asked : {"together", "centre", "scale", "whiten"} or None
        What was asked for.
    plates : sequence of str
        Plate of every field; those without a name are one plate.
    is_control : sequence of bool
        Whether each is a control.

    Returns
    -------
    {"together", "centre", "scale", "whiten"}
        Not asked for: "centre" where there are several plates and all have controls.

    Raises
    ------
    MicrodlError
        If a plate's own reference is asked for and one has no control.
    """
    if asked == "together":
        return asked
    controls = {plate for plate, is_one in zip(plates, is_control, strict=True) if is_one}
    without = sorted(set(plates) - controls)
    if asked is not None:
        require_controls(without)
        return asked
    if len(set(plates)) < 2:
        return "together"
    if without:
        current_task().note(
            f"{_listed(without)} no control of {_its(without)} own to be placed by, so plates are "
            "taken as they are."
        )
        return "together"
    return "centre"


def require_controls(without: Sequence[str], *, applied: bool = False) -> None:
    """Refuse plates that have nothing to be placed by."""
    if without:
        how = "set" if not applied else "apply a dictionary that was learned with"
        raise MicrodlError(
            f"{_listed(without)} no control of {_its(without)} own, which places the samples of a "
            f"plate; mark controls there, leave the plate out, or {how} whitening.plates "
            f"{'to ' if not applied else ''}'together'."
        )


def fit_references(
    moments: Mapping[str, MomentSums],
    kind: PlateKind,
    common: NDArray[np.float64] | None = None,
) -> PlateReferences | None:
    """References of plates from sums over their controls.

    Parameters
    ----------
    moments : mapping of str to MomentSums
        Of the controls of every plate.
    kind : {"together", "centre", "scale", "whiten"}
        How plates are brought together.
    common : ndarray, optional
        That of the plates that a dictionary was learned on, where it is applied to others.

    Returns
    -------
    PlateReferences or None
        None of plates that are taken as they are.

    Raises
    ------
    MicrodlError
        If a plate has no controls.

    Notes
    -----
    "whiten" is the alignment of covariances by Sun, Feng and Saenko (2016): each plate is whitened
    by the covariance of its controls and coloured by that of the controls of all plates, each about
    its own mean. The whitening that follows then makes the identity of every one of them, and axes
    keep their meaning from plate to plate.
    """
    if kind == "together":
        return None
    require_controls([plate for plate, sums in moments.items() if not sums.count])
    means = {plate: sums.mean for plate, sums in moments.items()}
    width = len(next(iter(means.values())))
    least = {"centre": 0, "scale": LEAST_TO_SCALE, "whiten": LEAST_A_DIMENSION * width}[kind]
    few = [plate for plate, sums in moments.items() if sums.count < least]
    if few:
        what = "scale" if kind == "scale" else "covariance"
        counts = ", ".join(str(moments[plate].count) for plate in few)
        current_task().note(
            f"{_listed(few)} too few controls for a {what} of {_its(few)} own ({counts}; {least:,} "
            f"are enough): {_its(few)} samples are placed by their mean alone."
        )
    if kind == "centre":
        return PlateReferences(kind, means)
    if common is None:
        freedom = sum(sums.count - 1 for sums in moments.values())
        scatter = sum((sums.scatter for sums in moments.values()), np.zeros((width, width)))
        covariance = scatter / max(freedom, 1)
        common = np.diag(covariance).copy() if kind == "scale" else covariance
    maps = {}
    for plate, sums in moments.items():
        if plate in few:
            continue
        own = sums.scatter / (sums.count - 1)
        if kind == "scale":
            here = np.diag(own)
            varies = here > 1e-9 * np.maximum(common, np.finfo(float).tiny)
            how = np.sqrt(np.divide(common, here, out=np.ones(width), where=varies))
        else:
            added = _SHRINKAGE * float(np.median(np.maximum(eigh(common)[0], 0)))
            how = _power(common, 0.5, added) @ _power(own, -0.5, added)
        maps[plate] = how.astype(np.float32)
    return PlateReferences(kind, means, maps, common)


def moments_of(
    vectors: NDArray[np.float32], plates: NDArray[np.str_], is_control: NDArray[np.bool_]
) -> dict[str, MomentSums]:
    """Sums over the controls of every plate, from samples at hand.

    Parameters
    ----------
    vectors : ndarray of shape (n, d)
        Samples, controls among them.
    plates : ndarray of str, shape (n,)
        Their plates.
    is_control : ndarray of bool, shape (n,)
        Which are controls.

    Returns
    -------
    dict of str to MomentSums
        Of every plate, those without controls as well.
    """
    moments = {}
    for plate in np.unique(plates).tolist():
        moments[plate] = MomentSums(vectors.shape[1])
        moments[plate].add(vectors[is_control & (plates == plate)])
    return moments


def _power(covariance: NDArray[np.float64], power: float, added: float) -> NDArray[np.float64]:
    values, directions = eigh(covariance)
    raised: NDArray[np.float64] = (
        directions * (np.maximum(values, 0) + added) ** power
    ) @ directions.T
    return raised


def _listed(plates: Sequence[str]) -> str:
    names = [f"'{name}'" if name else "without a name" for name in plates]
    if len(names) == 1:
        return f"The plate {names[0]} has"
    return f"The plates {', '.join(names[:-1])} and {names[-1]} have"


def _its(plates: Sequence[str]) -> str:
    return "its" if len(plates) == 1 else "their"
