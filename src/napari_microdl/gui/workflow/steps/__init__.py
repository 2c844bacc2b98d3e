"""The five steps of the workflow dock, one file each."""

from napari_microdl.gui.workflow.steps.cells import CellsStep
from napari_microdl.gui.workflow.steps.dictionary import DictionaryStep
from napari_microdl.gui.workflow.steps.images import ImagesStep
from napari_microdl.gui.workflow.steps.model import ModelStep
from napari_microdl.gui.workflow.steps.whitening import WhiteningStep

__all__ = ["CellsStep", "DictionaryStep", "ImagesStep", "ModelStep", "WhiteningStep"]
