"""The plan of a window to files that the command line takes, and back."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import re
import shlex
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
from napari.layers import Labels, Layer
from pydantic import Field as Entry

from napari_microdl.core.config import (
    PipelineConfig,
    Settings,
    read_config,
    read_window,
    write_config,
)
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import write_whole
from napari_microdl.core.task import current_task
from napari_microdl.core.text import listed
from napari_microdl.fields.metadata import column, describe_row, read_table
from napari_microdl.fields.tables import (
    FieldFiles,
    check_field_files,
    relative_to_folder,
    write_field_files,
)
from napari_microdl.gui.session.layers import (
    Arrangement,
    ImageRow,
    Layout,
    build_fields,
    file_of,
    illumination_of,
)
from napari_microdl.gui.session.plan import Plan
from napari_microdl.gui.session.settings import CellSource

if TYPE_CHECKING:
    from napari_microdl.concepts.dictionary import ConceptDictionary


# Those of earlier versions have no digest.
_LABELS_FILE = re.compile(r"\d{4,}(-[0-9a-f]{8})?\.tif")


class Known(Settings):
    """What is known of a field, where no table has it."""

    condition: str = ""
    is_control: bool = False
    well: str = ""
    site: str = ""
    plate: str = ""


class SavedImage(Settings):
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
    known : Known
        Empty where the table has the field.
    """

    layer: str
    plane: Annotated[tuple[int | None, ...], Entry(strict=False)] = ()
    use: bool = True
    field: str = ""
    channel: str = ""
    labels: str = ""
    known: Known = Known()


class SavedChannel(Settings):
    """A channel of the images: its name, and whether the model sees it."""

    name: str
    use: bool = True


class SavedWindow(Settings):
    """What a settings file holds of the window beyond the settings: images, fields, and choices.

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
    channel_axis: int | Literal["none", "ask"] = "ask"
    split_rgb: bool = False
    cell_source: CellSource = "segmentation"
    apply_dictionary: bool = False
    dictionary: str = ""
    channels: Annotated[tuple[SavedChannel, ...], Entry(strict=False)] = ()
    model_channels: dict[str, str] = Entry(default_factory=dict)
    images: Annotated[tuple[SavedImage, ...], Entry(strict=False)] = ()


@dataclass(frozen=True, eq=False)
class WindowFiles:
    """What is to be written, taken from the window at one moment.

    Parameters
    ----------
    config : PipelineConfig
        Settings.
    window : SavedWindow
        What the window alone needs.
    fields : list of FieldFiles
        Fields of the table; none where the images do not make up fields.
    drawn : list of bool
        Of every field whether its labels are in no file, so that they are written, too.
    reasons : list of str
        Why the command line cannot run it.
    """

    config: PipelineConfig
    window: SavedWindow
    fields: list[FieldFiles]
    drawn: list[bool]
    reasons: list[str]


def collect_window(plan: Plan, path: str | Path) -> WindowFiles:
    """Collect what a window would run, for settings that are to be written to a path."""
    path = Path(path)
    config, rows = plan.run_config(), plan.images.used_rows()
    by_channel = plan.images.layout.arrangement == "channels"
    with_labels = plan.settings.uses_labels
    fields: list[FieldFiles] = []
    drawn: list[bool] = []
    reasons: list[str] = []
    groups: dict[Any, list[ImageRow]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.group if by_channel else number, []).append(row)
    try:
        names = [channel.name for channel in plan.images.channels]
        built, _ = build_fields(rows, plan.images.layout, names, with_labels=with_labels)
    except MicrodlError as error:
        reasons.append(str(error))
    else:
        without: dict[str, list[str]] = {}
        for found, group in zip(built, groups.values(), strict=True):
            files = [_file_of(plan, row.layer(), row.index) for row in group]
            for row, file in zip(group, files, strict=True):
                if isinstance(file, str):
                    without.setdefault(file, []).append(row.channel if by_channel else row.name)
            known = tuple(file for file in files if isinstance(file, Path))
            layer = group[0].labels_layer() if with_labels else None
            if with_labels and layer is None:
                # Run without, they would be found by the built-in segmentation.
                without.setdefault("has no Labels layer", []).append(found.name)
                known = ()
            labels = None if layer is None else _file_of(plan, layer, (0,) * (layer.ndim - 2))
            drawn.append(isinstance(labels, str))
            functions = illumination_of(group)
            fields.append(
                FieldFiles(
                    found,
                    known if len(known) == len(files) else (),
                    labels if isinstance(labels, Path) else None,
                    functions if len(functions) == found.n_channels else (),
                )
            )
        reasons += [f"{listed(images)} {reason}" for reason, images in without.items()]
    if not rows:
        reasons.append("no image takes part")
    table = f"{path.stem}.fields.csv" if fields else ""
    in_table = {row.field.name for row in fields}
    dictionary = ""
    if plan.settings.apply_dictionary and plan.settings.dictionary_file is None:
        reasons.append("the dictionary that is applied was not saved to a file")
    elif plan.settings.apply_dictionary and plan.settings.dictionary_file is not None:
        dictionary = relative_to_folder(path.parent, plan.settings.dictionary_file).as_posix()
    window = SavedWindow(
        fields=table,
        **dataclasses.asdict(plan.images.layout),
        cell_source=plan.settings.cell_source,
        apply_dictionary=plan.settings.apply_dictionary,
        dictionary=dictionary,
        channels=tuple(SavedChannel(name=c.name, use=c.use) for c in plan.images.channels),
        model_channels=dict(plan.model.channel_choices),
        images=tuple(
            _saved(row, by_channel, in_table) for row in plan.images.rows if row.layer() is not None
        ),
    )
    return WindowFiles(config, window, fields, drawn, reasons)


def _saved(row: ImageRow, by_channel: bool, in_table: set[str]) -> SavedImage:
    name = row.group if by_channel else row.name
    layer, labels = row.layer(), row.labels_layer()
    assert layer is not None
    known = {} if name in in_table else {k: getattr(row, k) for k in Known.model_fields}
    return SavedImage(
        layer=layer.name,
        plane=row.index,
        use=row.use,
        field=name,
        channel=row.channel if by_channel else "",
        labels="" if labels is None else labels.name,
        known=Known(**known),
    )


def _file_of(plan: Plan, layer: Layer | None, index: tuple[int | None, ...]) -> Path | str:
    """File that a layer was opened from, or why there is none that could be read instead."""
    place = file_of(layer)
    # A place on the web is no file.
    if place is None or not place.is_file():
        return "was not opened from a file that the command line reads"
    if any(i is not None for i in index):
        return "is a plane of a stack, of which the command line reads whole files"
    if plan.images.contents(layer)[1]:
        return "was changed since it was opened"
    return place.absolute()


def write_window(files: WindowFiles, path: str | Path) -> str:
    """Write settings, table and labels, and look whether the command line reads the same fields.

    Returns what was written, and how the command line takes it or why it cannot. Raises
    `MicrodlError` if a file cannot be written.
    """
    path = Path(path)
    task = current_task()
    task.progress(0, 0, "Saving settings")
    fields, reasons = list(files.fields), list(files.reasons)
    written = [path.name]
    folder = path.with_suffix(".labels")
    try:
        # Under new names, so that the settings that are there keep theirs until they are replaced.
        for number, row in enumerate(fields):
            if files.drawn[number]:
                task.progress(number, len(fields), "Saving labels")
                fields[number] = _write_labels(row, folder, number)
        if fields:
            write_field_files(fields, path.parent / files.window.fields)
            written.append(files.window.fields)
        if any(files.drawn):
            written.append(folder.name)
        write_config(files.config, path, files.window.model_dump(mode="json", exclude_unset=True))
        _remove_labels(folder, besides={row.labels for row in fields})
    except OSError as error:
        raise MicrodlError(f"The settings could not be saved: {error}") from error
    if not reasons:
        task.progress(0, 0, "Looking whether the files give the same fields")
        try:
            check_field_files(fields, path.parent / files.window.fields)
        except MicrodlError as error:
            reasons.append(str(error).rstrip("."))
    saved = f"Saved {' and '.join(written)}"
    if reasons:
        return (
            f"{saved}. All of it comes back in this window; the command line cannot run it: "
            f"{'; '.join(reasons)}."
        )
    fit_or_apply = ["apply", files.window.dictionary] if files.window.apply_dictionary else ["fit"]
    command = ["napari-microdl", *fit_or_apply, files.window.fields, "--config", path.name]
    return (
        f"{saved}. In that folder the command line runs the same: {shlex.join(command)} --out DIR"
    )


def _write_labels(row: FieldFiles, folder: Path, number: int) -> FieldFiles:
    # Imported when it is needed: napari starts faster.
    import tifffile

    folder.mkdir(exist_ok=True)
    labels = np.asarray(row.field.labels)
    # The smallest type that holds them, which every program reads.
    lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
    labels = labels.astype(np.promote_types(*map(np.min_scalar_type, (lowest, highest))))
    digest = hashlib.sha256(np.ascontiguousarray(labels).data).hexdigest()[:8]
    file = folder / f"{number + 1:04d}-{digest}.tif"
    with write_whole(file) as part:
        tifffile.imwrite(part, labels)
    return dataclasses.replace(row, labels=file)


def _remove_labels(folder: Path, besides: set[Path | None]) -> None:
    """Remove labels that were written for settings which are no longer there."""
    for file in folder.glob("*.tif") if folder.is_dir() else ():
        if _LABELS_FILE.fullmatch(file.name) and file not in besides:
            file.unlink()


@dataclass(frozen=True, eq=False)
class OpenedWindow:
    """What was read from files, to be put in place.

    There is a window where the window wrote the file.
    """

    config: PipelineConfig
    window: SavedWindow | None = None
    table: pd.DataFrame | None = None
    dictionary: ConceptDictionary | None = None
    dictionary_file: Path | None = None


def open_window(path: str | Path) -> OpenedWindow:
    """Read settings and what lies beside them; `MicrodlError` if a file does not fit."""
    path = Path(path)
    config, values = read_config(path), read_window(path)
    if values is None:
        return OpenedWindow(config)
    try:
        window = SavedWindow(**values)
    except MicrodlError as error:
        raise MicrodlError(f"In the entry window of the settings '{path.name}': {error}") from error
    table = None
    if window.fields:
        table = read_table(path.parent / window.fields)
        if column(table, "field") is None:
            raise MicrodlError(
                f"'{window.fields}' has no column Metadata_Field, by which the images of the "
                "settings find their row; save the settings again."
            )
    dictionary, file = None, None
    if window.apply_dictionary and window.dictionary:
        # Imported when it is needed: napari starts faster.
        from napari_microdl.concepts.dictionary import ConceptDictionary

        file = path.parent / window.dictionary
        try:
            dictionary = ConceptDictionary.load(file)
        except OSError as error:
            raise MicrodlError(
                f"The settings apply the dictionary '{window.dictionary}', which cannot be read "
                f"({error.strerror}); put it there."
            ) from error
    return OpenedWindow(config, window, table, dictionary, file)


def restore_window(plan: Plan, layers: Iterable[Any], found: OpenedWindow) -> str:
    """Put settings in place, and everything else for the images that are open under their names.

    Returns a sentence about images that were not found, empty where all were. Raises `MicrodlError`
    if the settings do not fit the images; nothing has changed then.
    """
    window = found.window
    if window is None:
        plan.take_config(found.config)
        return ""
    layers = list(layers)
    before = plan.images.layout, list(plan.images.rows)
    channels = [copy.copy(channel) for channel in plan.images.channels]
    choices = dict(plan.model.channel_choices)
    try:
        notes = _put_images(plan, layers, window, found.table)
        plan.take_config(found.config)
    except MicrodlError:
        plan.images.rows = before[1]
        plan.images.set_layout(before[0], layers)
        plan.images.channels, plan.model.channel_choices = channels, choices
        plan.images.changed.emit()
        raise
    plan.model.channel_choices = dict(window.model_channels)
    # Where a model names its channels, the settings do not tell which ones are ticked.
    ticked = {channel.name: channel.use for channel in window.channels}
    for number, channel in enumerate(plan.images.channels):
        if channel.name in ticked:
            plan.images.edit_channel(number, use=ticked[channel.name])
    if found.dictionary is not None:
        plan.settings.set_dictionary(found.dictionary, found.dictionary_file)
    plan.settings.choose(cell_source=window.cell_source, apply_dictionary=window.apply_dictionary)
    return notes


def _put_images(
    plan: Plan, layers: list[Any], window: SavedWindow, table: pd.DataFrame | None
) -> str:
    axis: Any = window.channel_axis
    plan.images.set_layout(Layout(window.arrangement, axis, window.split_rgb), layers)
    by_channel = window.arrangement == "channels"
    labels = {layer.name: layer for layer in layers if isinstance(layer, Labels)}
    saved = {(image.layer, image.plane): image for image in window.images}
    rows = _rows_by_field(table)
    changes: dict[int, dict[str, Any]] = {}
    strangers: list[str] = []
    without: set[str] = set()
    labelled: set[str] = set()
    for number, row in enumerate(plan.images.rows):
        layer = row.layer()
        image = None if layer is None else saved.pop((layer.name, row.index), None)
        if image is None:
            strangers.append(row.name)
            continue
        known = image.known.model_dump(exclude_unset=True)
        # A row that somebody took out of the table takes no part here, either.
        use = image.use and (bool(known) or image.field in rows)
        if table is not None and image.field in rows:
            known = describe_row(table, rows[image.field])
        change = {"use": use, "group" if by_channel else "name": image.field, **known}
        if by_channel:
            change["channel"] = image.channel
        if not (by_channel and image.field in labelled):
            # The cells of a field are those of its first channel.
            labelled.add(image.field)
            chosen = labels.get(image.labels)
            if image.labels and chosen is None:
                without.add(image.labels)
            change["labels"] = None if chosen is None else weakref.ref(chosen)
        changes[number] = change
    plan.images.fill(changes)
    if not by_channel and len(plan.images.channels) == len(window.channels):
        for number, channel in enumerate(window.channels):
            plan.images.edit_channel(number, name=channel.name)
    notes = []
    if strangers and window.images:
        notes.append(f"The settings know nothing of {listed(strangers)}, left as it was.")
    if saved:
        missing = dict.fromkeys(image.layer for image in saved.values())
        notes.append(f"Not open, and so not in place: {listed(list(missing))}.")
    if without:
        notes.append(f"The Labels layer {listed(sorted(without))} is not open.")
    return " ".join(notes)


def _rows_by_field(table: pd.DataFrame | None) -> dict[str, int]:
    """Row of every field that a table names."""
    name = None if table is None else column(table, "field")
    if table is None or name is None:
        return {}
    return {str(field): row for row, field in enumerate(table[name])}
