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
from mae import MaskedAutoencoder, described, teacher_features
from napari_microdl.models.encoder import prepare
from napari_microdl.models.families.builtin import CONFIG, PREPROCESSING, read_network
from napari_microdl.models.vit.network import VisionTransformer

# (edge of the model input, crops a batch, share of visible patches): small crops are cheap and
# local, large ones teach context and other grid sizes.
SHAPES = ((64, 256, 0.35), (64, 256, 0.35), (128, 64, 0.25))
ZOOMS = (0.75, 1.0, 1.0, 1.25, 1.5)


def disturbed(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Scaled images as another exposure, haze, focus and camera noise would show them."""
    n = len(images)

    def drawn(low: float, high: float, share: float) -> Tensor:
        values = rng.uniform(low, high, n) * (rng.random(n) < share)
        return torch.from_numpy(values.astype(np.float32)).reshape(n, 1, 1, 1)

    out = images * torch.exp(drawn(-0.7, 0.7, 0.6))
    kernel = min(images.shape[-1] // 2 * 2 - 1, 49)
    out = torch.lerp(out, blurred(out, kernel, 12.0), drawn(0.1, 0.5, 0.3))
    # Between the image and one out of focus, which is nearly a smaller blur.
    out = torch.lerp(out, blurred(out, 9, 1.5), drawn(0.2, 1.0, 0.3))
    out = out + drawn(-0.05, 0.1, 0.4)
    noise = torch.from_numpy(rng.standard_normal(images.shape, np.float32))
    return out + noise * drawn(0.005, 0.05, 0.4)


def blurred(images: Tensor, width: int, sigma: float) -> Tensor:
    """Every image under a Gaussian, reflected at the borders."""
    place = torch.arange(width) - width // 2
    line = torch.exp(-place.float().square() / (2 * sigma**2))
    line = (line / line.sum()).reshape(1, 1, 1, width)
    half = width // 2
    padded = torch.nn.functional.pad(images, (half, half, half, half), mode="reflect")
    across = torch.nn.functional.conv2d(padded, line)
    return torch.nn.functional.conv2d(across, line.transpose(2, 3))


def sample_batch(
    corpus: dict[str, list[Plane]], seed: int, step: int, *, disturb: bool = False
) -> tuple[Tensor, Tensor, int]:
    """Augmented model input of one step, the same undisturbed, and how many patches are visible."""
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
    clean = prepare(batch, PREPROCESSING)
    shown = prepare(disturbed(batch, rng), PREPROCESSING) if disturb else clean
    return shown, clean, round(visible * (edge // 8) ** 2)


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
    parser.add_argument("--start", type=Path, help="weights of an encoder to begin from")
    parser.add_argument(
        "--features",
        action="store_true",
        help="predict features of undisturbed images beside pixels",
    )
    parser.add_argument(
        "--descriptors",
        action="store_true",
        help="predict local shape and texture around each patch beside pixels",
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)

    corpus: dict[str, list[Plane]] = {}
    for plane in load_corpus(arguments.data, arguments.scaling):
        corpus.setdefault(plane.source, []).append(plane)
    model, teacher = MaskedAutoencoder(CONFIG), VisionTransformer(CONFIG)
    if arguments.start:
        model.encoder.load_state_dict(read_network(arguments.start).state_dict())
    teacher.load_state_dict(model.encoder.state_dict())
    # The tensors of the teacher themselves.
    average = teacher.state_dict()
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
        teacher.load_state_dict(state["average"])
        start, seconds = state["step"], state["seconds"]

    units = torch.cpu.get_capabilities()
    # Without units of its own for bfloat16 a processor takes ten times as long.
    has_bfloat16 = bool(units.get("avx512_bf16") or units.get("amx_bf16"))
    log = (arguments.out / "log.jsonl").open("a")
    began, running = time.monotonic() - seconds, None
    for step in range(start, arguments.steps):
        batch, clean, keep = sample_batch(corpus, arguments.seed, step, disturb=arguments.features)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.steps, arguments.peak_rate)
        generator = torch.Generator().manual_seed(arguments.seed * 1_000_003 + step)
        descriptors = described(clean, CONFIG.patch_size) if arguments.descriptors else None
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16):
            # Of half of the images, as the teacher reads all of their patches.
            half = clean[: len(clean) // 2]
            features = teacher_features(teacher, half) if arguments.features else None
            loss = model(batch, keep, generator, features, descriptors)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        blend = 0.999 if arguments.start else min(0.999, (1 + step) / (10 + step))
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
