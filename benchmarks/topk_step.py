"""One training step of `TopKSAE` and of sparsify's `SparseCoder`, from the same weights and batch.

``python benchmarks/topk_step.py`` prints the losses of both and the largest differences of their
gradients and of the weights after one step of Adam, without dead features, with a few, and with
more than the auxiliary loss uses. Needs `eai-sparsify`, of the extra `benchmark`.

The backward pass that sparsify writes out for its encoder passes on no gradient of the auxiliary
loss, so that dead features only move their decoder rows. The second set of rows is sparsify as it
is; in the first, PyTorch differentiates the encoder, as the formulas of Gao et al. say.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import sparsify.sparse_coder
import torch
from sparsify import SparseCoder, SparseCoderConfig

from napari_microdl.estimators.topk_sae import PARAMETERS, AutoencoderLearner, TopKSAE

_AUX_WEIGHT = 1 / 32
_RATE = 1e-3
_N_SAMPLES = 512
_WIDTH = 64
_N_ATOMS = 256
_N_ACTIVE = 16
_AS_IT_IS = sparsify.sparse_coder.fused_encoder


def differentiated(x: Any, weight: Any, bias: Any, k: int, activation: str) -> Any:
    """The same encoder, whose backward pass is PyTorch's."""
    before = torch.relu(torch.nn.functional.linear(x, weight, bias))
    values, indices = before.topk(k, dim=-1, sorted=False)
    return sparsify.fused_encoder.EncoderOutput(values, indices, before)


def compare(n_dead: int, seed: int) -> dict[str, float]:
    """Largest differences of losses, gradients and weights.

    Parameters
    ----------
    n_dead : int
        Features declared dead.
    seed : int
        Of weights and samples.

    Returns
    -------
    dict of str to float
        What to print, by the head of its column.
    """
    rng = np.random.default_rng(seed)
    atoms = rng.normal(size=(_N_ATOMS, _WIDTH))
    atoms /= np.linalg.norm(atoms, axis=1, keepdims=True)
    arrays = {
        "atoms": atoms,
        "bias": 0.1 * rng.normal(size=_WIDTH),
        "encoder": atoms + 0.05 * rng.normal(size=atoms.shape),
        "encoder_bias": 0.05 * rng.normal(size=_N_ATOMS),
    }
    arrays = {name: values.astype(np.float32) for name, values in arrays.items()}
    x = rng.normal(size=(_N_SAMPLES, _WIDTH)).astype(np.float32)
    dead = np.arange(_N_ATOMS) < n_dead

    sae = TopKSAE.from_arrays(
        *arrays.values(),
        n_active=_N_ACTIVE,
        dead=dead,
        aux_weight=_AUX_WEIGHT,
        learning_rate=_RATE,
    )
    plan = sae._plan(_WIDTH, _N_ATOMS)
    loss = AutoencoderLearner(plan, *arrays.values(), dead).loss(x)
    sae.partial_fit(x)

    coder = SparseCoder(_WIDTH, SparseCoderConfig(num_latents=_N_ATOMS, k=_N_ACTIVE))
    theirs = {
        "atoms": coder.W_dec,
        "bias": coder.b_dec,
        "encoder": coder.encoder.weight,
        "encoder_bias": coder.encoder.bias,
    }
    for name, value in theirs.items():
        value.data = torch.from_numpy(arrays[name].copy())
    # As Gao et al. set it; sparsify leaves PyTorch's, which slows down features with small slopes.
    adam = torch.optim.Adam(coder.parameters(), lr=_RATE, eps=6.25e-10)
    out = coder(torch.from_numpy(x), dead_mask=torch.from_numpy(dead))
    (out.fvu + _AUX_WEIGHT * out.auxk_loss).backward()
    gradients = {name: theirs[name].grad.clone() for name in PARAMETERS}
    coder.remove_gradient_parallel_to_decoder_directions()
    adam.step()
    coder.set_decoder_norm_to_unit_norm()

    learned = {
        "atoms": sae.components_,
        "bias": sae.bias_,
        "encoder": sae.encoder_,
        "encoder_bias": sae.encoder_bias_,
    }
    differences = {
        "loss": abs(loss.reconstruction - out.fvu.item()),
        "AuxK": abs(loss.auxiliary - out.auxk_loss.item()),
    }
    for name in PARAMETERS:
        largest = gradients[name].abs().max()
        apart = (loss.gradients[name] - gradients[name]).abs().max() / largest
        differences[f"d {name}"] = float(apart)
    for name in PARAMETERS:
        moved = np.abs(learned[name] - theirs[name].detach().numpy()).max()
        differences[name] = float(moved) / _RATE
    return differences


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="weights and batches tried")
    seeds = parser.parse_args().seeds
    print(
        f"{_N_SAMPLES} samples of width {_WIDTH}, {_N_ATOMS} features, {_N_ACTIVE} active; largest "
        f"differences of {seeds} seeds.\nLosses as they are; gradients (d) relative to the largest "
        "entry of each; weights in units of the rate, by which Adam moves them."
    )
    for title, encoder in (
        ("sparsify, encoder differentiated by PyTorch", differentiated),
        ("sparsify as it is", _AS_IT_IS),
    ):
        sparsify.sparse_coder.fused_encoder = encoder
        print(f"\n{title}")
        for n_dead in (0, 20, 100):
            tries = [compare(n_dead, seed) for seed in range(seeds)]
            worst = {name: max(t[name] for t in tries) for name in tries[0]}
            cells = "  ".join(f"{name} {value:.1e}" for name, value in worst.items())
            print(f"{n_dead:4d} dead: {cells}")


if __name__ == "__main__":
    main()
