"""Iterative Codebook Feature Learning: the dictionary whose atoms are the concepts."""

from napari_microdl.estimators.icfl.estimator import ATOM_GROUPS, ICFL
from napari_microdl.estimators.icfl.plan import default_size
from napari_microdl.estimators.icfl.records import FewSamplesWarning, FitRecord

__all__ = [
    "ATOM_GROUPS",
    "ICFL",
    "FewSamplesWarning",
    "FitRecord",
    "default_size",
]
