"""The five steps of the workflow dock, one file each."""

from napari_microdl.gui.steps.cells import CellsStep
from napari_microdl.gui.steps.dictionary import DictionaryStep
from napari_microdl.gui.steps.images import ImagesStep
from napari_microdl.gui.steps.model import ModelStep
from napari_microdl.gui.steps.whitening import WhiteningStep

__all__ = ["CellsStep", "DictionaryStep", "ImagesStep", "ModelStep", "WhiteningStep"]
