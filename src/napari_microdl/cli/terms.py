"""What is said of the weights of a model before they are read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from napari_microdl.concepts.dictionary import ConceptDictionary
    from napari_microdl.core.config import PipelineConfig


def terms(config: PipelineConfig, dictionary: ConceptDictionary | None) -> str:
    """What the weights of the model may be used for, and where they come from."""
    from napari_microdl.models.base import terms_of
    from napari_microdl.models.registry import model_spec, weights_pin
    from napari_microdl.pipeline.inputs import config_of

    if dictionary is None:
        spec = model_spec(config.model.name, joint=config.model.joint)
    else:
        spec, config = dictionary.model, config_of(dictionary, config)
    return f"Model: {spec.title}. {terms_of(spec)} {weights_pin(config.model.name)}".rstrip()
