"""Fields to grids of patch tokens: tiles of native size with a halo, stitched into one grid."""

from napari_microdl.embedding.backing_off import BackingOff
from napari_microdl.embedding.cache import TokenCache
from napari_microdl.embedding.estimate import EmbeddingEstimate, estimate_embedding
from napari_microdl.embedding.grid import TokenGrid, TokenStorage
from napari_microdl.embedding.images import ScaledImage
from napari_microdl.embedding.plan import ChannelTokens, TilePlan, check_wants
from napari_microdl.embedding.stitching import embed, embed_field, embed_layers

__all__ = [
    "BackingOff",
    "ChannelTokens",
    "EmbeddingEstimate",
    "ScaledImage",
    "TilePlan",
    "TokenCache",
    "TokenGrid",
    "TokenStorage",
    "check_wants",
    "embed",
    "embed_field",
    "embed_layers",
    "estimate_embedding",
]
