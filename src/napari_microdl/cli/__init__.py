"""The command ``napari-microdl``."""

from napari_microdl.cli.command import main

__all__ = ["main"]
