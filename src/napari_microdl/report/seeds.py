"""The dictionary of a run fitted again with other seeds."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import DictionaryConfig, PipelineConfig
from napari_microdl.core.task import current_task
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.estimators.icfl.starts import fit_steadiest
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
    settings = _settings_of_fit(dictionary) or old
    # Of these a file keeps nothing but in the settings.
    names = ("init", "learning_rate", "control_atoms", "max_steps", "early_stopping")
    icfl: ICFL = clone(old).set_params(
        n_atoms=old.n_atoms_,
        n_iterations=old.n_iterations_,
        atoms_per_iteration=old.atoms_per_iteration_,
        random_state=seed,
        **{name: getattr(settings, name) for name in names},
    )
    return icfl


def _settings_of_fit(dictionary: ConceptDictionary) -> DictionaryConfig | None:
    stored = dictionary.provenance.get("config")
    return None if stored is None else PipelineConfig.from_dict(stored).dictionary


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
    return (
        seen is not None and bool(seen.all()) and activations.units["field"].nunique() == with_units
    )


def refits(
    activations: ConceptActivations, n_seeds: int, random_state: int
) -> list[NDArray[np.float32]]:
    """Fit dictionaries of the same settings, of as many starts, with further seeds.

    Parameters
    ----------
    activations : ConceptActivations
        Samples, and the dictionary whose settings are taken.
    n_seeds : int
        How many to fit.
    random_state : int
        Further seeds are drawn from it.

    Returns
    -------
    list of ndarray of shape (n_atoms, n_features)
        Atoms.
    """
    dictionary, task = activations.dictionary, current_task()
    control = activations.units["Metadata_control"].to_numpy(bool)
    settings = _settings_of_fit(dictionary)
    atoms = []
    for number in range(n_seeds):
        # The third word keeps them apart from the starts of a run of that seed.
        seed = int(np.random.RandomState([random_state, number, 1]).randint(2**31 - 1))
        icfl = refitted(dictionary, seed)
        # That there are few samples was said of the run itself.
        with task.step(number, n_seeds, None), task.taking_notes():
            icfl = fit_steadiest(
                icfl,
                activations.vectors,
                seed,
                1 if settings is None else settings.n_starts,
                controls=None if icfl.control_atoms is None else control,
                message=f"Fitting with seed {number + 1} of {n_seeds}",
            )
        atoms.append(np.asarray(icfl.components_))
    return atoms
