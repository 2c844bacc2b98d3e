"""One vision transformer in plain torch, read at any layer."""

from napari_microdl.models.architecture import VitConfig
from napari_microdl.models.vit.blocks import Block
from napari_microdl.models.vit.network import VisionTransformer
from napari_microdl.models.vit.positions import sincos_positions

__all__ = ["Block", "VisionTransformer", "VitConfig", "sincos_positions"]
