"""Files of images: read as channels, and as fields whose pixels come when they are needed."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import guarding, read_bytes
from napari_microdl.fields.illumination import corrected, illumination_shape
from napari_microdl.fields.named_files import ImageFile
from napari_microdl.fields.remote import opened

# Empty images become a thousandth by what TIFF files are compressed with; small ones even less.
_MOST_RATIO, _ALWAYS = 1_100, 256 * 2**20
# How Pillow calls channels of which the type is known without reading the pixels.
_TYPES = {"L": "uint8", "LA": "uint8", "RGB": "uint8", "RGBA": "uint8", "I;16": "uint16"}


class FilePlanes:
    """Channels of a field in files, behind the part of an array's interface that `Field` reads.

    Parameters
    ----------
    parts : list of (Path or RemoteFile, int or None)
        File of every channel and which of its channels, None where it holds one alone.
    shape : tuple of int
        Channels, height and width.
    dtype : dtype
        That of the first file; of corrected intensities it is float32.
    illumination : sequence of (Path or None)
        Function by which every channel is divided.
    """

    def __init__(
        self,
        parts: list[tuple[ImageFile, int | None]],
        shape: tuple[int, int, int],
        dtype: Any,
        illumination: Sequence[Path | None] = (),
    ) -> None:
        self._parts = parts
        self._illumination = tuple(illumination) if any(illumination) else ()
        self.shape = shape
        self.dtype = np.dtype(np.float32 if self._illumination else dtype)
        self._held: tuple[ImageFile, NDArray[Any]] | None = None

    def __getitem__(self, key: Any) -> NDArray[Any]:
        key = key if isinstance(key, tuple) else (key,)
        channel, rest = key[0], key[1:]
        if isinstance(channel, slice):
            wanted = range(*channel.indices(self.shape[0]))
            return np.stack([self._plane(c)[rest] for c in wanted])
        return np.asarray(self._plane(int(channel))[rest])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self[:], dtype)

    def _plane(self, channel: int) -> NDArray[Any]:
        path, index = self._parts[channel]
        # The last file stays, because its other tiles and channels are asked for next.
        # Several threads may ask at once.
        held = self._held
        if held is None or held[0] != path:
            self._held = held = (path, self._read(path))
        image = held[1]
        plane: NDArray[Any] = image[0 if index is None else index]
        if plane.shape != self.shape[1:]:
            raise MicrodlError(
                f"'{path.name}' is {plane.shape} pixels but the other channels of its field are "
                f"{self.shape[1:]}; correct the row of the table."
            )
        return plane

    def _read(self, path: ImageFile) -> NDArray[Any]:
        image = read_channels(path)
        if not self._illumination or image.shape[1:] != self.shape[1:]:
            return image
        result = image.astype(np.float32)
        for (file, index), function in zip(self._parts, self._illumination, strict=True):
            if file == path and function is not None:
                plane = 0 if index is None else index
                result[plane] = corrected(image[plane], function)
        return result


class OnlyPlane:
    """The only channel of a lazy image as a matrix."""

    def __init__(self, image: Any) -> None:
        self._image = image
        self.shape = image.shape[1:]
        self.dtype = image.dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        return np.asarray(self._image[(0, *(key if isinstance(key, tuple) else (key,)))])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return np.asarray(self._image[0], dtype)


def is_tiff(path: ImageFile) -> bool:
    """Whether a file is called a TIFF file."""
    return path.suffix.lower() in {".tif", ".tiff"}


def read_channels(path: ImageFile) -> NDArray[Any]:
    """Read an image file.

    Returns
    -------
    ndarray of shape (channels, height, width)
        Axes of length one are left out.

    Raises
    ------
    MicrodlError
        If the file is no image, or holds planes that its own description calls z or time.
    """
    with _as_image(path):
        if is_tiff(path):
            with opened(path) as source, tifffile.TiffFile(source) as file:
                axes, sizes = _axes(path, file.series[0])
                _check_ratio(file.series[0], file.filehandle.size)
                image = file.series[0].asarray()
                return np.asarray(image.transpose(axes).reshape(sizes))
        content = read_bytes(path) if isinstance(path, Path) else path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            # The numbers of a palette are no intensities.
            pixels = np.asarray(image.convert("RGB") if image.mode == "P" else image)
    if pixels.ndim == 3 and image.mode == "P" and (pixels == pixels[..., :1]).all():
        pixels = pixels[..., 0]
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def channels_shape(
    path: ImageFile, *, whole: bool = False
) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    """Channels, height, width and type, without reading the pixels where the header says it.

    Parameters
    ----------
    path : Path or RemoteFile
        Image.
    whole : bool, default=False
        Whether to make sure that the pixels of a TIFF file lie within the file, which ends before
        where it was not copied to its end.

    Raises
    ------
    MicrodlError
        If the file is no image, or not whole.
    """
    if not is_tiff(path):
        return _picture_shape(path)
    with _as_image(path), opened(path) as source, tifffile.TiffFile(source) as file:
        series = file.series[0]
        if whole:
            _check_end(path, series, file.filehandle.size)
        return _axes(path, series)[1], np.dtype(series.dtype)


def _as_image(path: ImageFile) -> AbstractContextManager[None]:
    return guarding(f"'{path.name}' cannot be read as an image: {{reason}}.")


def _check_ratio(series: Any, there: int) -> None:
    """Refuse pixels that no compression makes so few bytes of."""
    wanted = math.prod(map(int, series.shape)) * np.dtype(series.dtype).itemsize
    if wanted > _ALWAYS + _MOST_RATIO * there:
        raise ValueError(f"{wanted:,} bytes of pixels are said to lie in {there:,} bytes")


def check_whole(path: ImageFile) -> None:
    """Make sure that the pixels of a TIFF file lie within it; other files are taken as they are.

    Raises
    ------
    MicrodlError
        If the file ends too soon.
    """
    if isinstance(path, Path) and is_tiff(path) and path.is_file():
        channels_shape(path, whole=True)


def _check_end(path: ImageFile, series: Any, there: int) -> None:
    ends = [
        offset + count
        for page in series.pages
        if page is not None
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False)
    ]
    if max(ends, default=0) > there:
        raise MicrodlError(
            f"'{path.name}' ends after {there:,} of {max(ends):,} bytes; copy it once more."
        )


def _picture_shape(path: ImageFile) -> tuple[tuple[int, int, int], np.dtype[Any]]:
    with _as_image(path), opened(path) as source, Image.open(source) as picture:
        if picture.mode in _TYPES:
            size = len(picture.getbands()), picture.height, picture.width
            return size, np.dtype(_TYPES[picture.mode])
    image = read_channels(path)
    return (image.shape[0], image.shape[1], image.shape[2]), image.dtype


def check_illumination(name: str, function: Path, shape: tuple[int, int]) -> None:
    """Make sure that an illumination function fits the images of a channel.

    Raises
    ------
    MicrodlError
        If it differs in size, or is none.
    """
    there = illumination_shape(function)
    if there != shape:
        raise MicrodlError(
            f"The illumination function '{function.name}' is {there} pixels but the images of "
            f"channel '{name}' are {shape}; name the one that was made for them."
        )


def _axes(path: ImageFile, series: Any) -> tuple[list[int], tuple[int, int, int]]:
    """Order of the axes of a TIFF file with the channels first, and sizes with them as one."""
    axes, shape = str(series.axes), tuple(int(n) for n in series.shape)
    # Of axes without a name, colours lie behind each pixel, as in photographs.
    if axes in {"QYX", "IYX"} and shape[2] in (3, 4) and shape[0] > 4:
        axes = "YXS"
    planes = [i for i, n in enumerate(shape) if n > 1 and axes[i] not in "YX"]
    moving = [i for i in planes if axes[i] in "ZT"]
    if moving:
        what = {"Z": "z planes", "T": "time points"}[axes[moving[0]]]
        raise MicrodlError(
            f"'{path.name}' holds {shape[moving[0]]} {what}, which are no channels; save those "
            "that are wanted as images of their own."
        )
    if len(planes) > 1 or not {"Y", "X"} <= set(axes):
        raise MicrodlError(
            f"'{path.name}' has the shape {shape}; give images with the axes (y, x) or "
            "(channel, y, x)."
        )
    order = sorted(range(len(shape)), key=lambda i: (axes[i] in "YX", axes[i] == "X"))
    height, width = (shape[i] for i in order[-2:])
    return order, (int(np.prod(shape)) // (height * width), height, width)
