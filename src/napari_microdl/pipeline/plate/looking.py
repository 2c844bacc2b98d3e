"""From the folder of a plate run back to its images: one field at a time, as it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from scipy import sparse

from napari_microdl.concepts.activations import ConceptActivations
from napari_microdl.concepts.heat import HeatMaps
from napari_microdl.concepts.store import open_activations
from napari_microdl.core.config import read_config
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import read_json, refusing
from napari_microdl.fields.field import Field
from napari_microdl.fields.named_files import NamedFiles
from napari_microdl.fields.sources import find_source
from napari_microdl.models.base import TokenModel
from napari_microdl.models.registry import to_be_fetched
from napari_microdl.pipeline.files import SETTINGS
from napari_microdl.pipeline.inputs import Labels, check_fields, config_of, load_model_of
from napari_microdl.pipeline.plate.folder import FIELDS, MANIFEST
from napari_microdl.pipeline.plate.profiles import ACTIVATIONS
from napari_microdl.pipeline.run import PipelineRun
from napari_microdl.tokens import TokenCache, TokenGrid
from napari_microdl.tokens.units import Units

# Whose patches tell what heat is usual.
_CONTROLS = 3
# Of fields that nobody has looked at.
_UNREAD = TokenGrid(np.empty((0, 0, 0), np.float32), np.empty((0, 0), np.int32), 1, (0, 0))
_NO_UNITS = Units(
    np.empty(0, np.int64),
    np.empty(0, np.float32),
    np.empty(0, np.float32),
    np.empty(0, np.float32),
    np.empty((0, 4), np.int32),
    sparse.csr_array((0, 0)),
)


def plate_folder(place: str | Path) -> Path | None:
    """Folder of a plate run, where a place is one, its activations, or its ``plate.json``."""
    place = Path(place)
    for folder in (place, place.parent) if place.name in (ACTIVATIONS, MANIFEST) else (place,):
        if (folder / MANIFEST).is_file():
            return folder
    return None


@dataclass(frozen=True, eq=False)
class SeenField:
    """What is drawn over the image of a field, made of it as the run has made it.

    Parameters
    ----------
    number : int
        Of the field.
    field : Field
        The image.
    labels : ndarray of shape (height, width) or None
        Its cells.
    grid : TokenGrid
        Its tokens, position component removed.
    units : Units
        Its units, in the order of the table of units.
    """

    number: int
    field: Field
    labels: Labels
    grid: TokenGrid
    units: Units


class PlateRun:
    """A plate run that has ended, and the way to its images.

    Parameters
    ----------
    folder : Path
        Folder of the run.

    Raises
    ------
    MicrodlError
        If it holds no run that has ended, or what it holds is damaged.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / ACTIVATIONS).is_dir():
            raise MicrodlError(
                f"'{folder}' holds no plate run that has ended; give its command again to go on."
            )
        self.folder = folder
        self.activations: ConceptActivations = open_activations(folder / ACTIVATIONS)
        # Fields whose patches tell what heat is usual, and whether they are controls.
        self._usual: list[int] = []
        self.has_controls = False
        self.config = config_of(self.activations.dictionary, read_config(folder / SETTINGS))
        units = self.activations.units
        first = units.drop_duplicates("field").set_index("field")
        self.names: dict[int, str] = first["Metadata_Field"].astype(str).to_dict()
        self._plates: dict[int, str] = first["Metadata_Plate"].fillna("").astype(str).to_dict()
        controls = first.index[first["Metadata_control"].astype(bool)].tolist()
        n = max(self.names) + 1
        self.activations.grids[:], self.activations.geometry[:] = [_UNREAD] * n, [_NO_UNITS] * n
        # Drawn from all over the plate.
        self.controls: list[int] = controls[:: max(1, len(controls) // _CONTROLS)][:_CONTROLS]
        with refusing(f"'{folder / MANIFEST}' is damaged ({{reason}})."):
            begun = read_json(folder / MANIFEST)["begun"]
            self._channels = tuple(map(str, begun["channels"]))

    @cached_property
    def _files(self) -> tuple[dict[str, NamedFiles], dict[str, str]]:
        """Files of fields by their names, and why others have none."""
        if not (self.folder / FIELDS).is_file():
            raise MicrodlError(
                f"'{self.folder}' does not say where its images are ({FIELDS} is missing); give "
                "the command of the run again, which writes it."
            )
        found = find_source(self.folder / FIELDS, self.config.images)
        return (
            {named.name: named for named in found.fields},
            # What to correct in a table that a person has written is of no use here.
            {left.field: left.reason.partition(";")[0] for left in found.left_out},
        )

    @cached_property
    def _model(self) -> TokenModel:
        if repository := to_be_fetched(self.config.model.name):
            raise MicrodlError(
                f"The weights of {repository} are not here, and are not fetched to look at images; "
                "the command of the run does with --download."
            )
        model = load_model_of(self.config, self._channels)
        self.activations.dictionary.spec.check_model(model.spec)
        return model

    def files_of(self, numbers: Sequence[int]) -> tuple[dict[int, NamedFiles], list[str]]:
        """Where the images of fields lie.

        Parameters
        ----------
        numbers : sequence of int
            Of the fields.

        Returns
        -------
        files : dict of int to NamedFiles
            Those that are there.
        problems : list of str
            A sentence for each of the others.

        Raises
        ------
        MicrodlError
            If the folder does not say so.
        """
        there, gone = self._files
        files = {n: there[name] for n in numbers if (name := self.names[n]) in there}
        reasons = {
            n: gone.get(self.names[n], "it is not listed") for n in numbers if n not in files
        }
        problems = [
            f"Without '{self.names[n]}' ({FIELDS}, {reason})." for n, reason in reasons.items()
        ]
        return files, problems

    def see(self, number: int, field: Field, cache: TokenCache | None = None) -> SeenField:
        """Make of the image of a field what the run has made of it.

        Parameters
        ----------
        number : int
            Of the field.
        field : Field
            Its image.
        cache : TokenCache, optional
            Where tokens are kept if the settings have it so; the usual place where not given.

        Returns
        -------
        SeenField

        Raises
        ------
        MicrodlError
            If the image cannot be read, or other units are found in it than the run has found.
        """
        check_fields([field], self.config, fitting=False)
        run = PipelineRun(
            [field],
            self.config,
            dictionary=self.activations.dictionary,
            model=self._model,
            cache=cache,
        )
        (units,) = run.samples().geometry
        known = self.activations.units.iloc[self.activations.rows_of_field(number)]
        found = np.stack([units.ids, units.y, units.x])
        if not np.array_equal(known[["label", "y", "x"]].to_numpy(np.float64).T, found):
            raise MicrodlError(
                f"'{field.name}' has changed since the run: what is found in it now is not what "
                "the run has found."
            )
        return SeenField(number, field, run.cells()[0], run.tokens().grids[0], units)

    def keep(self, seen: Sequence[SeenField], controls: Sequence[SeenField] = ()) -> None:
        """Put what is drawn over fields with their activations.

        Parameters
        ----------
        seen : sequence of SeenField
            Fields.
        controls : sequence of SeenField
            Fields whose patches tell what heat is usual; once some are known, none are needed.
        """
        found = self.activations
        for one in (*controls, *seen):
            found.grids[one.number], found.geometry[one.number] = one.grid, one.units
        if not self.has_controls:
            self.has_controls = bool(controls)
            self._usual = [one.number for one in controls or seen]
            found.heat = HeatMaps(
                found.dictionary, found.grids, found.geometry, self._usual, self._plates
            )

    def forget(self, numbers: Sequence[int]) -> None:
        """Let go of what is drawn over fields whose images were closed.

        Parameters
        ----------
        numbers : sequence of int
            Of the fields.
        """
        for number in set(numbers) - set(self._usual):
            self.activations.grids[number] = _UNREAD
            self.activations.geometry[number] = _NO_UNITS
