"""One way in for all that fields come from: a table, an OME-Zarr plate, an index, a folder.

What is found are descriptions. Each opens one field, wherever that is wanted
(`napari_microdl.fields.tables.open_field`), so that memory grows with the number of fields and
never with their pixels.
"""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from napari_microdl.core.config import ImagesConfig
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.core.text import counted, listed
from napari_microdl.fields.file_patterns import FilePattern, suggest_patterns
from napari_microdl.fields.folder import (
    FoundFields,
    Listing,
    fields_of_table,
    find_fields,
    list_folder,
    marked_controls,
)
from napari_microdl.fields.harmony import find_indexed, is_index
from napari_microdl.fields.image_files import channels_shape
from napari_microdl.fields.metadata import (
    PREFIX,
    describe_row,
    metadata_table,
    normal_site,
    normal_well,
)
from napari_microdl.fields.named_files import Kind, LeftOut, NamedFiles
from napari_microdl.fields.ome_zarr import find_images, is_zarr
from napari_microdl.fields.plate_maps import join_beside, join_metadata
from napari_microdl.fields.tables import open_field

_TABLES = frozenset({".csv", ".tsv", ".tab", ".txt", ".parquet", ".pq"})
_MIDDLE = "middle"
# Headers are waited for, on disks of other machines above all.
_THREADS = 8
_MOST_NAMES = 5


def find_source(
    path: str | Path,
    images: ImagesConfig | None = None,
    *,
    metadata: str | Path | None = None,
    pattern: FilePattern | None = None,
    plane: str = _MIDDLE,
    passed_over: Sequence[Path] = (),
) -> FoundFields:
    """Find the fields of a table, plate or folder; no pixels are read.

    Parameters
    ----------
    path : str or Path
        A table (CSV, TSV, Parquet) as `napari_microdl.fields.tables.read_fields` takes it; the
        folder of an OME-Zarr plate or image (NGFF 0.4 or 0.5); an index of Harmony; or a folder
        with any of these, or with images whose names say what they are.
    images : ImagesConfig, optional
        How images are read; the defaults where not given.
    metadata : str or Path, optional
        Plate maps or a table of conditions, as `napari_microdl.fields.plate_maps.join_metadata`
        takes them; where not given, a ``barcode_platemap.csv`` that lies there.
    pattern : FilePattern, optional
        How the files of a folder are named; tables, indexes and OME-Zarr in it count for nothing
        then.
    plane : str, default="middle"
        Which of several planes along z stands for a field; "all" makes each a field, a number takes
        that one.
    passed_over : sequence of Path
        Files of a folder that are no source, such as the table that is to be written.

    Returns
    -------
    FoundFields
        Wells are written as A01 and sites as numbers, names are told apart, and controls marked
        where the condition is called so. `notes` says how all was understood.

    Raises
    ------
    MicrodlError
        If there is nothing of the kind, or a table, index or plate cannot be read.
    """
    path, images = Path(path), images or ImagesConfig()
    with current_task().taking_notes() as notes:
        found = _find(path, images, metadata, pattern, plane, passed_over)
        # A table has been joined with what is said of its wells.
        if found.metadata is None and found.fields:
            found = _joined(found, metadata, path if path.is_dir() else path.parent)
        fields = _with_distinct_names(_normalised(found.fields))
    return dataclasses.replace(
        found, fields=marked_controls(fields), notes=(*found.notes, *dict.fromkeys(notes))
    )


def _find(
    path: Path,
    images: ImagesConfig,
    metadata: str | Path | None,
    pattern: FilePattern | None,
    plane: str,
    passed_over: Sequence[Path],
) -> FoundFields:
    if path.is_file():
        if is_index(path):
            return _of_indexes([path], plane)
        if path.suffix.lower() in _TABLES:
            return fields_of_table(path, images, metadata)
        raise MicrodlError(
            f"'{path.name}' is no table of image files and no index; give a CSV, TSV or Parquet "
            "table, an index of Harmony, an OME-Zarr plate, or a folder of images."
        )
    if not path.is_dir():
        raise MicrodlError(f"There is no file or folder '{path}'; choose another one.")
    if is_zarr(path):
        return _of_zarrs([path], images, plane)
    ignored = {place.absolute() for place in passed_over}
    listing = list_folder([path])
    listing = dataclasses.replace(
        listing, tables=tuple(table for table in listing.tables if table not in ignored)
    )
    if pattern is not None or listing.tables:
        return find_fields(listing, pattern, plane=plane, images=images, metadata=metadata)
    indexes = _one_a_folder([x.path for x in listing.left_out if isinstance(x.path, Path)])
    if indexes:
        return _beside(_of_indexes(indexes, plane), listing, "not in the index")
    if listing.zarrs:
        return _beside(_of_zarrs(listing.zarrs, images, plane), listing, "beside OME-Zarr")
    if listing.images:
        pattern, fitting = suggest_patterns(listing.images)[0]
        current_task().note(
            f"Names are read as {pattern.title}: {fitting} of {len(listing.images)} fit."
        )
    return find_fields(listing, pattern, plane=plane)


def _one_a_folder(files: Sequence[Path]) -> list[Path]:
    """Of every folder one index, as it may hold another that is meant for other programs."""
    found: dict[Path, Path] = {}
    for file in sorted(filter(is_index, files), key=lambda f: f.name.lower()):
        found.setdefault(file.parent, file)
    return list(found.values())


def _of_indexes(paths: Sequence[Path], plane: str) -> FoundFields:
    fields: list[NamedFiles] = []
    left_out: list[LeftOut] = []
    known: set[Path] = set()
    for path in paths:
        some, left, files = find_indexed(path, plane=plane)
        # An index above the images may name the same ones as another beside them.
        if not files <= known:
            fields += some
            left_out += left
        known |= files
    return FoundFields(tuple(fields), tuple(left_out))


def _of_zarrs(paths: Sequence[Path], images: ImagesConfig, plane: str) -> FoundFields:
    fields: list[NamedFiles] = []
    left_out: list[LeftOut] = []
    for path in paths:
        try:
            some, left = find_images(path, level=images.level, labels=images.labels, plane=plane)
        except MicrodlError as error:
            if len(paths) == 1:
                raise
            some, left = [], [LeftOut(path, str(error), "unreadable")]
        fields += some
        left_out += left
    return FoundFields(tuple(fields), tuple(left_out))


def _beside(found: FoundFields, listing: Listing, reason: str) -> FoundFields:
    """What was found, with what else lies in the folder."""
    used = {file for named in found.fields for file in named.files}
    sentences = used | {left.path for left in found.left_out}
    others = [
        LeftOut(file, reason)
        for file in (*listing.images, *listing.labels)
        if file not in sentences
    ]
    rest = [x for x in listing.left_out if x.path not in sentences and x.path not in listing.zarrs]
    return dataclasses.replace(found, left_out=(*found.left_out, *others, *rest))


def _joined(found: FoundFields, metadata: str | Path | None, folder: Path) -> FoundFields:
    """Fields with what is said of their wells, there or in the folder."""
    # What nobody has said yet does not stand in the way of what is said there.
    table = metadata_table(found.fields).drop(columns=f"{PREFIX}control")
    known_of_it = table.loc[:, (table != "").any()]
    if metadata is None:
        table = join_beside(known_of_it, folder)
        if table is known_of_it:
            return found
    else:
        table = join_metadata(known_of_it, metadata)
    fields = []
    for row, named in enumerate(found.fields):
        known = describe_row(table, row)
        condition = known.get("condition") or named.condition
        is_control = known.get("is_control", named.is_control)
        fields.append(dataclasses.replace(named, condition=condition, is_control=is_control))
    return dataclasses.replace(found, fields=tuple(fields), metadata=table)


def _normalised(fields: Sequence[NamedFiles]) -> list[NamedFiles]:
    """Fields with wells and sites as all write them; what was changed is noted."""
    changed: dict[str, dict[str, str]] = {"Wells": {}, "Sites": {}}
    result = []
    for named in fields:
        well, site = normal_well(named.well), normal_site(named.site)
        if well != named.well:
            changed["Wells"][named.well] = well
        if site != named.site:
            changed["Sites"][named.site] = site
        result.append(dataclasses.replace(named, well=well, site=site))
    sentences = []
    for what, how in (("Wells", "with two digits"), ("Sites", "as numbers")):
        if changed[what]:
            before, after = next(iter(changed[what].items()))
            sentences.append(f"{what} are written {how}, such as '{before}' as '{after}'")
    if sentences:
        current_task().note(f"{'; '.join(sentences)}.".replace("; S", "; s"))
    return result


def _with_distinct_names(fields: Sequence[NamedFiles]) -> list[NamedFiles]:
    """Fields of which no two have one name: the plate goes before it, or a number behind."""
    counts = Counter(named.name for named in fields)
    names = [
        f"{named.plate}_{named.name}" if counts[named.name] > 1 and named.plate else named.name
        for named in fields
    ]
    seen: dict[str, int] = defaultdict(int)
    result = []
    for named, name in zip(fields, names, strict=True):
        seen[name] += 1
        number = f"_{seen[name]}" if seen[name] > 1 else ""
        result.append(dataclasses.replace(named, name=f"{name}{number}"))
    return result


@dataclass(frozen=True)
class Header:
    """What the headers of a field's files say.

    Parameters
    ----------
    channel_names : tuple of str
        Its channels.
    shape : tuple of int
        Height and width in pixels.
    dtype : str
        Type of the intensities as they are read.
    pixel_size : float, optional
        Micrometres a pixel.
    """

    channel_names: tuple[str, ...]
    shape: tuple[int, int]
    dtype: str
    pixel_size: float | None


@dataclass(frozen=True, eq=False)
class CheckedFields:
    """Fields whose files are all there and fit together.

    Parameters
    ----------
    found : FoundFields
        These fields; what is wrong with the others stands in `left_out`, and what differs among
        these in `notes`.
    headers : tuple of Header
        One a field.
    """

    found: FoundFields
    headers: tuple[Header, ...]


def check_source(found: FoundFields) -> CheckedFields:
    """Open the header of every file before any work begins.

    Parameters
    ----------
    found : FoundFields
        As `find_source` gives it.

    Returns
    -------
    CheckedFields
        Every fault of every field is in ``found.left_out``: files that are not there, that cannot
        be read or end too soon, channels of one field that differ in size or type, labels and
        illumination functions that do not fit, and channels that are not those of most fields.

    Raises
    ------
    Cancelled
        If the task was cancelled.
    """
    n = len(found.fields)
    checked: list[Header | list[LeftOut]] = []
    pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="napari-microdl")
    try:
        for number, outcome in enumerate(pool.map(_check, found.fields)):
            current_task().progress(number, n, "Looking at the files of all fields")
            checked.append(outcome)
    finally:
        pool.shutdown(cancel_futures=True)
    left_out = [fault for outcome in checked if isinstance(outcome, list) for fault in outcome]
    usual = _most_common([frozenset(h.channel_names) for h in checked if isinstance(h, Header)])
    usable: list[int] = []
    headers: list[Header] = []
    for number, outcome in enumerate(checked):
        if not isinstance(outcome, Header):
            continue
        if frozenset(outcome.channel_names) == usual:
            usable.append(number)
            headers.append(outcome)
            continue
        named = found.fields[number]
        reason = (
            f"its channels are {listed(outcome.channel_names, most=_MOST_NAMES)}, those of most "
            f"fields {listed(sorted(usual or ()), most=_MOST_NAMES)}"
        )
        left_out.append(LeftOut(named.files[0], reason, "unreadable", named.name))
    notes = [*found.notes, *_differences(headers)]
    metadata: pd.DataFrame | None = found.metadata
    if metadata is not None:
        metadata = metadata.iloc[usable].reset_index(drop=True)
    good = FoundFields(
        tuple(found.fields[number] for number in usable),
        (*found.left_out, *left_out),
        metadata,
        tuple(notes),
    )
    return CheckedFields(good, tuple(headers))


def _most_common(values: Sequence[frozenset[str]]) -> frozenset[str] | None:
    return Counter(values).most_common(1)[0][0] if values else None


def _differences(headers: Sequence[Header]) -> list[str]:
    """What differs among fields that can all be used."""
    sentences = []
    sizes = Counter(header.shape for header in headers)
    if len(sizes) > 1:
        each = ", ".join(f"{y} x {x} ({n})" for (y, x), n in sizes.most_common(_MOST_NAMES))
        sentences.append(f"Fields differ in size: {each} pixels.")
    types = Counter(header.dtype for header in headers)
    if len(types) > 1:
        each = ", ".join(f"{name} ({n})" for name, n in types.most_common())
        sentences.append(f"Fields differ in the type of their intensities: {each}.")
    return sentences


def _check(named: NamedFiles) -> Header | list[LeftOut]:
    """Header of a field, or all that is wrong with it."""
    faults: list[LeftOut] = []
    if not named.files[0].is_dir():
        sizes: dict[str, tuple[int, int]] = {}
        types: set[np.dtype[np.generic]] = set()
        files = named.files if named.labels is None else (*named.files, named.labels)
        for file in files:
            try:
                if not file.is_file():
                    faults.append(LeftOut(file, "it is not there", "not imaged", named.name))
                    continue
                (_, height, width), dtype = channels_shape(file, whole=True)
            except MicrodlError as error:
                faults.append(LeftOut(file, str(error), "unreadable", named.name))
                continue
            if file != named.labels:
                sizes[file.name] = (height, width)
                types.add(dtype)
        if len(set(sizes.values())) > 1:
            each = ", ".join(f"{name} {y} x {x}" for name, (y, x) in sizes.items())
            reason = f"its channels differ in size: {each} pixels"
            faults.append(LeftOut(named.files[0], reason, "unreadable", named.name))
        if len(types) > 1:
            reason = f"its channels differ in type: {', '.join(sorted(map(str, types)))}"
            faults.append(LeftOut(named.files[0], reason, "unreadable", named.name))
    if faults:
        return faults
    try:
        field = open_field(named)
    except MicrodlError as error:
        return [LeftOut(named.files[0], str(error), "unreadable", named.name)]
    return Header(field.channel_names, field.shape, str(field.data.dtype), field.pixel_size)


def left_out_sentences(found: FoundFields) -> list[str]:
    """What was left out, counted by kind, with names.

    Returns
    -------
    list of str
        A sentence for fields that were not imaged, one for those that cannot be read, and one for
        files that make up no field; none for what there is none of.
    """
    of_kind: dict[Kind, list[LeftOut]] = defaultdict(list)
    for left in found.left_out:
        of_kind[left.kind].append(left)
    sentences = []
    kinds: tuple[Kind, ...] = ("not imaged", "unreadable")
    for kind in kinds:
        some = of_kind[kind]
        names = list(dict.fromkeys(left.field or left.path.name for left in some))
        if names:
            sentences.append(
                f"{counted(len(names), 'field')} {kind}: {listed(names, most=_MOST_NAMES)}."
            )
    if some := of_kind["no field"]:
        reasons = Counter(left.reason for left in some)
        each = "; ".join(f"{reason} ({n})" for reason, n in reasons.most_common(_MOST_NAMES))
        verb = "makes" if len(some) == 1 else "make"
        sentences.append(f"{counted(len(some), 'file')} {verb} up no field: {each}.")
    return sentences
