"""Indexes that Harmony writes beside the images of an Opera Phenix or Operetta."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.parsers import expat

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import plain_file, refusing
from napari_microdl.core.task import current_task
from napari_microdl.core.text import counted
from napari_microdl.fields.folder import group_files
from napari_microdl.fields.metadata import row_letters
from napari_microdl.fields.named_files import Kind, LeftOut, NamedFiles
from napari_microdl.fields.pixel_size import common_pixel_size, micrometres

_NAMES = ("index.idx.xml", "index.xml", "index.ref.xml")
# More than any index has: what goes beyond is none, and would take memory without end.
_MOST_DEPTH, _MOST_LETTERS = 32, 4096
_PIECE = 2**20
_OF_IMAGE = frozenset(
    {"State", "URL", "Row", "Col", "FieldID", "PlaneID", "TimepointID", "ChannelID",
     "ChannelName", "ImageResolutionX"}
)  # fmt: skip
_OF_CHANNEL = frozenset({"ChannelName", "ImageResolutionX"})
_OF_PLATE = frozenset({"PlateID", "Name"})


def is_index(path: Path) -> bool:
    """Whether a file is called as Harmony calls its index."""
    return path.name.lower() in _NAMES


@dataclass
class _Index:
    """What an index says: its plate, its channels by number, and a record an image."""

    plate: dict[str, str] = field(default_factory=dict)
    channels: dict[str, dict[str, str]] = field(default_factory=dict)
    images: list[dict[str, str]] = field(default_factory=list)


def find_indexed(
    path: Path, *, plane: str = "middle"
) -> tuple[list[NamedFiles], list[LeftOut], set[Path]]:
    """The fields of an index, as far as their files are there.

    Parameters
    ----------
    path : Path
        ``Index.idx.xml``, ``Index.xml`` or ``Index.ref.xml``. Images lie beside it, or in a folder
        ``Images`` there.
    plane : str, default="middle"
        As in `napari_microdl.fields.folder.find_fields`.

    Returns
    -------
    fields : list of NamedFiles
        With well, site, plane, channels and pixel size.
    left_out : list of LeftOut
        Files that are in the index but not there, and planes that are not wanted.
    listed : set of Path
        All files in the index.

    Raises
    ------
    MicrodlError
        If the file is no such index.
    """
    index = _read_index(path)
    plate = index.plate.get("Name") or index.plate.get("PlateID") or path.parent.name
    names = _channel_names(index)
    there = _files_below(path.parent)
    sizes: dict[Path, float | None] = {}
    found: dict[Path, dict[str, str]] = {}
    left_out: list[LeftOut] = []
    for image in index.images:
        current_task().check()
        details = _details(image, names, plate, path)
        # What comes in from elsewhere must not lead out of the folder.
        url = Path(unquote(image["URL"]).replace("\\", "/"))
        file = there.get(url.name, path.parent / url.name)
        name = f"{details['well']}_{details['site']}"
        sizes[file] = _pixel_size({**index.channels.get(image.get("ChannelID", ""), {}), **image})
        if url.name not in there:
            left_out.append(LeftOut(file, f"in '{path.name}' but not there", "not imaged", name))
        elif image.get("State", "Ok").lower() != "ok":
            reason = f"'{path.name}' calls its state {image['State']}"
            left_out.append(LeftOut(file, reason, "unreadable", name))
        else:
            found[file] = details
    # A time point that all images have is no news, nor is a single plane.
    for part in ("time", "z"):
        if len({details[part] for details in found.values()}) < 2:
            for details in found.values():
                details.pop(part)
    grouped: list[LeftOut] = []
    fields = [_with_size(f, sizes) for f in group_files(found, plane, grouped)]
    # A field that lacks a channel was not imaged as a whole.
    for left in grouped:
        details = found.get(Path(str(left.path)), {})
        lacks = "without channel" in left.reason
        name = f"{details.get('well', '')}_{details.get('site', '')}"
        kind: Kind = "not imaged" if lacks else "no field"
        left_out.append(LeftOut(left.path, left.reason, kind, name if lacks else ""))
    return fields, left_out, set(sizes)


def _with_size(named: NamedFiles, sizes: dict[Path, float | None]) -> NamedFiles:
    size = common_pixel_size([sizes[Path(str(file))] for file in named.files])
    return dataclasses.replace(named, pixel_size=size)


def _details(
    image: dict[str, str], names: dict[str, str], plate: str, path: Path
) -> dict[str, str]:
    """What a record says, in the words of names of files."""
    try:
        row, column = int(image["Row"]), int(image["Col"])
        if row < 1 or column < 1:
            raise ValueError(f"row {row}, column {column}")
        return {
            "plate": plate,
            "well": f"{row_letters(row - 1)}{column:02d}",
            "site": str(int(image["FieldID"])),
            "z": image.get("PlaneID", ""),
            "time": image.get("TimepointID", ""),
            "channel": names[image["ChannelID"]],
        }
    except (KeyError, ValueError) as error:
        raise MicrodlError(
            f"The image '{image.get('URL', '')}' in '{path.name}' lacks what tells its place "
            f"({error}); let Harmony write the index anew."
        ) from error


def _files_below(folder: Path) -> dict[str, Path]:
    """Files beside an index and in the folders there, such as Images, by their name.

    To list a folder is far sooner done than to ask for each of a hundred thousand files.
    """
    folders = [folder, *sorted(place for place in folder.iterdir() if place.is_dir())]
    found: dict[str, Path] = {}
    for place in folders:
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_file():
                    found.setdefault(entry.name, place / entry.name)
    return found


def _channel_names(index: _Index) -> dict[str, str]:
    """A name for every channel; where two have the same one, their numbers tell them apart."""
    named: dict[str, str] = {}
    for image in index.images:
        number = image.get("ChannelID", "")
        known = index.channels.get(number, {}).get("ChannelName", "")
        name = image.get("ChannelName") or known or f"ch{number}"
        named.setdefault(number, name.strip())
    names = list(named.values())
    return {
        number: name if names.count(name) == 1 else f"{name} ch{number}"
        for number, name in named.items()
    }


def _pixel_size(known: dict[str, str]) -> float | None:
    try:
        size = float(known.get("ImageResolutionX", ""))
    except ValueError:
        return None
    return micrometres(size, known.get("ImageResolutionX Unit", "m"))


class _Reader:
    """Takes an index in by the tags that matter; nothing else of it is kept."""

    def __init__(self) -> None:
        self.index = _Index()
        self._path: list[str] = []
        self._record: dict[str, str] | None = None
        self._wanted: frozenset[str] = frozenset()
        self._depth = 0
        self._text: list[str] | None = None
        self._letters = 0
        self._unit = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """A tag begins."""
        self._path.append(tag)
        if len(self._path) > _MOST_DEPTH:
            raise ValueError("its tags lie deeper in each other than in any index")
        parent = self._path[-2] if len(self._path) > 1 else ""
        if self._record is None:
            if (parent, tag) == ("Images", "Image"):
                self.index.images.append({})
                self._begin(self.index.images[-1], _OF_IMAGE)
            elif (parent, tag) == ("Map", "Entry"):
                known = self.index.channels.setdefault(attributes.get("ChannelID", ""), {})
                self._begin(known, _OF_CHANNEL)
            elif (parent, tag) == ("Plates", "Plate"):
                self._begin(self.index.plate, _OF_PLATE)
        elif len(self._path) == self._depth + 1 and tag in self._wanted:
            self._text, self._letters = [], 0
            self._unit = attributes.get("Unit", "")

    def _begin(self, record: dict[str, str], wanted: frozenset[str]) -> None:
        self._record, self._wanted, self._depth = record, wanted, len(self._path)

    def data(self, text: str) -> None:
        """Text inside of a tag."""
        if self._text is not None:
            self._letters += len(text)
            if self._letters > _MOST_LETTERS:
                raise ValueError(f"the text of {self._path[-1]} is longer than in any index")
            self._text.append(text)

    def end(self, tag: str) -> None:
        """A tag ends."""
        if self._text is not None and self._record is not None:
            self._record[tag] = "".join(self._text).strip()
            if self._unit:
                self._record[f"{tag} Unit"] = self._unit
            self._text = None
        if len(self._path) == self._depth and self._record is not None:
            self._record = None
        self._path.pop()


def _refuse(*_: Any) -> None:
    raise ValueError("it declares a document type or entities, which no index does")


def _read_index(path: Path) -> _Index:
    """Read an index piece by piece; files of millions of images are hundreds of megabytes."""
    reader = _Reader()
    parser = expat.ParserCreate(namespace_separator=None)
    parser.buffer_text = True
    parser.StartElementHandler = _plain(reader.start)
    parser.EndElementHandler = _plain(reader.end)
    parser.CharacterDataHandler = reader.data
    # Without a document type there are no entities that could grow, or name files.
    parser.StartDoctypeDeclHandler = _refuse
    parser.EntityDeclHandler = _refuse
    current_task().progress(0, 0, f"Reading {path.name}")
    with (
        refusing(f"'{path.name}' cannot be read as an index of Harmony: {{reason}}."),
        plain_file(path) as file,
    ):
        while piece := file.read(_PIECE):
            current_task().check()
            parser.Parse(piece, False)
        parser.Parse(b"", True)
    named = [image for image in reader.index.images if image.get("URL")]
    if not named:
        raise MicrodlError(
            f"'{path.name}' names no images; choose the index that Harmony wrote with them."
        )
    lost = len(reader.index.images) - len(named)
    if lost:
        current_task().note(f"'{path.name}' names no file of {counted(lost, 'image')}.")
    reader.index.images = named
    return reader.index


def _plain(handle: Callable[..., None]) -> Callable[..., None]:
    """A handler that is given names of tags without the prefix of their namespace."""

    def handler(tag: str, *more: Any) -> None:
        handle(tag.rpartition(":")[2], *more)

    return handler
