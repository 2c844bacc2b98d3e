"""Heat of a concept on the patches of a field, and what is usual for it in controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from napari_microdl.concepts.concept_set import Concept, direction_of
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.arrays import unit_length
from napari_microdl.core.task import current_task
from napari_microdl.tokens import TokenGrid
from napari_microdl.tokens.spread import Spread, measure_spread, token_shares, unit_shares
from napari_microdl.tokens.units import Units

# Single tokens are noisy where spreads are taken; a Gaussian of so many patches is laid over them.
SMOOTHING = 0.75
# Share of control patches at either end that count as unusual.
UNUSUAL = 0.01
# What is shown of heat that is compared with controls: from there on, and where colours end.
SHOWN_FROM = 1.0
SHOWN_TO = 3.0
_REFERENCE_PATCHES = 20_000
_REFERENCE_FIELDS = 12


@dataclass(frozen=True)
class UsualHeat:
    """Heat of a concept on the patches of controls.

    Parameters
    ----------
    low, middle, high : float
        Its first percentile, its median and its 99th percentile.
    """

    low: float
    middle: float
    high: float

    def compare(self, heat: NDArray[np.float32]) -> NDArray[np.float32]:
        """Heat in units of what is unusual in controls.

        Parameters
        ----------
        heat : ndarray
            As `HeatMaps.of_field` gives it.

        Returns
        -------
        ndarray
            0 is the median of control patches; one control patch in a hundred is above 1, and one
            below -1.
        """
        centred = heat - np.float32(self.middle)
        above, below = self.high - self.middle, self.middle - self.low
        tiny = float(np.finfo(np.float32).tiny)
        compared: NDArray[np.float32] = np.where(
            centred >= 0, centred / max(above, tiny), centred / max(below, tiny)
        ).astype(np.float32)
        return compared


class HeatMaps:
    """Heat of the concepts of a dictionary on fields; what was last looked at is kept.

    Of samples that are means, the heat of a patch is the cosine of its whitened token with the
    concept (paper, section 4: token heatmap). Of samples that are spreads it is what the token adds
    to the concept in the units on it: their mean over a unit, weighted by what it covers, is the
    product of the unit's whitened vector, before it is brought to unit length, with the concept.

    Parameters
    ----------
    dictionary : ConceptDictionary
        The concepts.
    grids : list of TokenGrid
        Tokens of every field, position component removed.
    geometry : list of Units
        Units of every field.
    controls : list of int
        Numbers of the control fields; all fields serve where there are none.
    plates : mapping of int to str, optional
        Plate of every field that has units, by its number; matters where plates have references of
        their own.
    """

    def __init__(
        self,
        dictionary: ConceptDictionary,
        grids: list[TokenGrid],
        geometry: list[Units],
        controls: list[int],
        plates: Mapping[int, str] | None = None,
    ) -> None:
        self._dictionary = dictionary
        self._grids = grids
        self._geometry = geometry
        self._controls = controls or list(range(len(grids)))
        self._plates = plates or {}
        # Only the field on display is asked for, again and again, one concept after the other.
        self._whitened: tuple[int, NDArray[np.float32]] | None = None
        self._spreads: dict[int, Spread] = {}
        self._reference: NDArray[np.float32] | None = None
        self._usual: dict[Concept, UsualHeat] = {}

    @property
    def by_spread(self) -> bool:
        """Whether samples are spreads."""
        return self._dictionary.spec.units.pooling == "spread"

    def of_field(self, field: int, concept: Concept) -> NDArray[np.float32]:
        """Heat of one concept on every patch of one field.

        Parameters
        ----------
        field : int
            Number of the field.
        concept : int or ConceptSet
            Which concept.

        Returns
        -------
        ndarray of shape (grid_h, grid_w)
            Of means cosines, -1 to 1; of spreads any number, smoothed by a Gaussian of 0.75
            patches.
        """
        return self._smooth(self._products(field, concept))

    def usual(self, concept: Concept) -> UsualHeat:
        """Heat of one concept on patches of controls, of 20,000 drawn ones of at most 12 fields."""
        if concept not in self._usual:
            if self._reference is None:
                self._reference = self._draw_reference()
            heat = self._reference @ direction_of(concept, self.directions)
            low, middle, high = np.quantile(heat, (UNUSUAL, 0.5, 1 - UNUSUAL)).tolist()
            self._usual[concept] = UsualHeat(low, middle, high)
        return self._usual[concept]

    def compared(self, field: int, concept: Concept) -> NDArray[np.float32]:
        """Heat of one concept on one field beside what is usual in controls.

        Parameters
        ----------
        field : int
            Number of the field.
        concept : int or ConceptSet
            Which concept.

        Returns
        -------
        ndarray of shape (grid_h, grid_w)
            See `UsualHeat.compare`.
        """
        return self.usual(concept).compare(self.of_field(field, concept))

    @property
    def directions(self) -> NDArray[np.float32]:
        """Directions of the concepts at unit length, shape (n_concepts, k)."""
        return self._dictionary.directions

    def whitened(self, field: int) -> NDArray[np.float32]:
        """What a concept's direction is multiplied with, to give its heat before it is smoothed.

        Parameters
        ----------
        field : int
            Number of the field.

        Returns
        -------
        ndarray of shape (grid_h * grid_w, k)
        """
        return np.concatenate(self._whiten(field))

    def patch_area(self, field: int) -> int:
        """Pixels of a patch of one field."""
        return int(self._grids[field].patch_size ** 2)

    def around_unit(
        self, field: int, unit: int, rows: slice, columns: slice, concept: Concept
    ) -> NDArray[np.float32]:
        """What each patch adds to one unit.

        Parameters
        ----------
        field : int
            Number of the field.
        unit : int
            Place of the unit among those of the field.
        rows, columns : slice
            Patches; those that the unit does not touch mean nothing.
        concept : int or ConceptSet
            Which concept.

        Returns
        -------
        ndarray
            Not smoothed, and of means not brought to unit length: their mean over the unit,
            weighted by what it covers, is the product of its whitened vector, before that is
            brought to unit length, with the concept.
        """
        grid = self._grids[field]
        tokens = grid.tokens[rows, columns]
        shape, direction = tokens.shape[:2], direction_of(concept, self.directions)
        flat = np.asarray(tokens.reshape(-1, tokens.shape[-1]))
        if self.by_spread:
            position = grid.position[rows, columns].ravel()
            flat = unit_shares(flat, position, self._spread(field), unit)
        found = self._project(flat, field) @ direction
        return np.asarray(found.reshape(shape), np.float32)

    def _smooth(self, heat: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self.by_spread:
            return heat
        smooth: NDArray[np.float32] = ndimage.gaussian_filter(heat, SMOOTHING, mode="nearest")
        return smooth

    def _products(self, field: int, concept: Concept) -> NDArray[np.float32]:
        grid, direction = self._grids[field], direction_of(concept, self.directions)
        shape = grid.tokens.shape[:2]
        if not grid.in_memory:
            # Too many to be kept whitened.
            parts = [part @ direction for part in self._whiten(field)]
            return np.concatenate(parts).reshape(shape)
        last = self._whitened
        if last is None or last[0] != field:
            (whitened,) = self._whiten(field)
            self._whitened = last = field, whitened
        # In one thread, as quick here: threads of `@` wait for each other where others work too.
        heat: NDArray[np.float32] = np.einsum("ij,j->i", last[1], direction).reshape(shape)
        return heat

    def _whiten(self, field: int) -> list[NDArray[np.float32]]:
        """Tokens of a field in the space of the directions, band by band."""
        grid = self._grids[field]
        d = grid.tokens.shape[-1]
        if self.by_spread:
            shares = token_shares(grid, self._geometry[field], self._spread(field))
            return [self._project(part.reshape(-1, d), field) for _, part in shares]
        return [
            unit_length(self._dictionary.whiten(band.reshape(-1, d), self._plates.get(field, "")))
            for _, band in grid.bands()
        ]

    def _project(self, shares: NDArray[np.float32], field: int) -> NDArray[np.float32]:
        whitening = self._dictionary.whitening
        shares = self._dictionary.align(shares, self._plates.get(field, ""))
        return shares if whitening is None else np.asarray(whitening.project(shares), np.float32)

    def _spread(self, field: int) -> Spread:
        if field not in self._spreads:
            position = self._dictionary.position
            scales = None if position is None else position.scales
            self._spreads[field] = measure_spread(self._grids[field], self._geometry[field], scales)
        return self._spreads[field]

    def _draw_reference(self) -> NDArray[np.float32]:
        """Patches of controls as `_whiten` gives them, smoothed as heat is."""
        random = np.random.default_rng(0)
        step = max(1, -(-len(self._controls) // _REFERENCE_FIELDS))
        fields = self._controls[::step]
        some = max(1, _REFERENCE_PATCHES // len(fields))
        parts = []
        for field in fields:
            current_task().check()
            tokens = self.whitened(field)
            if self.by_spread:
                # Smoothing and the product with a direction may change places.
                grid_h, grid_w = self._grids[field].tokens.shape[:2]
                sigma = (SMOOTHING, SMOOTHING, 0)
                tokens = tokens.reshape(grid_h, grid_w, -1)
                tokens = ndimage.gaussian_filter(tokens, sigma, mode="nearest")
                tokens = tokens.reshape(grid_h * grid_w, -1)
            drawn = random.choice(len(tokens), min(some, len(tokens)), replace=False)
            parts.append(tokens[np.sort(drawn)])
        return np.concatenate(parts)
