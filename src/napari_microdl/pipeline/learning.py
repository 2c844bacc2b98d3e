"""The dictionary, learned from whitened samples."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.core.config import PipelineConfig
from napari_microdl.core.noting import steps_noted
from napari_microdl.core.progress import Progress
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.fields.field import Field
from napari_microdl.pipeline.inputs import spec_of
from napari_microdl.pipeline.reading import Tokens
from napari_microdl.pipeline.stages import Samples
from napari_microdl.pipeline.whitening import Whitened


@dataclass(frozen=True, eq=False)
class Learned:
    """A dictionary that was learned.

    Parameters
    ----------
    dictionary : ConceptDictionary
        With all that is needed to apply it, but not yet where it came from.
    notes : tuple of str
        What a user should know.
    """

    dictionary: ConceptDictionary
    notes: tuple[str, ...]


def iter_learn(
    fields: Sequence[Field],
    config: PipelineConfig,
    tokens: Tokens,
    samples: Samples,
    whitened: Whitened,
) -> Generator[Progress, None, Learned]:
    """Learn a dictionary (paper, section 3.2).

    Parameters
    ----------
    fields : sequence of Field
        The fields.
    config : PipelineConfig
        Settings.
    tokens, samples, whitened
        What the stages before made of the fields.

    Yields
    ------
    Progress
        One a step, with its figures.

    Returns
    -------
    Learned
    """
    notes: list[str] = []
    icfl = ICFL(
        config.dictionary.n_atoms,
        config.dictionary.n_iterations,
        config.dictionary.atoms_per_iteration,
        update=config.dictionary.update,
        init=config.dictionary.init,
        learning_rate=config.dictionary.learning_rate,
        selection=config.dictionary.selection,
        refit=config.dictionary.refit,
        positive_code=config.dictionary.positive_code,
        control_atoms=config.dictionary.control_atoms,
        max_steps=config.dictionary.max_steps,
        early_stopping=config.dictionary.early_stopping,
        random_state=config.random_state,
    )
    controls = None if config.dictionary.control_atoms is None else samples.is_control(fields)
    records = icfl.fit_iter(whitened.vectors, controls=controls)
    for record in steps_noted(records, notes):
        message = f"Fitting the dictionary: R2 {record.r2:.3f}"
        yield Progress("fit", record.step, record.total_steps or record.step, message, record)
    if config.dictionary.n_atoms is None:
        notes.append(
            f"{len(whitened.vectors)} {config.units.kind}s: a dictionary of {icfl.n_atoms_} atoms with "
            f"at most {icfl.n_iterations_} x {icfl.atoms_per_iteration_} active was chosen."
        )
    spec = spec_of(config, tokens.model, tokens.plan, tokens.channels)
    return Learned(ConceptDictionary(spec, icfl, whitened.whitening, tokens.position), tuple(notes))
