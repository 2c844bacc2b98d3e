"""From a folder of image files to a table of fields: grouped, described, and what was left out."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pandas as pd

from napari_microdl.core.config import ImagesConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.core.text import counted, listed
from napari_microdl.fields.file_patterns import (
    FilePattern,
    differing,
    folders_in_common,
    is_control,
    is_thumbnail,
    labels_stem,
    stem,
    suggest_patterns,
)
from napari_microdl.fields.image_files import channels_shape
from napari_microdl.fields.metadata import PREFIX, field_name, normal_well, read_table
from napari_microdl.fields.named_files import LeftOut, NamedFiles
from napari_microdl.fields.ome_zarr import is_zarr
from napari_microdl.fields.tables import (
    NotThereError,
    WrongRow,
    files_table,
    read_file_table,
    table_rows,
)

_IMAGES = frozenset({".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"})
_TABLES = frozenset({".csv", ".tsv", ".parquet"})
# How ImageXpress calls the folders of time points and planes.
_STEP = re.compile(r"(?P<what>TimePoint|ZStep)_(?P<number>\d+)", re.IGNORECASE)
_MIDDLE = "middle"


@dataclass(frozen=True)
class Listing:
    """What lies in a folder.

    Parameters
    ----------
    images : tuple of Path
        Images, in the order in which a person counts: 2 before 10.
    labels : tuple of Path
        Files that are called labels or masks of one of these images.
    tables : tuple of Path
        Tables that name image files.
    zarrs : tuple of Path
        Folders of zarr, which are not looked into.
    left_out : tuple of LeftOut
        Everything else.
    """

    images: tuple[Path, ...]
    labels: tuple[Path, ...] = ()
    tables: tuple[Path, ...] = ()
    zarrs: tuple[Path, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


@dataclass(frozen=True, eq=False)
class FoundFields:
    """Fields that names of files make up.

    Parameters
    ----------
    fields : tuple of NamedFiles
        In order of their names, or of the table or plate that names them.
    left_out : tuple of LeftOut
        Files that belong to none of them, and fields that are named but cannot be had.
    metadata : DataFrame, optional
        A row a field, with what tables say of it beyond what a field knows: columns ``Metadata_*``.
    notes : tuple of str
        How files and tables were understood.
    """

    fields: tuple[NamedFiles, ...]
    left_out: tuple[LeftOut, ...] = ()
    metadata: pd.DataFrame | None = None
    notes: tuple[str, ...] = ()

    def part_of(self, files: Collection[Path]) -> FoundFields:
        """Those whose first file is one of some, and what is left out of these."""
        rows = [row for row, named in enumerate(self.fields) if named.files[0] in files]
        return dataclasses.replace(
            self,
            fields=tuple(self.fields[row] for row in rows),
            left_out=tuple(left for left in self.left_out if left.path in files),
            metadata=None if self.metadata is None else self.metadata.iloc[rows],
        )

    def table(self, folder: str | Path | None = None) -> pd.DataFrame:
        """A row a field, as `napari_microdl.fields.tables.read_fields` takes it.

        Parameters
        ----------
        folder : str or Path, optional
            Where the table will lie; files below it are named relative to it, others in full.

        Returns
        -------
        DataFrame
            ``FileName_<channel>`` and ``PathName_<channel>``, or ``path``; ``FileName_labels``
            where there are any, and ``Metadata_*``, with plane and time where they are known.
        """
        table = files_table(self.fields, None if folder is None else Path(folder))
        if self.metadata is not None:
            known = {str(name).lower() for name in table.columns}
            more = [name for name in self.metadata.columns if str(name).lower() not in known]
            table[more] = self.metadata[more].to_numpy()
        return table

    def sentence(self) -> str:
        """What was left out, counted by the reason; empty where nothing was."""
        counts = Counter(left.reason for left in self.left_out)
        reasons = "; ".join(f"{reason} ({n})" for reason, n in counts.most_common())
        files = counted(len(self.left_out), "file")
        verb = "is" if len(self.left_out) == 1 else "are"
        return f"{files} {verb} left out: {reasons}." if reasons else ""


def list_folder(places: Iterable[str | Path]) -> Listing:
    """Find the image files in folders, and those that are none.

    Parameters
    ----------
    places : iterable of str or Path
        Folders, looked through with all folders in them, and files.

    Raises
    ------
    MicrodlError
        If a place does not exist.
    """
    images: list[Path] = []
    tables: list[Path] = []
    zarrs: list[Path] = []
    left_out: list[LeftOut] = []
    for file in dict.fromkeys(_files(places)):
        reason = ""
        suffix = file.suffix.lower()
        if file.is_dir():
            zarrs.append(file)
            reason = "zarr, which is read by itself and by the command line"
        elif file.name.startswith("."):
            reason = "hidden"
        elif suffix in _TABLES and _names_files(file):
            tables.append(file)
        elif suffix not in _IMAGES:
            reason = "not TIFF, PNG, JPEG or BMP"
        elif is_thumbnail(file):
            reason = "a thumbnail"
        else:
            images.append(file)
        if reason:
            left_out.append(LeftOut(file, reason))
    kinds = {file: labels_stem(file) for file in images}
    # Where all are called so, nothing else can be the images.
    called = [file for file in images if kinds[file][1]]
    others = set(images) - set(called)
    stems = {stem(file) for file in others}
    # "cells" is also what people call their images.
    masks = [
        f for f in called if kinds[f][1] != "cells" or any(s.startswith(kinds[f][0]) for s in stems)
    ]
    masks = masks if others else []
    are_masks = set(masks)
    return Listing(
        tuple(file for file in images if file not in are_masks),
        tuple(masks),
        tuple(tables),
        tuple(zarrs),
        tuple(left_out),
    )


def _files(places: Iterable[str | Path]) -> Iterable[Path]:
    for place in map(Path, places):
        if place.is_file():
            yield place.absolute()
        elif not place.is_dir():
            raise MicrodlError(f"There is no file or folder '{place}'; choose another one.")
        else:
            found = []
            for folder, below, names in os.walk(place.absolute()):
                current_task().check()
                if is_zarr(Path(folder)):
                    # Its pixels lie in thousands of files.
                    below[:] = []
                    found.append(Path(folder))
                    continue
                below[:] = [name for name in below if not name.startswith((".", "__MACOSX"))]
                found += [Path(folder, name) for name in names]
            yield from sorted(found, key=_counting)


def _counting(path: Path | str) -> list[Any]:
    """Key that sorts 2 before 10."""
    parts = re.split(r"(\d+)", str(path).casefold())
    return [(int(part), part) if part.isdecimal() else part for part in parts]


def _names_files(path: Path) -> bool:
    """Whether a file is a table with a file a channel, as CellProfiler writes it."""
    try:
        if path.suffix.lower() == ".parquet":
            # Profiles of cells lie in such files, and may be large.
            from pyarrow.parquet import read_schema

            columns = list(read_schema(path).names)
        else:
            columns = list(read_table(path).columns)
        return any(str(name).lower().startswith(("filename_", "url_")) for name in columns)
    except (ImportError, OSError, ValueError):
        # Refusals of `read_table`, and what pyarrow raises for what is no Parquet.
        return False


def fields_of_table(
    path: str | Path, images: ImagesConfig | None = None, metadata: str | Path | None = None
) -> FoundFields:
    """The fields of a table, such as that of CellProfiler's LoadData, as far as their files exist.

    Parameters
    ----------
    path : str or Path
        Table, as `napari_microdl.fields.tables.read_fields` takes it.
    images : ImagesConfig, optional
        How images are read; the defaults where not given.
    metadata : str or Path, optional
        What tells more of wells; see `napari_microdl.fields.tables.read_file_table`.

    Raises
    ------
    MicrodlError
        If the table cannot be read or names no files.
    """
    path = Path(path)
    table = read_file_table(path, metadata)
    rows = table_rows(table, path, images)
    chosen = [number for number, row in enumerate(rows) if isinstance(row, NamedFiles)]
    columns = [name for name in table.columns if str(name).startswith(PREFIX)]
    return FoundFields(
        marked_controls(row for row in rows if isinstance(row, NamedFiles)),
        tuple(
            LeftOut(
                path,
                f"row {number}: {row.error}",
                "not imaged" if isinstance(row.error, NotThereError) else "unreadable",
                row.name,
            )
            for number, row in enumerate(rows, start=1)
            if isinstance(row, WrongRow)
        ),
        table[columns].iloc[chosen].reset_index(drop=True) if columns else None,
    )


def find_fields(
    places: Iterable[str | Path] | Listing,
    pattern: FilePattern | None = None,
    *,
    plane: str = _MIDDLE,
    images: ImagesConfig | None = None,
    metadata: str | Path | None = None,
) -> FoundFields:
    """Group image files into fields by what paths and names say.

    Parameters
    ----------
    places : iterable of str or Path, or Listing
        Folders and files, or what `list_folder` found there.
    pattern : FilePattern, optional
        How files are named; where not given the table that lies there, or the first one of
        `suggest_patterns`.
    plane : str, default="middle"
        Which of several planes along z stands for a field; "all" makes each a field, a number
        takes that one.
    images : ImagesConfig, optional
        How the images of a table are read; the defaults where not given.
    metadata : str or Path, optional
        What tells more of the wells of a table; see `fields_of_table`.

    Returns
    -------
    FoundFields
        Every time point is a field. Where no name tells a condition but one of several folders is
        called like controls, folders are conditions. Channels that less than half of the fields
        have are left out, and so are fields that lack one of the others. Of names that occur in
        several folders, what tells the folders apart becomes the plate, or the beginning of the
        name.

    Raises
    ------
    MicrodlError
        If a place does not exist, or the pattern is none.
    """
    listing = places if isinstance(places, Listing) else list_folder(places)
    if pattern is None and listing.tables:
        return _only_in_table(listing, fields_of_table(listing.tables[0], images, metadata))
    if not listing.images:
        return FoundFields((), listing.left_out)
    pattern = pattern or suggest_patterns(listing.images)[0][0]
    read = dict(zip(listing.images, pattern.read(listing.images), strict=True))
    left_out = list(listing.left_out)
    left_out += [
        LeftOut(f, "not named as the pattern says") for f, details in read.items() if not details
    ]
    found = {file: _with_steps(file, details) for file, details in read.items() if details}
    found = _with_folders(_with_conditions(found))
    fields = group_files(found, plane, left_out, listing.labels)
    return FoundFields(_unnamed_where_several(marked_controls(fields)), tuple(left_out))


def group_files(
    found: dict[Path, dict[str, str]],
    plane: str,
    left_out: list[LeftOut],
    labels: Sequence[Path] = (),
) -> list[NamedFiles]:
    """Put files together to fields.

    Parameters
    ----------
    found : dict of Path to dict
        What is said of every file: its channel, plate, well, site, z, time and condition.
    plane : str
        As in `find_fields`.
    left_out : list of LeftOut
        Files that belong to no field are added to it.
    labels : sequence of Path
        Files with labels, which find their images by name.

    Returns
    -------
    list of NamedFiles
        In order of their names.
    """
    found = _one_plane(found, plane, left_out)
    groups = _group(found, plane, left_out)
    cells = _match_labels(labels, groups, left_out)
    fields = []
    for name, files in groups.items():
        details = found[next(iter(files.values()))]
        fields.append(
            NamedFiles(
                name=name,
                files=tuple(files.values()),
                channel_names=tuple(filter(None, files)),
                labels=cells.get(name),
                condition=details.get("condition", ""),
                well=details.get("well", ""),
                site=details.get("site", ""),
                plate=details.get("plate", ""),
                z=details.get("z", ""),
                time=details.get("time", ""),
            )
        )
    return fields


def _only_in_table(listing: Listing, found: FoundFields) -> FoundFields:
    path = listing.tables[0]
    named = {
        os.path.normpath(str(f))
        for row in found.fields
        for f in (*row.files, row.labels, *row.illumination)
        if f
    }
    left_out = [left for left in listing.left_out if str(left.path) not in named]
    others = [
        LeftOut(file, f"not in the table '{path.name}'")
        for file in (*listing.images, *listing.labels)
        if str(file) not in named
    ]
    return dataclasses.replace(found, left_out=(*left_out, *found.left_out, *others))


def marked_controls(fields: Iterable[NamedFiles]) -> tuple[NamedFiles, ...]:
    """Fields with those marked as controls whose condition is called so."""
    return tuple(
        dataclasses.replace(f, is_control=f.is_control or is_control(f.condition)) for f in fields
    )


def _with_steps(file: Path, details: Mapping[str, str]) -> dict[str, str]:
    """What a name says, with time and plane from the folders, and its well as others write it."""
    details = {part: value.strip() for part, value in details.items() if value.strip()}
    for folder in file.parent.parts:
        if match := _STEP.fullmatch(folder):
            details.setdefault(
                "time" if match["what"].lower() == "timepoint" else "z", match["number"]
            )
    if "well" in details:
        details["well"] = normal_well(details["well"])
    return details


def _with_conditions(found: dict[Path, dict[str, str]]) -> dict[Path, dict[str, str]]:
    """Where no name tells a condition but a folder is called like controls, folders are some."""
    folders = {file: _plain_folder(file)[-1:] for file in found}
    known = any(details.get("condition") for details in found.values())
    if known or len(set(folders.values())) < 2 or not any(is_control(*f) for f in folders.values()):
        return found
    return {file: {**details, "condition": folders[file][0]} for file, details in found.items()}


def _with_folders(found: dict[Path, dict[str, str]]) -> dict[Path, dict[str, str]]:
    """Tell same-named files of several folders apart by what differs in the folders."""
    folders_of: dict[tuple[Any, ...], set[tuple[str, ...]]] = defaultdict(set)
    for file, details in found.items():
        folders_of[tuple(sorted(details.items()))].add(_plain_folder(file))
    if all(len(folders) == 1 for folders in folders_of.values()):
        return found
    names = differing({_plain_folder(file) for file in found})
    result = {}
    for file, details in found.items():
        folder = names[_plain_folder(file)]
        if "well" in details and "plate" not in details:
            details = {**details, "plate": folder}
        else:
            # A plate that is in several folders keeps its name as the first part of theirs.
            part = "plate" if "well" in details else "field"
            details = {**details, part: "_".join(filter(None, (folder, details.get(part, ""))))}
        result[file] = details
    return result


def _plain_folder(file: Path) -> tuple[str, ...]:
    """Folders of a file, without those of time points and planes."""
    return tuple(part for part in file.parent.parts if not _STEP.fullmatch(part))


def _names(found: Mapping[Path, Mapping[str, str]], *, with_z: bool) -> dict[Path, str]:
    """Name of the field of every file; plate, plane and time are in it where they differ."""
    same = {p for p in ("plate", "z", "time") if len({s.get(p, "") for s in found.values()}) < 2}
    same |= set() if with_z else {"z"}
    names = {}
    conditions: dict[str, set[str]] = defaultdict(set)
    for file, details in found.items():
        name = field_name({part: value for part, value in details.items() if part not in same})
        names[file] = name or details.get("plate", "")
        conditions[names[file]].add(details.get("condition", ""))
    for file, name in names.items():
        if len(conditions[name]) > 1 or not name:
            parts = (found[file].get("condition", ""), name)
            names[file] = "_".join(filter(None, parts)) or "field 1"
    return names


def _one_plane(
    found: dict[Path, dict[str, str]], plane: str, left_out: list[LeftOut]
) -> dict[Path, dict[str, str]]:
    """Leave out all planes but one of every field and channel."""
    if plane == "all":
        return found
    names = _names(found, with_z=False)
    planes: dict[tuple[str, str], set[str]] = defaultdict(set)
    for file, details in found.items():
        planes[names[file], details.get("channel", "")].add(details.get("z", ""))
    wanted = {}
    for key, there in planes.items():
        in_order = sorted(there, key=_counting)
        wanted[key] = in_order[len(in_order) // 2]
        if plane != _MIDDLE:
            wanted[key] = next((z for z in in_order if _number(z) == plane), "")
    chosen: dict[Path, dict[str, str]] = {}
    for file, details in found.items():
        if details.get("z", "") == wanted[names[file], details.get("channel", "")]:
            chosen[file] = details
        else:
            left_out.append(LeftOut(file, "another z plane than the one taken"))
    return chosen


def _number(text: str) -> str:
    return re.sub(r"\D", "", text).lstrip("0") or "0"


def _group(
    found: dict[Path, dict[str, str]], plane: str, left_out: list[LeftOut]
) -> dict[str, dict[str, Path]]:
    """Files of every field, by channel."""
    names = _names(found, with_z=plane == "all")
    groups: dict[str, dict[str, Path]] = {}
    for file, details in found.items():
        files = groups.setdefault(names[file], {})
        channel = details.get("channel", "")
        if channel in files:
            left_out.append(LeftOut(file, "a second file of a field and channel"))
        else:
            files[channel] = file
    counts = Counter(channel for files in groups.values() for channel in files)
    wanted = sorted((c for c, n in counts.items() if 2 * n >= len(groups)), key=_counting)
    whole: dict[str, dict[str, Path]] = {}
    for name in sorted(groups, key=_counting):
        files = groups[name]
        missing = [channel for channel in wanted if channel not in files]
        for channel, file in files.items():
            if missing:
                left_out.append(LeftOut(file, f"of a field without channel {listed(missing)}"))
            elif channel not in wanted:
                left_out.append(LeftOut(file, f"of channel '{channel}', which few fields have"))
        if not missing:
            whole[name] = {channel: files[channel] for channel in wanted}
    return whole


def _unnamed_where_several(fields: tuple[NamedFiles, ...]) -> tuple[NamedFiles, ...]:
    """A name that stands for all channels of a file is no name of a channel."""
    if not fields or len(fields[0].channel_names) != 1:
        return fields
    for field in fields[:3]:
        try:
            (planes, _, _), _ = channels_shape(field.files[0])
        except MicrodlError:
            continue
        if planes > 1:
            return tuple(dataclasses.replace(field, channel_names=()) for field in fields)
        break
    return fields


def _match_labels(
    labels: Sequence[Path],
    groups: Mapping[str, Mapping[str, Path]],
    left_out: list[LeftOut],
) -> dict[str, Path]:
    """Labels of fields: of the stem of an image, or of what is common to those of its channels."""
    of_stem: dict[str, list[tuple[str, Path]]] = defaultdict(list)
    for name, files in groups.items():
        stems = [stem(file) for file in files.values()]
        common = re.sub(r"[\W_]+[a-z]*$", "", _beginning(stems), flags=re.IGNORECASE)
        first = next(iter(files.values()))
        for known in dict.fromkeys([*stems, name, *([common] if len(stems) > 1 else [])]):
            of_stem[known.casefold()].append((name, first))
    found: dict[str, Path] = {}
    # Whole cells before their parts, where a field has several.
    for file in sorted(labels, key=lambda f: ("cell" not in labels_stem(f)[1], _counting(f))):
        fitting = of_stem.get(labels_stem(file)[0].casefold(), [])
        nearest = max((folders_in_common(file, image) for _, image in fitting), default=0)
        names = [name for name, image in fitting if folders_in_common(file, image) == nearest]
        if len(names) != 1:
            what = "of several images" if names else "of no image here"
            left_out.append(LeftOut(file, f"called labels, {what}"))
        elif names[0] in found:
            left_out.append(LeftOut(file, "other labels of a field that has some"))
        else:
            found[names[0]] = file
    return found


def _beginning(names: Sequence[str]) -> str:
    """What names have in common, letter by letter."""
    return "".join(c[0] for c in takewhile(lambda c: len(set(c)) == 1, zip(*names, strict=False)))
