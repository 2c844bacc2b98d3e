"""How published checkpoints name their tensors, without torch."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class KeyMap:
    """Names of a checkpoint's tensors and what the network calls them.

    Parameters
    ----------
    name : str
        Name of the layout; the cache of converted weights is told apart by it.
    renames : tuple of (pattern, replacement)
        Regular expressions of whole names, and the name of the piece that such a tensor is.
        `napari_microdl.models.weights.assembly` says how pieces make up the tensors of the network.
    ignored : tuple of str
        Regular expressions of tensors that tokens do not depend on: heads, decoders, the last norm.
    prefixes : tuple of str
        Beginnings that may stand before every name.
    """

    name: str
    renames: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]
    prefixes: tuple[str, ...] = ()

    def piece(self, name: str) -> str | None:
        """Name of the piece that a tensor is, "" where it is not needed, or None if unknown."""
        stripped = True
        while stripped:
            stripped = False
            for prefix in self.prefixes:
                if name.startswith(prefix):
                    name, stripped = name.removeprefix(prefix), True
        for pattern, replacement in self.renames:
            if found := re.fullmatch(pattern, name):
                return found.expand(replacement)
        if any(re.fullmatch(pattern, name) for pattern in self.ignored):
            return ""
        return None


_WB = r"(weight|bias)"
_TIMM_BLOCK = r"blocks\.(?:\d+\.)?(\d+)\."
_HF_BLOCK = r"(?:encoder\.layer|encoder\.layers|layers|layer)\.(\d+)\."

# timm, DINO, DINOv2 and what was made from their code. Large DINOv2 models keep their blocks in
# chunks; the number within the chunks counts through.
TIMM = KeyMap(
    name="timm",
    renames=(
        (rf"patch_embed\.proj\.{_WB}", r"patch_embed.\1"),
        (r"cls_token", r"cls_token"),
        (r"register_tokens|storage_tokens|reg_token", r"registers"),
        (r"pos_embed", r"position_table"),
        (r"patch_embed\.channel_embed(?:\.weight)?", r"channel_embed"),
        (rf"{_TIMM_BLOCK}(norm[12]|attn\.qkv|attn\.proj)\.{_WB}", r"blocks.\1.\2.\3"),
        (rf"{_TIMM_BLOCK}attn\.qkv\.bias_mask", r"blocks.\1.attn.qkv.bias_mask"),
        (rf"{_TIMM_BLOCK}mlp\.fc1\.{_WB}", r"blocks.\1.mlp.0.\2"),
        (rf"{_TIMM_BLOCK}mlp\.fc2\.{_WB}", r"blocks.\1.mlp.2.\2"),
        (rf"{_TIMM_BLOCK}mlp\.(w12|w1|w2|w3)\.{_WB}", r"blocks.\1.mlp.\2.\3"),
        (rf"{_TIMM_BLOCK}(ls[12])\.gamma", r"blocks.\1.\2.gamma"),
    ),
    ignored=(
        r"mask_token",
        r"(norm|fc_norm|head|cls_norm|local_cls_norm)\..*",
        r"(dino_head|ibot_head|cls_reducer|rope_embed|decoder.*|head\w*|mlp)\..*",
    ),
    prefixes=("module.", "backbone."),
)

# Folders that transformers writes: the names of the published models, and those of release 5.
HUGGING_FACE = KeyMap(
    name="huggingface",
    renames=(
        (rf"embeddings\.patch_embeddings(?:\.projection)?\.{_WB}", r"patch_embed.\1"),
        (r"embeddings\.cls_token", r"cls_token"),
        (r"embeddings\.register_tokens", r"registers"),
        (r"embeddings\.position_embeddings", r"position_table"),
        (rf"{_HF_BLOCK}(?:norm1|layernorm_before)\.{_WB}", r"blocks.\1.norm1.\2"),
        (rf"{_HF_BLOCK}(?:norm2|layernorm_after)\.{_WB}", r"blocks.\1.norm2.\2"),
        (
            rf"{_HF_BLOCK}attention\.(?:attention\.)?(q|k|v)(?:uery|ey|alue|_proj)\.{_WB}",
            r"blocks.\1.attn.\2.\3",
        ),
        (rf"{_HF_BLOCK}attention\.(?:output\.dense|o_proj)\.{_WB}", r"blocks.\1.attn.proj.\2"),
        (rf"{_HF_BLOCK}(?:intermediate\.dense|mlp\.fc1)\.{_WB}", r"blocks.\1.mlp.0.\2"),
        (rf"{_HF_BLOCK}(?:output\.dense|mlp\.fc2)\.{_WB}", r"blocks.\1.mlp.2.\2"),
        (rf"{_HF_BLOCK}mlp\.weights_in\.{_WB}", r"blocks.\1.mlp.w12.\2"),
        (rf"{_HF_BLOCK}mlp\.weights_out\.{_WB}", r"blocks.\1.mlp.w3.\2"),
        (rf"{_HF_BLOCK}mlp\.(gate|up|down)_proj\.{_WB}", r"blocks.\1.mlp.\2.\3"),
        (rf"{_HF_BLOCK}layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    ),
    ignored=(
        r"embeddings\.mask_token",
        r"(norm|layernorm|pooler|classifier|decoder|pool_model|rope_embeddings)\..*",
    ),
    prefixes=("vit.", "dinov2.", "dinov2_with_registers.", "dinov3_vit.", "model."),
)

# SubCell's files hold the same names behind "encoder.", beside a pooling network.
SUBCELL = KeyMap(
    name="subcell",
    renames=tuple((rf"encoder\.(?:{old})", new) for old, new in HUGGING_FACE.renames),
    ignored=(
        *(rf"encoder\.(?:{old})" for old in HUGGING_FACE.ignored),
        r"(pool_model|decoder|classifiers?|mae\w*|ssl_model)\..*",
    ),
)

# Recursion's masked autoencoders: the encoder stands among a decoder and losses.
PARALLEL = KeyMap(
    name="parallel",
    renames=tuple(
        (rf"encoder\.vit_backbone\.{old}", new)
        for old, new in (
            (rf"patch_embed\.proj\.{_WB}", r"patch_embed.\1"),
            (r"cls_token", r"cls_token"),
            (r"pos_embed", r"position_table"),
            (rf"blocks\.(\d+)\.in_norm\.{_WB}", r"blocks.\1.norm.\2"),
            (r"blocks\.(\d+)\.in_proj\.weight", r"blocks.\1.in_proj.weight"),
            (r"blocks\.(\d+)\.mlp_bias", r"blocks.\1.mlp_bias"),
            (rf"blocks\.(\d+)\.([qk])_norm\.{_WB}", r"blocks.\1.\2_norm.\3"),
            (rf"blocks\.(\d+)\.(attn|mlp)_out_proj\.{_WB}", r"blocks.\1.\2_out.\3"),
            (r"blocks\.(\d+)\.ls\.gamma", r"blocks.\1.ls.gamma"),
        )
    ),
    ignored=(
        r"encoder\.vit_backbone\.(norm|fc_norm|head)\..*",
        r"(decoder|encoder_decoder_proj|decoder_pred|input_norm|loss|fourier_loss)\b.*",
    ),
    prefixes=("module.",),
)

# The package's own names.
MICRODL = KeyMap(
    name="microdl",
    renames=(
        (r"(patch_embed\.(?:weight|bias)|cls_token|registers|positions|channel_embed)", r"\1"),
        (r"(blocks\.\d+\..+)", r"\1"),
    ),
    ignored=(r"(encoder_norm|decoder.*|mask_token|head)\..*",),
    prefixes=("encoder.",),
)

LAYOUTS = {layout.name: layout for layout in (TIMM, HUGGING_FACE, SUBCELL, PARALLEL, MICRODL)}
