"""The dictionary of a run fitted again with other seeds."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.noting import steps_noted
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.report.options import seen_units


def refitted(dictionary: ConceptDictionary, seed: int) -> ICFL:
    """A dictionary of the same settings, not fitted yet.

    Parameters
    ----------
    dictionary : ConceptDictionary
        Its fitted sizes are taken, and what else decides a fit from the settings in its provenance
        where it has them.
    seed : int
        Seed.

    Returns
    -------
    ICFL
    """
    old = dictionary.icfl
    stored = dictionary.provenance.get("config")
    config = None if stored is None else PipelineConfig.from_dict(stored)
    settings = old if config is None else config
    return ICFL(
        old.n_atoms_,
        old.n_iterations_,
        old.atoms_per_iteration_,
        update=old.update,
        selection=old.selection,
        refit=old.refit,
        allow_repeats=old.allow_repeats,
        positive_code=old.positive_code,
        init=settings.init,
        learning_rate=settings.learning_rate,
        control_atoms=settings.control_atoms,
        max_steps=settings.max_steps,
        early_stopping=settings.early_stopping,
        random_state=seed,
    )


def same_samples(dictionary: ConceptDictionary, activations: ConceptActivations) -> bool:
    """Whether a run is on the fields that the dictionary was fitted on, all of them and no others.

    Parameters
    ----------
    dictionary : ConceptDictionary
        Its provenance lists the fields.
    activations : ConceptActivations
        The run.

    Returns
    -------
    bool
        False where the dictionary does not tell its fields.
    """
    seen = seen_units(dictionary, activations.units)
    listed = dictionary.provenance.get("fields") or []
    with_units = sum(entry.get("units", 1) > 0 for entry in listed)
    return seen is not None and bool(seen.all()) and _n_fields(activations) == with_units


def iter_refits(
    activations: ConceptActivations, n_seeds: int, random_state: int
) -> Generator[tuple[float, str], None, list[NDArray[np.float32]]]:
    """Fit dictionaries of the same settings with further seeds.

    Parameters
    ----------
    activations : ConceptActivations
        Samples, and the dictionary whose settings are taken.
    n_seeds : int
        How many to fit.
    random_state : int
        Further seeds are drawn from it.

    Yields
    ------
    share, message : float and str
        Share of all fits that is done, 0 to 1; stop iterating to cancel.

    Returns
    -------
    list of ndarray of shape (n_atoms, n_features)
        Atoms.
    """
    dictionary = activations.dictionary
    control = activations.units["Metadata_control"].to_numpy(bool)
    atoms = []
    for number in range(n_seeds):
        seed = int(np.random.RandomState([random_state, number]).randint(2**31 - 1))
        icfl = refitted(dictionary, seed)
        marks = None if icfl.control_atoms is None else control
        records = icfl.fit_iter(activations.vectors, controls=marks)
        # That there are few samples was said of the run itself.
        for record in steps_noted(records, []):
            part = record.step / max(record.total_steps or record.step, 1)
            yield (
                (number + min(part, 1)) / n_seeds,
                f"Fitting with seed {number + 1} of {n_seeds}: R2 {record.r2:.3f}",
            )
        atoms.append(np.asarray(icfl.components_))
    return atoms


def _n_fields(activations: ConceptActivations) -> int:
    return int(activations.units["field"].nunique())
