"""Puts the tensors of a checkpoint together to those of the network, and says what does not fit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from napari_microdl.models.vit.config import VitConfig
from napari_microdl.models.vit.network import VisionTransformer
from napari_microdl.models.weights.keys import KeyMap


class DoesNotFitError(Exception):
    """Weights do not fit a model; the message says why, as the end of a sentence."""


def empty_network(config: VitConfig) -> VisionTransformer:
    """A network without memory for its weights; ``load_state_dict(assign=True)`` fills it."""
    with torch.device("meta"):
        return VisionTransformer(config)


def needed_names(names: Iterable[str], keys: KeyMap) -> dict[str, str]:
    """Piece for the name of each tensor of a checkpoint that is needed.

    Raises
    ------
    DoesNotFitError
        If nothing is needed, or some tensors are neither known nor known to be superfluous.
    """
    names = list(names)
    pieces = {name: keys.piece(name) for name in names}
    needed = {name: piece for name, piece in pieces.items() if piece}
    if not any(piece.startswith("blocks.") for piece in needed.values()):
        example = f", such as '{names[0]}'," if names else ""
        raise DoesNotFitError(f"none of its {len(names)} tensors{example} belongs to that model")
    if unknown := [name for name, piece in pieces.items() if piece is None]:
        raise DoesNotFitError(
            f"it holds {counted(unknown)} that the model does not have, such as '{unknown[0]}'"
        )
    return needed


def counted(names: list[str]) -> str:
    """How many tensors there are, for a sentence."""
    return "one tensor" if len(names) == 1 else f"{len(names)} tensors"


def _positions(table: Tensor, config: VitConfig) -> tuple[Tensor | None, Tensor]:
    """Code of the class token, if there is one, and those of the patches."""
    if config.position_grid is None:
        raise DoesNotFitError("it holds a table of positions, which that model does not have")
    rows, columns = config.position_grid
    patches, table = rows * columns, table.reshape(-1, table.shape[-1])
    extra = len(table) % patches if patches > 1 else len(table) - 1
    copies = (len(table) - extra) // patches
    if extra > 1 or copies < 1 or (copies > 1 and config.tokenizer == "joint"):
        raise DoesNotFitError(
            f"its positions are {len(table)}, not {patches} or {patches + 1} of them"
        )
    # OpenPhenom stores the table once for each of eleven channels; all are the same.
    table_of_class, blocks = table[:extra], table[extra:].reshape(copies, patches, -1)
    if not blocks.is_meta and not (blocks == blocks[0]).all():
        raise DoesNotFitError("its positions differ from channel to channel")
    return (table_of_class if extra else None), blocks[0].clone()


def _assemble_block(parts: dict[str, Tensor], dim: int) -> dict[str, Tensor]:
    """Fused projections from separate ones, and missing biases as zeros."""
    done = dict(parts)
    if "attn.q.weight" in done:
        fused = [done.pop(f"attn.{x}.weight", None) for x in "qkv"]
        biases = [done.pop(f"attn.{x}.bias", None) for x in "qkv"]
        if any(weight is None for weight in fused):
            raise DoesNotFitError("queries, keys or values are missing in a block")
        done["attn.qkv.weight"] = torch.cat([w for w in fused if w is not None])
        zeros = torch.zeros(dim, device=done["attn.qkv.weight"].device)
        done["attn.qkv.bias"] = torch.cat([zeros if b is None else b for b in biases])
    if "attn.qkv.weight" in done and "attn.qkv.bias" not in done:
        done["attn.qkv.bias"] = torch.zeros(3 * dim, device=done["attn.qkv.weight"].device)
    mask = done.pop("attn.qkv.bias_mask", None)
    if mask is not None:
        done["attn.qkv.bias"] = torch.where(mask != 0, done["attn.qkv.bias"], 0.0)
    gated = "mlp.gate.weight" in done
    for kind in ("weight", "bias"):
        pairs = (("mlp.gate", "mlp.up"), ("mlp.w1", "mlp.w2"))
        for first, second in pairs:
            if f"{first}.{kind}" in done and f"{second}.{kind}" in done:
                halves = [done.pop(f"{first}.{kind}"), done.pop(f"{second}.{kind}")]
                done[f"mlp.w12.{kind}"] = torch.cat(halves)
        for old, new in (("up", "0"), ("down", "w3" if gated else "2")):
            if f"mlp.{old}.{kind}" in done:
                done[f"mlp.{new}.{kind}"] = done.pop(f"mlp.{old}.{kind}")
    return done


def _state(pieces: Mapping[str, Tensor], config: VitConfig) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    blocks: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for piece, tensor in pieces.items():
        if piece.startswith("blocks."):
            _, number, rest = piece.split(".", 2)
            blocks[number][rest] = tensor
        else:
            state[piece] = tensor
    for number, parts in blocks.items():
        for rest, tensor in _assemble_block(parts, config.dim).items():
            state[f"blocks.{number}.{rest}"] = tensor
    if "registers" in state and not config.n_registers and not state["registers"].numel():
        del state["registers"]
    weight = state.get("patch_embed.weight")
    if weight is not None and weight.ndim == 5 and weight.shape[2] == 1:
        state["patch_embed.weight"] = weight.squeeze(2)
    embed = state.get("channel_embed")
    if embed is not None and embed.ndim == 5:
        state["channel_embed"] = embed.reshape(embed.shape[1], -1).T.contiguous()
    if (table := state.pop("position_table", None)) is not None:
        of_class, state["positions"] = _positions(table, config)
        # The class token's position is a constant, so that it is added once, here.
        if of_class is not None and "cls_token" in state:
            state["cls_token"] = state["cls_token"] + of_class
    return state


def assemble(pieces: Mapping[str, Tensor], config: VitConfig) -> dict[str, Tensor]:
    """State of the network from the tensors of a checkpoint, by piece.

    They are float32, or on the device "meta" to try whether they fit.

    Raises
    ------
    DoesNotFitError
        If tensors are missing, left over or have another shape.
    """
    try:
        state = _state(pieces, config)
    except (RuntimeError, IndexError) as error:
        raise DoesNotFitError("the shapes of its tensors do not go together") from error
    _compare(state, config)
    return state


def _compare(state: Mapping[str, Tensor], config: VitConfig) -> None:
    expected = {k: tuple(v.shape) for k, v in empty_network(config).state_dict().items()}
    if missing := [name for name in expected if name not in state]:
        raise DoesNotFitError(f"{counted(missing)} missing, such as '{missing[0]}'")
    if extra := [name for name in state if name not in expected]:
        raise DoesNotFitError(
            f"it holds {counted(extra)} that the model does not have, such as '{extra[0]}'"
        )
    for name, shape in expected.items():
        if tuple(state[name].shape) != shape:
            raise DoesNotFitError(
                f"'{name}' has the shape {tuple(state[name].shape)}, where the model has {shape}"
            )
