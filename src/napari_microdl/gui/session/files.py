"""The plan of a window to files that the command line takes, and back."""

from __future__ import annotations

import copy
import dataclasses
import shlex
import weakref
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from napari.layers import Labels, Layer

from napari_microdl.core.config import PipelineConfig, read_config, read_window, write_config
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.text import listed
from napari_microdl.fields.field_files import (
    FieldFiles,
    check_field_files,
    seen_from,
    write_field_files,
)
from napari_microdl.fields.metadata import column, describe_row, read_table
from napari_microdl.gui.session.layers import ImageRow, Layout, build_fields
from napari_microdl.gui.session.plan import Plan
from napari_microdl.gui.session.saved_window import SavedChannel, SavedImage, SavedWindow

if TYPE_CHECKING:
    from napari_microdl.concepts.dictionary import ConceptDictionary

_KNOWN = ("condition", "is_control", "well", "site", "plate")


@dataclass
class _Step:
    stage: str
    message: str
    done: int = 0
    total: int = 1


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


def take_down(plan: Plan, path: str | Path) -> WindowFiles:
    """Take down what a window would run.

    Parameters
    ----------
    plan : Plan
        Images, settings and choices.
    path : str or Path
        Where the settings are to be written.

    Returns
    -------
    WindowFiles
    """
    path = Path(path)
    config, rows = plan.run_config(), plan.used_rows()
    by_channel = plan.layout.arrangement == "channels"
    with_labels = config.units.kind == "cell" and plan.cell_source == "labels"
    fields: list[FieldFiles] = []
    drawn: list[bool] = []
    reasons: list[str] = []
    groups: dict[Any, list[ImageRow]] = {}
    for number, row in enumerate(rows):
        groups.setdefault(row.group if by_channel else number, []).append(row)
    try:
        names = [channel.name for channel in plan.channels]
        built, _ = build_fields(rows, plan.layout, names, with_labels=with_labels)
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
            fields.append(
                FieldFiles(
                    found,
                    known if len(known) == len(files) else (),
                    labels if isinstance(labels, Path) else None,
                )
            )
        reasons += [f"{listed(images)} {reason}" for reason, images in without.items()]
    if not rows:
        reasons.append("no image takes part")
    table = f"{path.stem}.fields.csv" if fields else ""
    in_table = {row.field.name for row in fields}
    dictionary = ""
    if plan.apply_dictionary and plan.dictionary_file is None:
        reasons.append("the dictionary that is applied was not saved to a file")
    elif plan.apply_dictionary and plan.dictionary_file is not None:
        dictionary = seen_from(path.parent, plan.dictionary_file).as_posix()
    window = SavedWindow(
        fields=table,
        **dataclasses.asdict(plan.layout),
        cell_source=plan.cell_source,
        apply_dictionary=plan.apply_dictionary,
        dictionary=dictionary,
        channels=tuple(SavedChannel(c.name, c.use) for c in plan.channels),
        model_channels=dict(plan.model.channel_choices),
        images=tuple(
            _saved(row, by_channel, in_table) for row in plan.rows if row.layer() is not None
        ),
    )
    return WindowFiles(config, window, fields, drawn, reasons)


def _saved(row: ImageRow, by_channel: bool, in_table: set[str]) -> SavedImage:
    name = row.group if by_channel else row.name
    layer, labels = row.layer(), row.labels_layer()
    assert layer is not None
    return SavedImage(
        layer=layer.name,
        plane=row.index,
        use=row.use,
        field=name,
        channel=row.channel if by_channel else "",
        labels="" if labels is None else labels.name,
        known={} if name in in_table else {known: getattr(row, known) for known in _KNOWN},
    )


def _file_of(plan: Plan, layer: Layer | None, index: tuple[int | None, ...]) -> Path | str:
    """File that a layer was opened from, or why there is none that could be read instead."""
    place = None if layer is None else layer.source.path
    # A place on the web is no file.
    if place is None or not Path(place).is_file():
        return "was not opened from a file that the command line reads"
    if any(i is not None for i in index):
        return "is a plane of a stack, of which the command line reads whole files"
    if plan.contents(layer)[1]:
        return "was changed since it was opened"
    return Path(place).absolute()


def write_steps(files: WindowFiles, path: str | Path) -> Generator[_Step, None, str]:
    """Write settings, table and labels, and look whether the command line reads the same fields.

    Parameters
    ----------
    files : WindowFiles
        From `take_down`.
    path : str or Path
        File of the settings; the table and the labels lie beside it.

    Yields
    ------
    step
        Before each part that may take a while.

    Returns
    -------
    str
        What was written, and how the command line takes it or why it cannot.

    Raises
    ------
    MicrodlError
        If a file cannot be written.
    """
    path = Path(path)
    yield _Step("save", "Saving settings")
    fields, reasons = list(files.fields), list(files.reasons)
    written = [path.name]
    try:
        write_config(files.config, path, files.window.to_dict())
        if fields:
            folder = path.with_suffix(".labels")
            for number, row in enumerate(fields):
                if files.drawn[number]:
                    yield _Step("save", "Saving labels", number, len(fields))
                    fields[number] = _write_labels(row, folder, number)
            if any(files.drawn):
                written.append(folder.name)
            write_field_files(fields, path.parent / files.window.fields)
            written.insert(1, files.window.fields)
    except OSError as error:
        raise MicrodlError(f"The settings could not be saved: {error}") from error
    if not reasons:
        yield _Step("save", "Looking whether the files give the same fields")
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
    words = ["napari-microdl", *fit_or_apply, files.window.fields, "--config", path.name]
    return f"{saved}. In that folder the command line runs the same: {shlex.join(words)} --out DIR"


def _write_labels(row: FieldFiles, folder: Path, number: int) -> FieldFiles:
    # Imported when it is needed: napari starts faster.
    import tifffile

    folder.mkdir(exist_ok=True)
    file = folder / f"{number + 1:04d}.tif"
    labels = np.asarray(row.field.labels)
    # The smallest type that holds them, which every program reads.
    tifffile.imwrite(file, labels.astype(np.min_scalar_type(int(labels.max(initial=0)))))
    return dataclasses.replace(row, labels=file)


@dataclass(frozen=True, eq=False)
class Restored:
    """What was read from files, to be put in place.

    Parameters
    ----------
    config : PipelineConfig
        Settings.
    window : SavedWindow or None
        What the window alone needs, where the window wrote the file.
    table : DataFrame or None
        Table of the fields.
    dictionary : ConceptDictionary or None
        The one to apply.
    dictionary_file : Path or None
        Where it is from.
    """

    config: PipelineConfig
    window: SavedWindow | None = None
    table: pd.DataFrame | None = None
    dictionary: ConceptDictionary | None = None
    dictionary_file: Path | None = None


def read_back(path: str | Path) -> Restored:
    """Read settings and what lies beside them.

    Parameters
    ----------
    path : str or Path
        File of the settings.

    Returns
    -------
    Restored

    Raises
    ------
    MicrodlError
        If one of the files cannot be read or does not fit.
    """
    path = Path(path)
    config, values = read_config(path), read_window(path)
    if values is None:
        return Restored(config)
    window = SavedWindow.from_dict(values, path.name)
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
    return Restored(config, window, table, dictionary, file)


def put_back(plan: Plan, layers: Iterable[Any], found: Restored) -> str:
    """Put settings in place, and everything else for the images that are open under their names.

    Parameters
    ----------
    plan : Plan
        Images, settings and choices.
    layers : iterable of Layer
        Layers of the viewer.
    found : Restored
        From `read_back`.

    Returns
    -------
    str
        A sentence about images that were not found; empty where all were.

    Raises
    ------
    MicrodlError
        If the settings do not fit the images; nothing has changed then.
    """
    window = found.window
    if window is None:
        plan.take_config(found.config)
        return ""
    layers = list(layers)
    before = plan.layout, [copy.copy(row) for row in plan.rows]
    channels = [copy.copy(channel) for channel in plan.channels]
    choices = dict(plan.model.channel_choices)
    try:
        said = _put_images(plan, layers, window, found.table)
        plan.take_config(found.config)
    except MicrodlError:
        plan.rows = before[1]
        plan.set_layout(before[0], layers)
        plan.channels, plan.model.channel_choices = channels, choices
        plan.rows_changed.emit()
        raise
    plan.model.channel_choices = dict(window.model_channels)
    # Where a model names its channels, the settings do not tell which ones are ticked.
    ticked = {channel.name: channel.use for channel in window.channels}
    for number, channel in enumerate(plan.channels):
        if channel.name in ticked:
            plan.edit_channel(number, use=ticked[channel.name])
    if found.dictionary is not None:
        plan.set_dictionary(found.dictionary, found.dictionary_file)
    plan.choose(cell_source=window.cell_source, apply_dictionary=window.apply_dictionary)
    return said


def _put_images(
    plan: Plan, layers: list[Any], window: SavedWindow, table: pd.DataFrame | None
) -> str:
    axis: Any = window.channel_axis
    plan.set_layout(Layout(window.arrangement, axis, window.split_rgb), layers)
    by_channel = window.arrangement == "channels"
    labels = {layer.name: layer for layer in layers if isinstance(layer, Labels)}
    saved = {(image.layer, image.plane): image for image in window.images}
    rows = _rows_by_field(table)
    changes: dict[int, dict[str, Any]] = {}
    strangers: list[str] = []
    without: set[str] = set()
    labelled: set[str] = set()
    for number, row in enumerate(plan.rows):
        layer = row.layer()
        image = None if layer is None else saved.pop((layer.name, row.index), None)
        if image is None:
            strangers.append(row.name)
            continue
        known = dict(image.known)
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
    plan.fill(changes)
    if not by_channel and len(plan.channels) == len(window.channels):
        for number, channel in enumerate(window.channels):
            plan.edit_channel(number, name=channel.name)
    said = []
    if strangers and window.images:
        said.append(f"The settings know nothing of {listed(strangers)}, left as it was.")
    if saved:
        missing = dict.fromkeys(image.layer for image in saved.values())
        said.append(f"Not open, and so not in place: {listed(list(missing))}.")
    if without:
        said.append(f"The Labels layer {listed(sorted(without))} is not open.")
    return " ".join(said)


def _rows_by_field(table: pd.DataFrame | None) -> dict[str, int]:
    """Row of every field that a table names."""
    name = None if table is None else column(table, "field")
    if table is None or name is None:
        return {}
    return {str(field): row for row, field in enumerate(table[name])}
