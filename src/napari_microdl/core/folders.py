"""Where this package keeps what can be computed again."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_cache_path

ENVIRONMENT_VARIABLE = "NAPARI_MICRODL_CACHE"


def cache_folder() -> Path:
    """Folder named in ``NAPARI_MICRODL_CACHE``, or the system's for caches; may not exist."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    return Path(named).expanduser() if named else user_cache_path("napari-microdl")
