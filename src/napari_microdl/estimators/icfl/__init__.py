"""Iterative Codebook Feature Learning: the dictionary whose atoms are the concepts."""

from napari_microdl.estimators.icfl.estimator import ATOM_GROUPS, ICFL
from napari_microdl.estimators.icfl.plan import FewSamplesWarning, FitRecord, default_size

__all__ = [
    "ATOM_GROUPS",
    "ICFL",
    "FewSamplesWarning",
    "FitRecord",
    "default_size",
]
