"""How large a pixel is: read from files, and compared between a dictionary and new images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tifffile

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.text import counted
from napari_microdl.fields.named_files import ImageFile
from napari_microdl.fields.remote import opened

# Sizes that differ by a factor of more than this are of another magnification.
MOST_DIFFERENCE = 1.25
# Sizes that are rounded differently are the same.
_ROUNDED = 1.01
_MICROMETRES = {
    **dict.fromkeys(("m", "meter"), 1e6),
    **dict.fromkeys(("cm", "centimeter"), 1e4),
    **dict.fromkeys(("mm", "millimeter"), 1e3),
    **dict.fromkeys(("um", "micron", "microns", "micrometer", "micrometre"), 1.0),
    **dict.fromkeys(("nm", "nanometer"), 1e-3),
}


def micrometres(size: float, unit: str) -> float | None:
    """A length in micrometres; None of a unit that is no length, or a size that is none."""
    # There are two letters for micro, and ImageJ writes one of them as an escape.
    plain = unit.strip().replace("\\u00B5", "u").replace("\u00b5", "u").replace("\u03bc", "u")
    factor = _MICROMETRES.get(plain.lower())
    if factor is None or not 0 < size < float("inf"):
        return None
    return size * factor


def read_pixel_size(path: ImageFile) -> float | None:
    """Micrometres a pixel of a TIFF file, where OME-XML or ImageJ wrote them.

    The resolution of other files is that of a printer or a screen, and is not believed; a
    description that cannot be read tells none.
    """
    if path.suffix.lower() not in {".tif", ".tiff"}:
        return None
    try:
        return _described(path)
    except MicrodlError:
        raise
    except Exception:
        return None


def _described(path: ImageFile) -> float | None:
    with opened(path) as source, tifffile.TiffFile(source) as file:
        if file.ome_metadata:
            return _of_ome(file.ome_metadata)
        if file.imagej_metadata and (tag := file.pages.first.tags.get("XResolution")):
            pixels, units = tag.value
            unit = str(file.imagej_metadata.get("unit", ""))
            return micrometres(units / pixels, unit) if pixels else None
    return None


def _of_ome(text: str) -> float | None:
    described: Any = tifffile.xml2dict(text)
    try:
        image = described["OME"]["Image"]
        pixels = (image[0] if isinstance(image, (list, tuple)) else image)["Pixels"]
        size = float(pixels["PhysicalSizeX"])
    except (KeyError, TypeError, ValueError):
        return None
    return micrometres(size, str(pixels.get("PhysicalSizeXUnit", "um")))


def common_pixel_size(sizes: Sequence[float | None]) -> float | None:
    """Micrometres a pixel that all images have; None where one is not known, or they differ."""
    known = [size for size in sizes if size is not None]
    if not known or len(known) < len(sizes) or max(known) > _ROUNDED * min(known):
        return None
    return known[0]


def pixel_size_note(made_with: float | None, sizes: Sequence[float | None]) -> str:
    """What is to be said where a dictionary is applied to images of another pixel size.

    Parameters
    ----------
    made_with : float, optional
        Micrometres a pixel of the images that the dictionary was learned on.
    sizes : sequence of float or None
        Micrometres a pixel of the new images.

    Returns
    -------
    str
        A sentence; empty where nothing differs by more than `MOST_DIFFERENCE`, or is known.
    """
    if made_with is None:
        return ""
    known = [size for size in sizes if size is not None]
    ratios = {size: made_with / size for size in known}
    unlike = [s for s in known if not 1 / MOST_DIFFERENCE <= ratios[s] <= MOST_DIFFERENCE]
    if not unlike:
        return ""
    # Of several, the one that differs most.
    size = max(unlike, key=lambda s: max(ratios[s], 1 / ratios[s]))
    of_all = f"of {counted(len(sizes), 'image')} {len(unlike)} " if len(sizes) > 1 else "the image "
    has = "have" if len(unlike) > 1 else "has"
    return (
        f"The dictionary was made at {made_with:.3g} µm a pixel, but {of_all}{has} {size:.3g}: the "
        f"model sees cells {ratios[size]:.2g} times as large as it knows them, so activations do "
        f"not compare. Resize such images by {size / made_with:.2g} first."
    )
