"""Rare concepts under strong shared nuisance: what whitening and control-first learning are worth.

``python benchmarks/nuisance.py`` plants concepts that treated samples alone show, rarely and far
weaker than what varies in all samples alike, and looks for them in two ways, at full and at half
amplitude:

1. whitening: the default dictionary of all samples after four preparations.
2. control-first: after control whitening, a dictionary whose first atoms were learned on controls
   and frozen, against plain dictionaries of the same size and sparsity. One of these begins with
   the planted concepts among its atoms: it tells whether a plain fit would keep what it is to find.

All figures are of held-out samples; the tables give the median and the range over seeds. A seed
draws directions, samples and the dictionary's start, so every row has the same samples. A concept
is found if an atom has a cosine above 0.9, in magnitude, with its direction after the preparation.

Selectivity is taken twice. "Of concepts" is the mean over planted concepts of the best atom's
average selectivity for the samples that show the concept against all others. "Of perturbations" is
the same for the samples of a perturbation, of which a part shows none of its concepts. An atom that
merges the concepts of a perturbation is shown by more of its samples than either concept: such a
dictionary is more selective for perturbations and less so for concepts. The atom is chosen on the
samples learned from; "any atom" is the largest for perturbations on the held-out samples
themselves, which chance alone lifts above zero. Accuracy is the balanced accuracy of the
perturbation, told from the codes.

The group "only in treated" are the atoms of the second stage; of a plain dictionary, as many atoms:
those that controls to learn from show least, relative to treated samples. Three figures tell what
the group is worth to who asks what treated cells show that controls never show: the share of its
atoms whose rate in held-out controls is below half of that in treated samples ("rarer in
controls"), the share within cosine 0.9 of the concepts of one perturbation or of a mixture of these
("are concepts"), and the accuracy from the codes of the group alone. Without labels of the
concepts, which of a plain dictionary's atoms to put into the group has to be judged by such rates;
a control-first dictionary knows it from its fit.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace
from time import process_time

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from napari_microdl import ICFL, ControlWhitening
from napari_microdl.estimators.icfl.fit import Fit
from napari_microdl.estimators.icfl.plan import FitRecord
from napari_microdl.metrics import activation_shares, average_selectivity

CONTROL = -1
FOUND = 0.9
# M, the default for this many samples, and J and L; the same for every dictionary.
N_ATOMS = 512
SPARSITY = (4, 5)
# Of the atoms of a control-first dictionary, the share learned on controls, chosen on seeds 0 to 2
# of this problem. From five to six of eight, about as many concepts are found. A larger share
# leaves a purer group, until too few atoms are left for the concepts.
CONTROL_SHARE = 0.75
# Rates of an atom are compared in controls and treated samples; it is rarer below this ratio.
RARER = 0.5
AMPLITUDES = (1.0, 0.5)
Floats = NDArray[np.float32]
Scores = dict[str, float]


@dataclass(frozen=True)
class Screen:
    """A screen whose concepts are known.

    Parameters
    ----------
    width : int
        Dimensions of a sample.
    n_background : int
        Concepts that controls and treated samples share. With the planted ones they are three
        quarters of the atoms of the default dictionary, which is little room for either.
    n_background_active : int
        Background concepts in each sample, with amounts uniform in 0.5 to 1.5.
    frequency_decay : float
        The i-th background concept occurs in proportion to ``i ** -frequency_decay``.
    n_perturbations : int
        Perturbations.
    concepts_each : int
        Planted concepts that belong to each perturbation and to no other.
    share_showing : float
        Probability that a sample shows each concept of its perturbation; 0.4 of one perturbation in
        64 are 0.6 % of all treated samples.
    amplitude : float
        Amount of a planted concept relative to a background concept.
    nuisance_rank : int
        Dimensions of the nuisance, which is normal and alike in all samples.
    nuisance_power : float
        Its energy relative to that of the background concepts.
    noise_power : float
        Energy of white noise relative to that of the background concepts.
    n_controls, n_treated_each : int
        Controls, and samples of each perturbation, to learn from.
    n_controls_held_out, n_treated_each_held_out : int
        The same to measure on.
    """

    width: int = 384
    n_background: int = 256
    n_background_active: int = 16
    frequency_decay: float = 0.5
    n_perturbations: int = 64
    concepts_each: int = 2
    share_showing: float = 0.4
    amplitude: float = 1.0
    nuisance_rank: int = 48
    nuisance_power: float = 20.0
    noise_power: float = 0.01
    n_controls: int = 4000
    n_treated_each: int = 200
    n_controls_held_out: int = 4000
    n_treated_each_held_out: int = 100


@dataclass(frozen=True)
class Samples:
    """Samples, the number of their perturbation, `CONTROL` for controls, and concepts they show."""

    x: Floats
    labels: NDArray[np.intp]
    shown: NDArray[np.bool_]

    @property
    def control(self) -> NDArray[np.bool_]:
        """Which samples are controls."""
        return self.labels == CONTROL


@dataclass(frozen=True)
class Data:
    """Samples to learn from, held-out samples, and directions of the planted concepts.

    Concepts are in rows, those of a perturbation one after another.
    """

    learning: Samples
    held_out: Samples
    concepts: Floats


def draw(screen: Screen, seed: int) -> Data:
    """Directions and samples.

    Parameters
    ----------
    screen : Screen
        Sizes.
    seed : int
        Of all draws. Screens that differ in amplitude alone have the same controls.

    Returns
    -------
    Data
        Float32.
    """
    rng = np.random.default_rng(seed)
    background = _directions(rng, screen.n_background, screen.width)
    concepts = _directions(rng, screen.n_perturbations * screen.concepts_each, screen.width)
    nuisance = np.linalg.qr(rng.standard_normal((screen.width, screen.nuisance_rank)))[0].T
    # Amounts uniform in 0.5 to 1.5 have the mean square 13/12.
    power = screen.n_background_active * 13 / 12
    nuisance *= np.sqrt(screen.nuisance_power * power / screen.nuisance_rank)
    noise = np.sqrt(screen.noise_power * power / screen.width)
    chance = -screen.frequency_decay * np.log(np.arange(1, screen.n_background + 1))

    def samples(n_controls: int, n_each: int) -> Samples:
        perturbations = np.repeat(np.arange(screen.n_perturbations), n_each)
        labels = np.concatenate([np.full(n_controls, CONTROL), perturbations])
        n = len(labels)
        codes = np.zeros((n, screen.n_background))
        # The largest of log-frequency plus Gumbel noise: draws without replacement.
        key = chance + rng.gumbel(size=codes.shape)
        active = np.argpartition(-key, screen.n_background_active)[:, : screen.n_background_active]
        np.put_along_axis(codes, active, rng.uniform(0.5, 1.5, active.shape), axis=1)
        x = codes @ background
        x += rng.standard_normal((n, screen.nuisance_rank)) @ nuisance
        x += noise * rng.standard_normal(x.shape)
        shape = (len(perturbations), screen.concepts_each)
        amounts = screen.amplitude * rng.uniform(0.5, 1.5, shape)
        amounts *= rng.random(shape) < screen.share_showing
        own = concepts.reshape(screen.n_perturbations, *shape[1:], screen.width)[perturbations]
        x[n_controls:] += np.einsum("nc,ncd->nd", amounts, own)
        shown = np.zeros((n, len(concepts)), dtype=bool)
        columns = perturbations[:, None] * screen.concepts_each + np.arange(screen.concepts_each)
        np.put_along_axis(shown[n_controls:], columns, amounts > 0, axis=1)
        return Samples(x.astype(np.float32), labels, shown)

    return Data(
        samples(screen.n_controls, screen.n_treated_each),
        samples(screen.n_controls_held_out, screen.n_treated_each_held_out),
        concepts.astype(np.float32),
    )


def _directions(rng: np.random.Generator, count: int, width: int) -> NDArray[np.float64]:
    drawn = rng.standard_normal((count, width))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def centring() -> Pipeline:
    """Subtract the mean, bring to unit length."""
    return make_pipeline(StandardScaler(with_std=False), Normalizer())


def z_scores() -> Pipeline:
    """Subtract the mean, divide each dimension by its spread, bring to unit length."""
    return make_pipeline(StandardScaler(), Normalizer())


# What each preparation is made of, and whether it is fitted on controls alone.
PREPARATIONS: dict[str, tuple[Callable[[], Pipeline | ControlWhitening], bool]] = {
    "centring": (centring, True),
    "z-score": (z_scores, True),
    "whitening on all": (ControlWhitening, False),
    "control whitening": (ControlWhitening, True),
}


def prepare(data: Data, name: str) -> Data:
    """The samples and concepts after a preparation.

    Parameters
    ----------
    data : Data
        As drawn.
    name : str
        A key of `PREPARATIONS`.

    Returns
    -------
    Data
        Samples and concepts of unit length.
    """
    make, on_controls = PREPARATIONS[name]
    fitted_on = data.learning.x[data.learning.control] if on_controls else data.learning.x
    preparation = make().fit(fitted_on)
    return Data(
        replace(data.learning, x=preparation.transform(data.learning.x)),
        replace(data.held_out, x=preparation.transform(data.held_out.x)),
        # Every preparation subtracts the mean, applies a matrix and brings to unit length.
        preparation.transform(fitted_on.mean(axis=0) + data.concepts),
    )


def plain(data: Data, seed: int, n_atoms: int) -> ICFL:
    """A dictionary of all samples."""
    return ICFL(n_atoms, *SPARSITY, random_state=seed).fit(data.learning.x)


def plain_treated(data: Data, seed: int, n_atoms: int) -> ICFL:
    """A dictionary of the treated samples."""
    return ICFL(n_atoms, *SPARSITY, random_state=seed).fit(data.learning.x[~data.learning.control])


def control_atoms(n_atoms: int) -> int:
    """How many of the atoms of a control-first dictionary are learned on controls."""
    return round(CONTROL_SHARE * n_atoms)


def control_first(data: Data, seed: int, n_atoms: int) -> ICFL:
    """A dictionary whose first atoms were learned on controls and frozen."""
    icfl = ICFL(n_atoms, *SPARSITY, control_atoms=control_atoms(n_atoms), random_state=seed)
    return icfl.fit(data.learning.x, controls=data.learning.control)


class _FromConcepts(ICFL):
    """Begins with the planted concepts among its atoms."""

    concepts: Floats

    def _run(self, X: Floats, fit: Fit) -> Generator[FitRecord, None, None]:
        fit.learner.atoms[: len(self.concepts)] = torch.from_numpy(self.concepts)
        yield from super()._run(X, fit)


def from_concepts(data: Data, seed: int, n_atoms: int) -> ICFL:
    """A dictionary of all samples that begins with the planted concepts among its atoms.

    Where it leaves them again, no better beginning would have found them.
    """
    icfl = _FromConcepts(n_atoms, *SPARSITY, random_state=seed)
    icfl.concepts = data.concepts
    return icfl.fit(data.learning.x)


# Learners of the samples after control whitening, beside `plain`.
LEARNERS: dict[str, Callable[[Data, int, int], ICFL]] = {
    "plain, treated": plain_treated,
    "control-first": control_first,
    "from the concepts": from_concepts,
}


def score(data: Data, icfl: ICFL) -> Scores:
    """What a dictionary finds of the planted concepts, and what its treated-only group is worth.

    Parameters
    ----------
    data : Data
        Prepared as for the fit.
    icfl : ICFL
        Fitted.

    Returns
    -------
    dict of str to float
        The columns of the tables.
    """
    learning, held_out, atoms = data.learning, data.held_out, icfl.components_
    codes, codes_held_out = icfl.transform(learning.x), icfl.transform(held_out.x)
    # The first row is that of the controls, whose label is the smallest.
    selectivity = average_selectivity(codes, learning.labels)[1][1:]
    selectivity_held_out = average_selectivity(codes_held_out, held_out.labels)[1][1:]
    chosen = selectivity.argmax(axis=1)
    best = concept_selectivity(codes, learning.shown).argmax(axis=1)
    of_concepts = concept_selectivity(codes_held_out, held_out.shown)
    treated = held_out.x[~held_out.control]
    missed = treated - icfl.inverse_transform(codes_held_out[~held_out.control])
    ratio, _ = rates(codes, learning)
    ratio_held_out, dead = rates(codes_held_out, held_out)
    group = np.flatnonzero(icfl.groups_ == "only in treated")
    if not len(group):
        group = np.argsort(ratio)[: len(atoms) - control_atoms(len(atoms))]
    return {
        "found": float((np.abs(data.concepts @ atoms.T).max(axis=1) > FOUND).mean()),
        "accuracy": accuracy(codes, learning, codes_held_out, held_out),
        "of concepts": float(of_concepts[np.arange(len(best)), best].mean()),
        "of perturbations": float(selectivity_held_out[np.arange(len(chosen)), chosen].mean()),
        "any atom": float(selectivity_held_out.max(axis=1).mean()),
        "R2": float(1 - np.square(missed).sum() / np.square(treated).sum()),
        "dead": float(dead.sum()),
        "rarer in controls": float((ratio_held_out[group] < RARER).mean()),
        "are concepts": float((likeness(data, atoms[group]) > FOUND).mean()),
        "group accuracy": accuracy(codes[:, group], learning, codes_held_out[:, group], held_out),
    }


def concept_selectivity(codes: sparse.csr_array, shown: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Average selectivity of every atom for the samples that show each concept.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_atoms)
        Codes.
    shown : ndarray of bool, shape (n_samples, n_concepts)
        Which concepts each sample shows, of which it may be several.

    Returns
    -------
    ndarray of shape (n_concepts, n_atoms)
        Share of the samples with the concept in which the atom is active, less that of the others.
    """
    is_active = (codes > 0).astype(np.float64)
    with_concept = np.asarray((sparse.csr_array(shown.T.astype(np.float64)) @ is_active).todense())
    total = np.asarray(is_active.sum(axis=0)).ravel()
    n_with = shown.sum(axis=0)[:, None]
    return with_concept / n_with - (total - with_concept) / (len(shown) - n_with)


def rates(
    codes: sparse.csr_array, samples: Samples
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Rate of each atom in controls relative to that in treated samples, and which are dead.

    Parameters
    ----------
    codes : csr_array of shape (n_samples, n_atoms)
        Codes.
    samples : Samples
        What was coded.

    Returns
    -------
    ratio : ndarray of shape (n_atoms,)
        Infinite for an atom that no treated sample shows.
    dead : ndarray of bool, shape (n_atoms,)
        Atoms that no sample shows.
    """
    _, (treated, controls), _ = activation_shares(codes, samples.control)
    ratio = np.divide(controls, treated, out=np.full_like(treated, np.inf), where=treated > 0)
    return ratio, (treated == 0) & (controls == 0)


def likeness(data: Data, atoms: Floats) -> NDArray[np.float64]:
    """Largest cosine of each atom with a mixture of the concepts of one perturbation.

    Parameters
    ----------
    data : Data
        Prepared as for the fit.
    atoms : ndarray of shape (n_atoms, n_features)
        Unit vectors.

    Returns
    -------
    ndarray of shape (n_atoms,)
        0 to 1.
    """
    perturbations = np.unique(data.learning.labels[~data.learning.control])
    concepts = data.concepts.reshape(len(perturbations), -1, data.concepts.shape[1])
    # Columns of each basis span the concepts of one perturbation.
    bases = np.linalg.qr(concepts.transpose(0, 2, 1))[0]
    return np.linalg.norm(atoms @ bases, axis=2).max(axis=0)


def accuracy(
    codes: sparse.csr_array,
    samples: Samples,
    codes_held_out: sparse.csr_array,
    held_out: Samples,
) -> float:
    """Balanced accuracy of the perturbation of held-out treated samples, told from their codes.

    A sample is given to the perturbation whose mean code, less the mean of all, has the largest
    cosine with it.

    Parameters
    ----------
    codes, codes_held_out : csr_array of shape (n_samples, n_atoms)
        Codes to learn the means from, and codes to tell.
    samples, held_out : Samples
        What was coded.

    Returns
    -------
    float
        Chance is one over the number of perturbations.
    """
    labels = samples.labels[~samples.control]
    one_hot = sparse.csr_array((np.ones(len(labels)), (labels, np.arange(len(labels)))))
    means = (one_hot @ codes[~samples.control]).toarray() / np.bincount(labels)[:, None]
    means -= means.mean(axis=0)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    told = (codes_held_out[~held_out.control] @ means.T).argmax(axis=1)
    return float(balanced_accuracy_score(held_out.labels[~held_out.control], told))


def measure(screen: Screen, seeds: int, n_atoms: int) -> dict[str, list[Scores]]:
    """Scores of every row of the tables, one a seed.

    Parameters
    ----------
    screen : Screen
        What to draw.
    seeds : int
        How many to draw.
    n_atoms : int
        Of every dictionary.

    Returns
    -------
    dict of str to list of dict
        By preparation, and by learner of the samples after control whitening.
    """
    scores: dict[str, list[Scores]] = {name: [] for name in (*PREPARATIONS, *LEARNERS)}
    for seed in range(seeds):
        drawn = draw(screen, seed)
        for name, of_seeds in scores.items():
            data = prepare(drawn, name if name in PREPARATIONS else "control whitening")
            started = process_time()
            icfl = LEARNERS.get(name, plain)(data, seed, n_atoms)
            seconds = process_time() - started
            of_seeds.append(score(data, icfl) | {"CPU s": seconds})
    return scores


def print_table(
    title: str, scores: dict[str, list[Scores]], rows: dict[str, str], columns: Sequence[str]
) -> None:
    """Print some rows and columns.

    Parameters
    ----------
    title : str
        Above the names of the rows.
    scores : dict
        What `measure` returned.
    rows : dict of str to str
        Names in the table, and names in `scores`.
    columns : sequence of str
        Which scores.
    """
    print(f"\n{title:<20}" + "".join(f"{column:>22}" for column in columns))
    for shown, name in rows.items():
        cells = "".join(f"{spread(scores[name], column):>22}" for column in columns)
        print(f"{shown:<20}{cells}", flush=True)


def spread(scores: Sequence[Scores], column: str) -> str:
    """Median and range over the seeds."""
    values = [of_seed[column] for of_seed in scores]
    digits = 0 if column == "dead" else 1 if column == "CPU s" else 2
    middle, least, most = (
        f"{value:z.{digits}f}" for value in (np.median(values), min(values), max(values))
    )
    return f"{middle} ({least} to {most})"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the tables.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the command line if left out.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--controls", type=int, default=Screen.n_controls, help="to learn from")
    parser.add_argument("--amplitudes", type=float, nargs="+", default=AMPLITUDES)
    parser.add_argument("--atoms", type=int, default=N_ATOMS, help="of every dictionary")
    arguments = parser.parse_args(argv)
    print(
        f"Median (range) of {arguments.seeds} seeds; {arguments.controls} controls; "
        f"M = {arguments.atoms}, J, L = {SPARSITY}; {CONTROL_SHARE:.0%} of the atoms control-first"
    )
    preparations = {name: name for name in PREPARATIONS}
    learners = {"plain, all": "control whitening"} | {name: name for name in LEARNERS}
    for amplitude in arguments.amplitudes:
        screen = Screen(amplitude=amplitude, n_controls=arguments.controls)
        scores = measure(screen, arguments.seeds, arguments.atoms)
        print(f"\nConcepts at {amplitude:g} times the background's amplitude")
        for title, rows, columns in (
            (
                "whitening",
                preparations,
                ("of concepts", "of perturbations", "any atom", "accuracy", "found"),
            ),
            (
                "control-first",
                learners,
                ("found", "accuracy", "of concepts", "of perturbations", "R2", "dead"),
            ),
            (
                "only in treated",
                learners,
                ("rarer in controls", "are concepts", "group accuracy", "CPU s"),
            ),
        ):
            print_table(title, scores, rows, columns)


if __name__ == "__main__":
    main()
