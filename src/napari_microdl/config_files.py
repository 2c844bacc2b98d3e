"""Settings as a file that the window and the command line share."""

from __future__ import annotations

import json
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from napari_microdl.config import PipelineConfig
from napari_microdl.errors import MicrodlError
from napari_microdl.segmentation import SegmentationConfig


def write_config(config: PipelineConfig, path: str | Path) -> None:
    """Write all settings as JSON.

    Parameters
    ----------
    config : PipelineConfig
        Settings.
    path : str or Path
        File; one that is there is replaced.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    text = json.dumps(config.to_dict(), indent=2)
    Path(path).write_text(text + "\n", encoding="utf-8")


def read_config(path: str | Path) -> PipelineConfig:
    """Read settings.

    Parameters
    ----------
    path : str or Path
        JSON file as `write_config` writes it; settings that are left out keep their default.

    Returns
    -------
    PipelineConfig

    Raises
    ------
    MicrodlError
        If the file cannot be read, or a setting is not known or of the wrong kind.
    """
    path = Path(path)
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
    _check_kinds(PipelineConfig, values, "")
    segmentation = values.get("segmentation")
    if segmentation is not None:
        _check_kinds(SegmentationConfig, segmentation, "segmentation.")
    return PipelineConfig.from_dict(values)


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
