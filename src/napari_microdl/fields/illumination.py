"""Illumination functions: what intensities are divided by to undo uneven light."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import refusing, require_file
from napari_microdl.core.text import counted, listed
from napari_microdl.fields.field import Field


def read_illumination(path: Path) -> NDArray[np.floating[Any]]:
    """Read an illumination function.

    Returns
    -------
    ndarray of shape (height, width)
        Positive numbers; from the file when they are asked for.

    Raises
    ------
    MicrodlError
        If the file is no such array, or holds zeros, negative numbers or none.
    """
    with refusing(
        f"The illumination function '{path}' cannot be read ({{reason}}); correct the table, or "
        "switch images.illumination off in the settings."
    ):
        require_file(path)
        changed = path.stat().st_mtime_ns
    # A plate has few functions for many fields: each is looked through once.
    _check(path, changed)
    return _load(path)


def illumination_shape(path: Path) -> tuple[int, int]:
    """Height and width of an illumination function; refused as `read_illumination` does."""
    height, width = read_illumination(path).shape
    return height, width


def _load(path: Path) -> NDArray[np.floating[Any]]:
    with refusing(f"The illumination function '{path.name}' cannot be read: {{reason}}."):
        # Archives, which np.load opens too, are no arrays.
        function = np.lib.format.open_memmap(path, mode="r")
    array: NDArray[Any] = np.squeeze(function)
    if array.ndim != 2 or array.dtype.kind not in "fiu":
        raise MicrodlError(
            f"The illumination function '{path.name}' is {function.dtype} of the shape "
            f"{function.shape}; one number a pixel is needed."
        )
    return array


@lru_cache(maxsize=1024)
def _check(path: Path, changed: int) -> None:
    function = _load(path)
    if not np.isfinite(function).all():
        wrong = "numbers that are none (NaN or infinite)"
    elif not (function > 0).all():
        wrong = "zeros or negative numbers"
    else:
        return
    raise MicrodlError(
        f"The illumination function '{path.name}' holds {wrong}, by which nothing can be divided; "
        "compute it anew, or switch images.illumination off in the settings."
    )


def corrected(plane: NDArray[Any], function: Path) -> NDArray[np.float32]:
    """Intensities divided by an illumination function, of the shape of the plane."""
    quotient: NDArray[Any] = np.divide(plane, read_illumination(function))
    return quotient.astype(np.float32)


def illumination_note(fields: Sequence[Field]) -> str:
    """What a report says of fields that are corrected; empty where none is."""
    having = [field.corrected for field in fields if field.corrected]
    if not having:
        return ""
    names = listed(list(dict.fromkeys(name for names in having for name in names)), most=10)
    some = "all fields" if len(having) == len(fields) else f"{len(having)} of {len(fields)} fields"
    many = counted(len(fields), "field") if len(fields) == 1 else some
    return (
        f"Uneven light was corrected in {many}: intensities of {names} are those of the files "
        "divided by the illumination function."
    )
