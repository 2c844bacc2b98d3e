"""The table of the fields that a folder or plate makes up."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from napari_microdl.cli.following import followed
from napari_microdl.cli.options import Metadata, SettingsFile, settings_of
from napari_microdl.core.errors import MicrodlError


def manifest(
    folder: Annotated[
        Path,
        Argument(
            help="Folder with image files, in folders or not; an OME-Zarr plate, an index of "
            "Harmony, or a table of files."
        ),
    ],
    *,
    out: Annotated[Path, Option(metavar="CSV", help="Where the table is written to.")],
    pattern: Annotated[
        str | None,
        Option(
            help="How files are named, such as {well}_{site}_{channel}; with slashes also their "
            "folders. Else the best of those that microscopes use."
        ),
    ] = None,
    plane: Annotated[
        str,
        Option(help="Which plane of a stack of files stands for it: middle, all or a number."),
    ] = "middle",
    metadata: Metadata = None,
    config_file: SettingsFile = None,
    check: Annotated[
        bool,
        Option("--check", help="Also open the header of every file, and list every fault."),
    ] = False,
) -> None:
    """Read plate, well, site, channel, plane, time and condition of all fields.

    Written is a table that fit, apply and evaluate take, a row a field; conditions may be filled
    in there. Printed is how files were understood, and what was left out.
    """
    from napari_microdl.core.csv_text import csv_safe
    from napari_microdl.core.files import write_whole
    from napari_microdl.fields.file_patterns import own_pattern
    from napari_microdl.fields.sources import check_source, find_source, left_out_sentences

    images = settings_of(config_file).images
    with followed():
        found = find_source(
            folder,
            images,
            metadata=metadata,
            pattern=None if pattern is None else own_pattern(pattern),
            plane=plane,
            # What was written before is no source for what is written now.
            passed_over=[out],
        )
        if check:
            found = check_source(found).found
    for note in found.notes:
        print(note)
    for left in found.left_out:
        print(f"Left out: {left.path}: {left.reason}")
    if not found.fields:
        raise MicrodlError(
            f"No fields were found in '{folder}'; choose a folder of TIFF, PNG or JPEG files, or "
            "another pattern."
        )
    with write_whole(out) as part:
        csv_safe(found.table(out.parent)).to_csv(part, index=False)
    controls = sum(field.is_control for field in found.fields)
    print(f"{len(found.fields)} fields, {controls} of them called like controls, are in {out}.")
    for sentence in left_out_sentences(found):
        print(sentence)
