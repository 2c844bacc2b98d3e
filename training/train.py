"""Train the built-in model: ``python training/train.py --data DATA --out RUN``.

Resumes from RUN/checkpoint.pt where there is one. Everything random comes from --seed and the step
number, so a resumed run sees the same crops as an uninterrupted one.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from corpus import SHARES, Plane, load_corpus
from mae import MaskedAutoencoder
from napari_microdl.models.encoder import prepare
from napari_microdl.models.families.builtin import CONFIG, PREPROCESSING

# (edge of the model input, crops a batch, share of visible patches): small crops are cheap and
# local, large ones teach context and other grid sizes.
SHAPES = ((64, 256, 0.35), (64, 256, 0.35), (128, 64, 0.25))
ZOOMS = (0.75, 1.0, 1.0, 1.25, 1.5)


def sample_batch(corpus: dict[str, list[Plane]], seed: int, step: int) -> tuple[Tensor, int]:
    """Augmented model input of one step and the number of visible patches."""
    rng = np.random.default_rng([seed, step])
    edge, size, visible = SHAPES[step % len(SHAPES)]
    taken = min(int(edge * rng.choice(ZOOMS)) // 8 * 8, 128)
    sources = rng.choice(list(SHARES), size=size, p=np.array(list(SHARES.values())))
    crops = np.empty((size, 1, taken, taken), np.float32)
    for i, source in enumerate(sources):
        planes = corpus[source]
        pixels = planes[rng.integers(len(planes))].pixels
        # Of a few places the one with the most contrast, so that empty background is rare.
        best = -1.0
        for _ in range(3):
            y = rng.integers(pixels.shape[0] - taken + 1)
            x = rng.integers(pixels.shape[1] - taken + 1)
            candidate = pixels[y : y + taken, x : x + taken]
            spread = float(candidate[::4, ::4].astype(np.float32).std())
            if spread > best:
                best, crop = spread, candidate
        crop = np.rot90(crop, rng.integers(4))
        if rng.random() < 0.5:
            crop = crop[:, ::-1]
        values = crop.astype(np.float32)
        values = np.maximum(values, 0) ** rng.uniform(0.8, 1.25)
        values = values * np.exp(rng.uniform(-0.6, 0.5)) + rng.uniform(-0.04, 0.04)
        if source != "transfluor" and rng.random() < 0.12:
            values = 1.0 - values
        crops[i, 0] = values
    batch = torch.from_numpy(crops)
    if taken != edge:
        batch = torch.nn.functional.interpolate(
            batch, (edge, edge), mode="bilinear", antialias=taken > edge, align_corners=False
        )
    return prepare(batch, PREPROCESSING), round(visible * (edge // 8) ** 2)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 300 steps, then half a cosine to a hundredth of the peak."""
    if step < 300:
        return peak * (step + 1) / 300
    progress = (step - 300) / max(steps - 300, 1)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress)))


def main() -> None:
    """Run the training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak-rate", type=float, default=1.2e-3)
    parser.add_argument("--scaling", choices=("percentile", "log"), default="log")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)

    corpus: dict[str, list[Plane]] = {}
    for plane in load_corpus(arguments.data, arguments.scaling):
        corpus.setdefault(plane.source, []).append(plane)
    model = MaskedAutoencoder(CONFIG)
    average = {k: v.clone() for k, v in model.encoder.state_dict().items()}
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}],
        lr=arguments.peak_rate,
        betas=(0.9, 0.95),
    )
    checkpoint = arguments.out / "checkpoint.pt"
    start, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, start, seconds = state["average"], state["step"], state["seconds"]

    log = (arguments.out / "log.jsonl").open("a")
    began, running = time.monotonic() - seconds, None
    for step in range(start, arguments.steps):
        batch, keep = sample_batch(corpus, arguments.seed, step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.steps, arguments.peak_rate)
        generator = torch.Generator().manual_seed(arguments.seed * 1_000_003 + step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(batch, keep, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        blend = min(0.999, (1 + step) / (10 + step))
        for key, value in model.encoder.state_dict().items():
            average[key].lerp_(value, 1 - blend)
        running = loss.item() if running is None else 0.98 * running + 0.02 * loss.item()
        if (step + 1) % 100 == 0 or step + 1 == arguments.steps:
            record = {
                "step": step + 1,
                "loss": round(running, 5),
                "seconds": round(time.monotonic() - began, 1),
            }
            print(json.dumps(record), file=log, flush=True)
            partial = checkpoint.with_suffix(".partial")
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "average": average,
                    "step": step + 1,
                    "seconds": time.monotonic() - began,
                },
                partial,
            )
            partial.replace(checkpoint)


if __name__ == "__main__":
    main()
