"""What a person chose in napari's Preferences, page MicroDL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from napari_microdl.core.errors import MicrodlError

if TYPE_CHECKING:
    from napari_microdl.tokens import TokenCache

PLUGIN = "napari-microdl"


@dataclass(frozen=True)
class Preferences:
    """Choices that hold for every viewer; those of the manifest where nothing was chosen.

    Parameters
    ----------
    device : {"auto", "cpu", "cuda", "mps"}
        Where models run.
    default_unit : {"cell", "crop", "token"}
        What a new session takes as one sample.
    cache_gigabytes : float
        How large the store of tokens may grow, in units of 10^9 bytes.
    cache_folder : Path or None
        Where it lies, as it was typed; None for the usual place of the operating system.
    """

    device: str = "auto"
    default_unit: str = "cell"
    cache_gigabytes: float = 4.0
    cache_folder: Path | None = None


def plugin_preferences() -> Any:
    """What the manifest calls runs; None before napari 0.9, which has no such Preferences."""
    try:
        from napari.settings import get_plugin_settings
    except ImportError:
        return None
    return get_plugin_settings(PLUGIN).runs


def read_preferences() -> Preferences:
    """Read the Preferences; the defaults before napari 0.9."""
    chosen = plugin_preferences()
    if chosen is None:
        return Preferences()
    folder = chosen.cache_folder.strip()
    return Preferences(
        device=chosen.device,
        default_unit=chosen.default_unit,
        cache_gigabytes=float(chosen.cache_gigabytes),
        cache_folder=Path(folder) if folder else None,
    )


def token_cache() -> TokenCache:
    """The store of tokens as the Preferences have it."""
    from napari_microdl.tokens import TokenCache

    chosen = read_preferences()
    folder = chosen.cache_folder
    if folder is not None:
        try:
            folder = folder.expanduser()
        except RuntimeError:
            raise MicrodlError(
                f"Nobody on this machine has the home folder of '{folder}'; choose another folder "
                "of the token store in Preferences > MicroDL."
            ) from None
    return TokenCache(folder, int(chosen.cache_gigabytes * 1e9))
