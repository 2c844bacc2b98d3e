"""A second implementation of the published architectures: numpy, float64, one head at a time.

Written from the papers and read with the published names of the weights, so that it shares
neither code nor names with the package.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erf

Arrays = dict[str, np.ndarray]
Read = dict[tuple[int, str], np.ndarray]


def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def mix(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Attention of one head."""
    score = q @ k.T / math.sqrt(q.shape[1])
    share = np.exp(score - score.max(1, keepdims=True))
    return share / share.sum(1, keepdims=True) @ v


def cubic(distance: float) -> float:
    """Keys' kernel with a = -0.75."""
    a, d = -0.75, abs(distance)
    if d <= 1:
        return ((a + 2) * d - (a + 3)) * d * d + 1
    if d < 2:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return 0.0


def resample(n_in: int, n_out: int, factor: float) -> np.ndarray:
    """(n_out, n_in) weights of bicubic resampling, pixel centres at halves, edges repeated."""
    weights = np.zeros((n_out, n_in))
    for i in range(n_out):
        at = (i + 0.5) / factor - 0.5
        for j in range(math.floor(at) - 1, math.floor(at) + 3):
            weights[i, min(max(j, 0), n_in - 1)] += cubic(at - j)
    return weights


def resized(
    table: np.ndarray, grid: tuple[int, int], offset: float, channels: int = 1
) -> np.ndarray:
    """Square table of positions, (patches, dim), on another grid, or with several channels."""
    edge = round(math.sqrt(len(table)))
    # ChannelViT's code counts the patches of all channels here, so that its own grid goes through
    # the interpolation as well unless there is a single channel.
    if channels * grid[0] * grid[1] == len(table) and grid[0] == grid[1]:
        return table
    rows, columns = (resample(edge, n, (n + offset) / edge) for n in grid)
    square = table.reshape(edge, edge, -1)
    return np.einsum("ai,bj,ijd->abd", rows, columns, square).reshape(grid[0] * grid[1], -1)


def patches(image: np.ndarray, p: int) -> np.ndarray:
    """(c, h, w) to (grid_h * grid_w, c * p * p)."""
    c, h, w = image.shape
    return np.array(
        [
            image[:, i : i + p, j : j + p].reshape(c * p * p)
            for i in range(0, h, p)
            for j in range(0, w, p)
        ]
    )


def rotation(grid: tuple[int, int], head: int) -> np.ndarray:
    """Angle of each patch and pair of dimensions as DINOv3 turns them, (patches, head / 2)."""
    angles = []
    for i in range(grid[0]):
        for j in range(grid[1]):
            y, x = 2 * (i + 0.5) / grid[0] - 1, 2 * (j + 0.5) / grid[1] - 1
            periods = [100 ** (4 * k / head) for k in range(head // 4)]
            angles.append([2 * math.pi * at / period for at in (y, x) for period in periods])
    return np.array(angles)


def turned(x: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Patch tokens of one head turned in the planes (d, d + half); the tokens before them kept."""
    n, half = angles.shape
    out = x.copy()
    first, second = x[-n:, :half], x[-n:, half:]
    out[-n:, :half] = first * np.cos(angles) - second * np.sin(angles)
    out[-n:, half:] = second * np.cos(angles) + first * np.sin(angles)
    return out


def sequential(
    w: Arrays, tokens: np.ndarray, heads: int, eps: float, angles: np.ndarray | None = None
) -> Read:
    """Every layer and site of a timm-like transformer, from its first tokens."""
    depth = 1 + max(int(k.split(".")[1]) for k in w if k.startswith("blocks."))
    x, read = tokens, {}
    size = tokens.shape[1] // heads
    for block in range(depth):
        b = {k.removeprefix(f"blocks.{block}."): v for k, v in w.items()}
        normed = layer_norm(x, b["norm1.weight"], b["norm1.bias"], eps)
        bias = b["attn.qkv.bias"]
        if "attn.qkv.bias_mask" in b:
            bias = np.where(b["attn.qkv.bias_mask"] == 1, bias, 0)
        q, k, v = np.split(normed @ b["attn.qkv.weight"].T + bias, 3, axis=1)
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            qh, kh = q[:, part], k[:, part]
            if angles is not None:
                qh, kh = turned(qh, angles), turned(kh, angles)
            mixed.append(mix(qh, kh, v[:, part]))
        attention = np.hstack(mixed) @ b["attn.proj.weight"].T + b["attn.proj.bias"]
        x = x + attention * b.get("ls1.gamma", 1.0)
        hidden = layer_norm(x, b["norm2.weight"], b["norm2.bias"], eps)
        hidden = gelu(hidden @ b["mlp.fc1.weight"].T + b["mlp.fc1.bias"])
        x = x + (hidden @ b["mlp.fc2.weight"].T + b["mlp.fc2.bias"]) * b.get("ls2.gamma", 1.0)
        read[block + 1, "attention"], read[block + 1, "residual"] = attention, x
    return read


def parallel(w: Arrays, tokens: np.ndarray, heads: int, eps: float) -> Read:
    """Every layer and site of timm's ParallelScalingBlock without bias and with normed q and k."""
    depth = 1 + max(int(k.split(".")[1]) for k in w if k.startswith("blocks."))
    dim = tokens.shape[1]
    size, x, read = dim // heads, tokens, {}
    for block in range(depth):
        b = {k.removeprefix(f"blocks.{block}."): v for k, v in w.items()}
        fused = layer_norm(x, b["in_norm.weight"], b["in_norm.bias"], eps) @ b["in_proj.weight"].T
        # The order of bias and output differ in the published code.
        fused = fused + np.concatenate([np.zeros(3 * dim), b["mlp_bias"]])
        hidden, q, k, v = np.split(fused, np.cumsum([len(b["mlp_bias"]), dim, dim]), axis=1)
        mixed = []
        for head in range(heads):
            part = slice(head * size, (head + 1) * size)
            qh = layer_norm(q[:, part], b["q_norm.weight"], b["q_norm.bias"], eps)
            kh = layer_norm(k[:, part], b["k_norm.weight"], b["k_norm.bias"], eps)
            mixed.append(mix(qh, kh, v[:, part]))
        attention = np.hstack(mixed) @ b["attn_out_proj.weight"].T + b["attn_out_proj.bias"]
        added = attention + gelu(hidden) @ b["mlp_out_proj.weight"].T + b["mlp_out_proj.bias"]
        x = x + added * b["ls.gamma"]
        read[block + 1, "attention"], read[block + 1, "residual"] = attention, x
    return read


def joint_tokens(w: Arrays, image: np.ndarray, patch: int, offset: float) -> np.ndarray:
    """Class, register and patch tokens of a model that reads its channels together."""
    kernel = w["patch_embed.proj.weight"]
    x = patches(image, patch) @ kernel.reshape(len(kernel), -1).T + w["patch_embed.proj.bias"]
    first = w["cls_token"][0]
    if "pos_embed" in w:
        grid = (image.shape[1] // patch, image.shape[2] // patch)
        x = x + resized(w["pos_embed"][0, 1:], grid, offset)
        first = first + w["pos_embed"][0, :1]
    for registers in ("register_tokens", "storage_tokens"):
        if registers in w:
            first = np.vstack([first, w[registers][0]])
    return np.vstack([first, x])


def channel_tokens(
    w: Arrays,
    image: np.ndarray,
    patch: int,
    offset: float,
    copies: int = 1,
    channels: list[int] | None = None,
) -> np.ndarray:
    """Class token and the patch tokens of each channel in turn; the table may be stored `copies`
    times over. `channels` says which of those that the weights know the image has.
    """
    kernel = w["patch_embed.proj.weight"]
    kernel = kernel.reshape(len(kernel), -1)
    grid = (image.shape[1] // patch, image.shape[2] // patch)
    table = w["pos_embed"][0, 1:]
    table = table[: len(table) // copies]
    rows = [w["cls_token"][0] + w["pos_embed"][0, :1]]
    for channel, plane in zip(channels or range(len(image)), image, strict=True):
        x = patches(plane[None], patch) @ kernel.T + w["patch_embed.proj.bias"]
        if "patch_embed.channel_embed" in w:
            x = x + w["patch_embed.channel_embed"][0, :, channel, 0, 0]
        if "patch_embed.channel_embed.weight" in w:
            x = x + w["patch_embed.channel_embed.weight"][channel]
        rows.append(x + resized(table, grid, offset, 1 if copies > 1 else len(image)))
    return np.vstack(rows)
