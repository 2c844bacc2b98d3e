"""The error that the package raises when its input cannot be used."""

from __future__ import annotations


class MicrodlError(ValueError):
    """Input that cannot be used.

    The message is one sentence that says what is wrong and what to do; the object that raised it
    is left as it was before the call.
    """
