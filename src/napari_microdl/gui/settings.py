"""What a person chose in napari's Preferences, under Plugins > MicroDL."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_microdl.embedding import TokenCache

PLUGIN = "napari-microdl"


@dataclass(frozen=True)
class Settings:
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
        Where it lies; None for the usual place of the operating system.
    """

    device: str = "auto"
    default_unit: str = "cell"
    cache_gigabytes: float = 4.0
    cache_folder: Path | None = None


def read_settings() -> Settings:
    """Read the Preferences.

    Returns
    -------
    Settings
        The defaults before napari 0.9, which has no Preferences of plugins.
    """
    try:
        from napari.settings import get_plugin_settings
    except ImportError:
        return Settings()
    chosen = get_plugin_settings(PLUGIN).runs
    folder = chosen.cache_folder.strip()
    return Settings(
        device=chosen.device,
        default_unit=chosen.default_unit,
        cache_gigabytes=float(chosen.cache_gigabytes),
        cache_folder=Path(folder).expanduser() if folder else None,
    )


def token_cache() -> TokenCache:
    """The store of tokens as the Preferences have it.

    Returns
    -------
    TokenCache
    """
    from napari_microdl.embedding import TokenCache

    chosen = read_settings()
    return TokenCache(chosen.cache_folder, int(chosen.cache_gigabytes * 1e9))
