"""Fields to grids of patch tokens: tiles of native size with a halo, stitched into one grid."""

from napari_microdl.tokens.cache import TokenCache
from napari_microdl.tokens.embedding import embed, embed_field, embed_layers
from napari_microdl.tokens.estimate import EmbeddingEstimate, estimate_embedding
from napari_microdl.tokens.grid import TokenGrid, TokenStorage, mean_token, order_by_content
from napari_microdl.tokens.out_of_memory import MemoryLimited
from napari_microdl.tokens.tiles import ScaledImage, TilePlan, check_wants

__all__ = [
    "EmbeddingEstimate",
    "MemoryLimited",
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
    "mean_token",
    "order_by_content",
]
