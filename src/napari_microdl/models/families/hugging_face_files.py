"""Settings beside the weights in folders of transformers, without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.vit.config import Preprocessing

# A processor of its own, or that of images beside the one of texts.
PROCESSOR_NAMES = ("preprocessor_config.json", "processor_config.json")
_LARGEST_BYTE = 255


def read_json(path: Path) -> dict[str, Any]:
    """Settings from a JSON file.

    Raises
    ------
    MicrodlError
        If it cannot be read or holds anything else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MicrodlError(f"'{path.name}' cannot be read as JSON; fetch it again.") from error
    if not isinstance(content, dict):
        raise MicrodlError(f"'{path.name}' does not hold settings; fetch it again.")
    return content


def square_edge(value: Any, what: str) -> int:
    """One edge of a square, in pixels, which may be written twice.

    Raises
    ------
    MicrodlError
        If it is none.
    """
    if isinstance(value, list) and len(set(value)) == 1:
        value = value[0]
    if not isinstance(value, int) or value < 1:
        raise MicrodlError(f"The {what} '{value}' is no edge of a square; only squares are read.")
    return value


def read_preprocessing(
    folder: Path, channels: int, mean: Sequence[float], std: Sequence[float]
) -> Preprocessing:
    """What the image processor of a folder does to intensities.

    Parameters
    ----------
    folder : Path
        ``preprocessor_config.json``, or ``processor_config.json`` with an ``image_processor``; it
        may lack both.
    channels : int
        Channels that the network reads at once.
    mean, std : sequence of float
        What the family takes where the folder does not say it, for intensities of 0 to 1.

    Returns
    -------
    Preprocessing
        For tiles of about 0 to 1, which stand for bytes divided by 255. A processor that divides
        by something else is met by other means and deviations. One that does not divide at all is
        taken to want 0 to 1, as images that were divided before, unless a mean is above 1: then
        bytes are meant.

    Raises
    ------
    MicrodlError
        If a file cannot be read, or does not hold a mean and a deviation for every channel.
    """
    settings: dict[str, Any] = {}
    for name in PROCESSOR_NAMES:
        if (folder / name).is_file():
            content = read_json(folder / name)
            settings = content.get("image_processor", content)
            break
    try:
        settings = {name: value for name, value in settings.items() if value is not None}
        normalised = settings.get("do_normalize") is not False
        means = settings.get("image_mean", mean) if normalised else (0.0,)
        stds = settings.get("image_std", std) if normalised else (1.0,)
        means, stds = (tuple(float(x) for x in values) for values in (means, stds))
        factor = _LARGEST_BYTE * float(settings.get("rescale_factor", 1 / _LARGEST_BYTE))
    except (AttributeError, TypeError, ValueError) as error:
        raise MicrodlError(
            f"The image processor of '{folder.name}' cannot be read; fetch its files again."
        ) from error
    if settings.get("do_rescale") is False:
        factor = _LARGEST_BYTE if max(means, default=0) > 1 else 1
    if not factor > 0:
        raise MicrodlError(
            f"The image processor of '{folder.name}' scales by {factor / _LARGEST_BYTE:g}, which "
            "leaves no image; correct it."
        )
    for kind, values in (("means", means), ("deviations", stds)):
        if len(values) not in (1, channels):
            raise MicrodlError(
                f"'{folder.name}' reads {channels} channels, but has {len(values)} {kind}; write "
                f"one for each channel in its {PROCESSOR_NAMES[0]}."
            )
    if math.isclose(factor, 1):
        return Preprocessing(mean=means, std=stds)
    return Preprocessing(mean=tuple(m / factor for m in means), std=tuple(s / factor for s in stds))
