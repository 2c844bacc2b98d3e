"""What a settings file keeps of the window beyond the settings: images, fields, and choices."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, get_args

from napari_microdl.core.errors import MicrodlError
from napari_microdl.gui.session.layers import Arrangement
from napari_microdl.gui.session.run_settings import CellSource

_KINDS: dict[str, tuple[type, str]] = {
    "str": (str, "a text"),
    "bool": (bool, "true or false"),
    "tuple": (list, "a list"),
    "dict": (dict, "an object"),
}
# Of an image whose field stands in no table.
_KNOWN = {"condition": str, "is_control": bool, "well": str, "site": str, "plate": str}


@dataclass(frozen=True)
class SavedImage:
    """One row of the table of images.

    Parameters
    ----------
    layer : str
        Name of the image layer.
    plane : tuple
        Position along its leading axes, None for the channel axis.
    use : bool
        Whether it takes part in a run.
    field : str
        Name of its field.
    channel : str
        What it shows, where images are channels.
    labels : str
        Name of the Labels layer with its cells; empty for none.
    known : dict
        Condition, control, well, site and plate, where the table does not have the field.
    """

    layer: str
    plane: tuple[int | None, ...] = ()
    use: bool = True
    field: str = ""
    channel: str = ""
    labels: str = ""
    known: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class SavedChannel:
    """A channel of the images: its name, and whether the model sees it."""

    name: str
    use: bool = True


@dataclass(frozen=True)
class SavedWindow:
    """What the window needs to show the same plan again.

    Parameters
    ----------
    fields : str
        File name of the table of fields, beside the settings; empty where there is none.
    arrangement, channel_axis, split_rgb
        As in `Layout`.
    cell_source : {"segmentation", "labels"}
        Where cells come from.
    apply_dictionary : bool
        Whether a dictionary is applied and none fitted.
    dictionary : str
        Its file, relative to that of the settings or whole; empty where it was not saved.
    channels : tuple of SavedChannel
        In the order of the images.
    model_channels : dict of str to str
        Channel of the images by channel of the model, where a person has said so.
    images : tuple of SavedImage
        Rows of the table of images.
    """

    fields: str = ""
    arrangement: Arrangement = "fields"
    channel_axis: int | str = "ask"
    split_rgb: bool = False
    cell_source: CellSource = "segmentation"
    apply_dictionary: bool = False
    dictionary: str = ""
    channels: tuple[SavedChannel, ...] = ()
    model_channels: dict[str, str] = dataclasses.field(default_factory=dict)
    images: tuple[SavedImage, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as plain values that JSON can hold."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any], file: str) -> SavedWindow:
        """Take plain values, each of the kind that is meant.

        Parameters
        ----------
        values : dict
            As `to_dict` gives them; what is missing keeps its default.
        file : str
            What the settings are called, for the sentence.

        Returns
        -------
        SavedWindow

        Raises
        ------
        MicrodlError
            If an entry is not known or of the wrong kind.
        """
        where = f"The entry window of the settings '{file}'"
        found = _checked(cls, values, where)
        for name, choices in (
            ("arrangement", get_args(Arrangement)),
            ("cell_source", get_args(CellSource)),
        ):
            if found.get(name, choices[0]) not in choices:
                known = ", ".join(map(repr, choices))
                raise MicrodlError(f"{where}: {name} is '{found[name]}'; use one of {known}.")
        axis = found.get("channel_axis", "ask")
        if axis not in ("ask", "none") and (isinstance(axis, bool) or not isinstance(axis, int)):
            raise MicrodlError(
                f"{where}: channel_axis is {json.dumps(axis)} but must be a whole number, "
                "'none' or 'ask'."
            )
        found["channels"] = tuple(
            SavedChannel(**_checked(SavedChannel, entry, f"{where}, channels"))
            for entry in found.get("channels", ())
        )
        found["images"] = tuple(
            _image(entry, f"{where}, images") for entry in found.get("images", ())
        )
        wrong = {k: v for k, v in found.get("model_channels", {}).items() if type(v) is not str}
        if wrong:
            raise MicrodlError(f"{where}: model_channels hold {json.dumps(wrong)}, but need texts.")
        return cls(**found)


def _image(entry: Any, where: str) -> SavedImage:
    found = _checked(SavedImage, entry, where)
    plane = tuple(found.get("plane", ()))
    if not all(place is None or type(place) is int for place in plane):
        raise MicrodlError(f"{where}: plane is {json.dumps(plane)}; use whole numbers and null.")
    for name, value in found.get("known", {}).items():
        if type(value) is not _KNOWN.get(name):
            raise MicrodlError(
                f"{where}: known holds {json.dumps({name: value})}; it may hold "
                f"{', '.join(_KNOWN)}, is_control true or false and the others texts."
            )
    return SavedImage(**{**found, "plane": plane})


def _checked(record: type, values: Any, where: str) -> dict[str, Any]:
    """Values of a record, none unknown and those of plain kinds right."""
    if not isinstance(values, dict):
        raise MicrodlError(f"{where}: {json.dumps(values)} is no object.")
    kinds = {f.name: str(f.type) for f in dataclasses.fields(record)}
    required = {
        f.name
        for f in dataclasses.fields(record)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    if unknown := sorted(set(values) - set(kinds)):
        raise MicrodlError(
            f"{where} holds {', '.join(map(repr, unknown))}, which this version does not know; "
            "remove or correct them."
        )
    if missing := sorted(required - set(values)):
        raise MicrodlError(f"{where}: {missing[0]} is missing.")
    for name, value in values.items():
        kind, words = _KINDS.get(kinds[name].split("[")[0], (object, ""))
        if not isinstance(value, kind):
            raise MicrodlError(f"{where}: {name} is {json.dumps(value)} but must be {words}.")
    return dict(values)
