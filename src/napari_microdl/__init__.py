"""Biological concepts in microscopy images: dictionary learning on foundation-model tokens.

The names below are loaded on first use, so that importing the package, as napari does when it looks
for plugins, stays free of torch, scikit-learn and Qt.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_microdl.concepts.activations import ConceptActivations
    from napari_microdl.concepts.dictionary import ConceptDictionary
    from napari_microdl.core.config import PipelineConfig
    from napari_microdl.core.errors import MicrodlError
    from napari_microdl.estimators.icfl import ICFL
    from napari_microdl.estimators.topk_sae import TopKSAE
    from napari_microdl.estimators.whitening import ControlWhitening
    from napari_microdl.fields.field import Field
    from napari_microdl.pipeline.run import iter_pipeline, run_pipeline
    from napari_microdl.tokens import embed

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
    "ConceptActivations": "concepts.activations",
    "ConceptDictionary": "concepts.dictionary",
    "ControlWhitening": "estimators.whitening",
    "Field": "fields.field",
    "ICFL": "estimators.icfl",
    "MicrodlError": "core.errors",
    "PipelineConfig": "core.config",
    "TopKSAE": "estimators.topk_sae",
    "embed": "tokens",
    "iter_pipeline": "pipeline.run",
    "run_pipeline": "pipeline.run",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
