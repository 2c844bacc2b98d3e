"""Which files make up a field, and which are left out: descriptions, nothing of which is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from napari_microdl.fields.field import FieldInfo
from napari_microdl.fields.remote import RemoteFile

ImageFile = Path | RemoteFile
# Named but not there; there but of no use; there but no part of any field.
Kind = Literal["not imaged", "unreadable", "no field"]


@dataclass(frozen=True, kw_only=True)
class NamedFiles(FieldInfo):
    """The files of a field, none of them opened.

    Parameters
    ----------
    name, condition, is_control, well, site, plate
        As in `FieldInfo`.
    files : tuple of Path or RemoteFile
        One a channel, in their order, or one for all, or the folder of an OME-Zarr image.
    channel_names : tuple of str
        Empty where nobody has named the channels of a file.
    labels : Path or RemoteFile, optional
        File with the labels of the cells, or folder of those of an OME-Zarr image.
    pixel_size : float, optional
        Micrometres a pixel, where a table says so; else the files may.
    z, time : str
        Which plane and which time point, where the names of the files say so; of an OME-Zarr image
        with several, which of them, counted from 1.
    illumination : tuple of (Path or None)
        Function by which the intensities of each channel are divided, in their order; empty where
        there are none.
    level : int
        Which of the resolutions of an OME-Zarr image, 0 for the full one.
    """

    files: tuple[ImageFile, ...]
    channel_names: tuple[str, ...] = ()
    labels: ImageFile | None = None
    pixel_size: float | None = None
    z: str = ""
    time: str = ""
    illumination: tuple[Path | None, ...] = ()
    level: int = 0


@dataclass(frozen=True)
class LeftOut:
    """A file or field that is not used, and why.

    Parameters
    ----------
    path : Path or RemoteFile
        The file, or the table or index that names it.
    reason : str
        Why it is left out.
    kind : {"not imaged", "unreadable", "no field"}
        Named but not there; there but of no use; there but no part of any field.
    field : str
        Name of the field that is missed, where it is known.
    """

    path: ImageFile
    reason: str
    kind: Kind = "no field"
    field: str = ""
