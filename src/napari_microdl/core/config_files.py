"""Settings as a file that the window and the command line share."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from napari_microdl.core.config import PipelineConfig, SegmentationConfig
from napari_microdl.core.errors import MicrodlError

# Beside the settings stands what the window alone needs: its images and how they make up fields.
_WINDOW = "window"


def write_config(
    config: PipelineConfig, path: str | Path, window: dict[str, Any] | None = None
) -> None:
    """Write all settings as JSON.

    Parameters
    ----------
    config : PipelineConfig
        Settings.
    path : str or Path
        File; one that is there is replaced.
    window : dict, optional
        What the window alone needs, see `read_window`.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    values = config.to_dict() if window is None else {**config.to_dict(), _WINDOW: window}
    text = json.dumps(values, indent=2)
    Path(path).write_text(text + "\n", encoding="utf-8")


def read_config(path: str | Path) -> PipelineConfig:
    """Read settings.

    Parameters
    ----------
    path : str or Path
        JSON file as `write_config` writes it; settings that are left out keep their default, and
        what the window alone needs is passed over.

    Returns
    -------
    PipelineConfig

    Raises
    ------
    MicrodlError
        If the file cannot be read, or a setting is not known or of the wrong kind.
    """
    values = _read_values(Path(path))
    values.pop(_WINDOW, None)
    _check_kinds(PipelineConfig, values, "")
    segmentation = values.get("segmentation")
    if segmentation is not None:
        _check_kinds(SegmentationConfig, segmentation, "segmentation.")
    return PipelineConfig.from_dict(values)


def read_window(path: str | Path) -> dict[str, Any] | None:
    """Read what the window alone needs, such as its images and the table of their fields.

    Parameters
    ----------
    path : str or Path
        JSON file as `write_config` writes it.

    Returns
    -------
    dict or None
        As it stands in the file, unchecked; None where the file was not written by the window.

    Raises
    ------
    MicrodlError
        If the file cannot be read.
    """
    found: dict[str, Any] | None = _read_values(Path(path)).get(_WINDOW)
    return found


def _read_values(path: Path) -> dict[str, Any]:
    """The object in a file, its window an object too."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MicrodlError(
            f"The settings '{path.name}' cannot be read ({error.strerror}); check that the file "
            "exists."
        ) from error
    except ValueError as error:
        raise MicrodlError(
            f"The settings '{path.name}' are not JSON ({error}); correct or save them again."
        ) from error
    if not isinstance(values, dict):
        raise MicrodlError(
            f"The settings '{path.name}' are a {type(values).__name__}; a JSON object with one "
            "entry a setting is needed."
        )
    if not isinstance(values.get(_WINDOW, {}), dict):
        raise MicrodlError(
            f"The entry {_WINDOW} of the settings '{path.name}' is {json.dumps(values[_WINDOW])} "
            "but must be an object."
        )
    return values


def _check_kinds(record: type, values: dict[str, Any], prefix: str) -> None:
    hints = get_type_hints(record)
    for name, value in values.items():
        if name in hints and not _fits(value, hints[name]):
            raise MicrodlError(
                f"The setting {prefix}{name} is {json.dumps(value)} but must be "
                f"{_kind(hints[name])}."
            )


def _fits(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if origin is Literal:
        # Which words are known is the record's to say.
        return isinstance(value, str)
    if origin is tuple:
        return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value)
    if hint is SegmentationConfig:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _kind(hint: Any) -> str:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(part) for part in get_args(hint)))
    if origin is tuple:
        return "a list of texts"
    return {
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        type(None): "null",
        SegmentationConfig: "an object",
    }.get(hint, "a text")
