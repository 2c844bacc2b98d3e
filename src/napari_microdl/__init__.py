"""Biological concepts in microscopy images: dictionary learning on foundation-model tokens.

The names below are loaded on first use, so that importing the package, as napari does when it looks
for plugins, stays free of torch, scikit-learn and Qt.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_microdl.activations import ConceptActivations
    from napari_microdl.config import PipelineConfig
    from napari_microdl.dictionary import ConceptDictionary
    from napari_microdl.embedding import embed
    from napari_microdl.errors import MicrodlError
    from napari_microdl.fields import Field
    from napari_microdl.icfl import ICFL
    from napari_microdl.pipeline import iter_pipeline, run_pipeline
    from napari_microdl.topk_sae import TopKSAE
    from napari_microdl.whitening import ControlWhitening

__version__ = "0.1.0"

__all__ = [
    "ICFL",
    "ConceptActivations",
    "ConceptDictionary",
    "ControlWhitening",
    "Field",
    "MicrodlError",
    "PipelineConfig",
    "TopKSAE",
    "__version__",
    "embed",
    "iter_pipeline",
    "run_pipeline",
]

_MODULE_OF = {
    "ConceptActivations": "activations",
    "ConceptDictionary": "dictionary",
    "ControlWhitening": "whitening",
    "Field": "fields",
    "ICFL": "icfl",
    "MicrodlError": "errors",
    "PipelineConfig": "config",
    "TopKSAE": "topk_sae",
    "embed": "embedding",
    "iter_pipeline": "pipeline",
    "run_pipeline": "pipeline",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
