"""A plate run as a task of Fractal: parameters and results are JSON.

A non-parallel task, as https://fractal-analytics-platform.github.io/tasks_spec describes them:
images of OME-Zarr come by ``zarr_urls``, and updates of their list go back.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from napari_microdl.core.config import PipelineConfig, Settings
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.ome_zarr import plate_of
from napari_microdl.pipeline.plate.engine import Place
from napari_microdl.pipeline.plate.export import ended_run
from napari_microdl.pipeline.plate.folder import sole_driver
from napari_microdl.pipeline.plate.labels import export_labels
from napari_microdl.pipeline.plate.listing import list_fields
from napari_microdl.pipeline.plate.run import MOST_SAMPLES, PlateOptions, run_plate


class PlateTask(Settings):
    """Concepts in the cells of OME-Zarr images, by dictionary learning on model tokens."""

    zarr_urls: Annotated[
        list[str], Field(min_length=1, description="Folders of the images, in their plates.")
    ]
    zarr_dir: Annotated[str, Field(description="Folder that holds the plates.")]
    out: Annotated[
        str, Field(description="Folder of the run; below zarr_dir, unless it is a whole path.")
    ] = "concepts"
    until: Annotated[
        Literal["vectors", "dictionary", "profiles"],
        Field(description="What the run ends with; another one in the folder goes on from there."),
    ] = "profiles"
    dictionary: Annotated[
        str | None, Field(description="A dictionary to apply; one is fitted where not given.")
    ] = None
    controls: Annotated[
        str | None,
        Field(description="Which fields are controls, such as Metadata_condition == 'DMSO'."),
    ] = None
    metadata: Annotated[
        str | None, Field(description="Plate map or table of conditions of the wells.")
    ] = None
    most_samples: Annotated[
        int | None,
        Field(ge=2, description="Cells that the dictionary is learned from at most; null for all."),
    ] = MOST_SAMPLES
    held_back: Annotated[
        float | None,
        Field(ge=0, le=0.9, description="Share of control wells that the whitening does not see."),
    ] = None
    workers: Annotated[
        int | None, Field(ge=1, description="Processes, a thread each; else one in all.")
    ] = None
    labels: Annotated[
        bool, Field(description="Write labels with values of concepts into the images.")
    ] = False
    settings: Annotated[
        PipelineConfig, Field(description="The settings, as the window saves them.")
    ] = PipelineConfig()


def run_task(task: PlateTask) -> dict[str, Any]:
    """Run a plate, or go on with it.

    Parameters
    ----------
    task : PlateTask
        What to do.

    Returns
    -------
    dict
        ``image_list_updates``: the images that were read, with the type ``concepts``.

    Raises
    ------
    MicrodlError
        As `napari_microdl.pipeline.plate.run.run_plate`, or if one of the images is not there.
    """
    images = {Path(url).resolve(): url for url in task.zarr_urls}
    plates = {plate_of(path) or path for path in images}
    place = plates.pop() if len(plates) == 1 else Path(os.path.commonpath(plates))
    listing = list_fields(place, task.controls, task.settings.images, task.metadata, only=images)
    files = {Path(str(item.source.files[0])) for item in listing.fields}
    if lacking := [url for path, url in images.items() if path not in files]:
        raise MicrodlError(f"{len(lacking)} images are not in '{place}', such as '{lacking[0]}'.")
    if task.labels and task.until != "profiles":
        raise MicrodlError(
            "Labels hold the concepts of all cells; set until to 'profiles', or labels to false."
        )
    out = Path(task.zarr_dir, task.out)
    summary = run_plate(
        listing,
        out,
        task.settings,
        dictionary=None if task.dictionary is None else Path(task.dictionary),
        place=Place(workers=task.workers),
        options=PlateOptions(task.most_samples, held_back=task.held_back, until=task.until),
    )
    if task.labels:
        with sole_driver(out):
            # A task that is given again goes on where it was.
            export_labels(ended_run(out), keep=True)
    left_out = {f["name"] for kind in ("not_imaged", "unreadable") for f in summary[kind]}
    done = {Path(str(i.source.files[0])) for i in listing.fields if i.source.name not in left_out}
    updates = [
        {"zarr_url": url, "types": {"concepts": True}}
        for path, url in images.items()
        if path in done
    ]
    return {"image_list_updates": updates}
