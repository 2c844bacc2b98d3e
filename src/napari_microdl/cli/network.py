"""Whether weights may be fetched: only where somebody has asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from napari_microdl.core.errors import MicrodlError


@contextmanager
def fetching(allowed: bool) -> Iterator[None]:
    """Let weights be fetched from the hub inside, or none.

    Raises
    ------
    MicrodlError
        If weights are not here that would have to be fetched.
    """
    if allowed:
        yield
        return
    from napari_microdl.models.weights.hub import NotHereError, offline

    with offline():
        try:
            yield
        except NotHereError as error:
            raise MicrodlError(
                f"{error.repository} is not in the cache of the hub, and nothing is fetched "
                "unasked; add --download, or give a file or folder that you have instead."
            ) from error
