"""The five steps of the workflow dock, one file each."""

from napari_microdl.gui.workflow.steps.cells import CellsStep
from napari_microdl.gui.workflow.steps.dictionary import DictionaryStep
from napari_microdl.gui.workflow.steps.fields import FieldsStep
from napari_microdl.gui.workflow.steps.tokens import TokensStep
from napari_microdl.gui.workflow.steps.whitening import WhiteningStep

__all__ = ["CellsStep", "DictionaryStep", "FieldsStep", "TokensStep", "WhiteningStep"]
