"""Iterative Codebook Feature Learning: the dictionary whose atoms are the concepts."""

from napari_microdl.icfl.estimator import ATOM_GROUPS, ICFL
from napari_microdl.icfl.plan import Init, Update, default_size
from napari_microdl.icfl.records import FewSamplesWarning, FitRecord

__all__ = [
    "ATOM_GROUPS",
    "ICFL",
    "FewSamplesWarning",
    "FitRecord",
    "Init",
    "Update",
    "default_size",
]
