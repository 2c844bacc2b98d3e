"""What embedding costs beyond the model itself, and whether its tiles can be seen.

``python benchmarks/embed.py`` prints a table for each question that is asked for:

--speed
    `embed_field` against the bare forward passes on the same tiles, in turns in one process; the
    same with tokens from the cache.
--seams
    How much neighbouring tokens differ across the border of two tiles, over how much they differ
    inside of tiles, on public images (``--data DATA``); and how far tokens move when the image is
    shifted by one patch. 1 and 0 would be a model that sees every patch by itself.
--large
    Peak memory above the loaded model while a zarr image of ``--size`` pixels an edge is scaled and
    embedded, its position component measured and removed, and its crops pooled; beside what was
    estimated. Tokens of layer 1, which are as large as those of any other and sooner there.
--dinov2
    DINOv2-S with the same random weights, the way other plugins do it (`transformers` on the padded
    image or on its tiles, features of the last layer upsampled to pixels) and ours (tokens of the
    last layer, one value a token upsampled to pixels), each in a process of its own, on an image of
    ``--size`` pixels an edge and 3 channels; ``--tile`` is the edge of our tiles. Needs
    `transformers`. Where napari-convpaint is installed (README.md), its own feature extraction runs
    with the same weights, too.

Seconds are CPU seconds of all threads, which suffer little from neighbours. The last two run on
Linux only, which tells the peak of a process.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import platform
import sys
import tempfile
import time
import types
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from numpy.typing import NDArray
from recovery import in_own_process, print_columns

from napari_microdl.cells import pool, units_of
from napari_microdl.embedding import (
    BackingOff,
    ScaledImage,
    TilePlan,
    TokenCache,
    TokenGrid,
    embed_field,
    estimate_embedding,
)
from napari_microdl.embedding.images import TileCutter
from napari_microdl.fields import Field
from napari_microdl.models.registry import load_model
from napari_microdl.painting import grid_to_pixels
from napari_microdl.positions import PositionComponent, position_share
from napari_microdl.scaling import IntensityScaling

Floats = NDArray[np.float32]
# DINOv2-S: every published one has these sizes and was trained on 518 px.
DINOV2 = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
DINOV2_PATCH, DINOV2_TILE = 14, 518
PADDED, TILES = "transformers, padded image", "transformers, tiles"
NO_HALO, HALO = "ours, tiles without halo", "ours, tiles with halo 2"
CONVPAINT = ("napari-convpaint, features of pixels", "napari-convpaint, features of patches")


def finish(steps: Generator[int, None, TokenGrid]) -> TokenGrid:
    """Run a generator to its end."""
    while True:
        try:
            next(steps)
        except StopIteration as finished:
            grid: TokenGrid = finished.value
            return grid


class Memory:
    """How far the memory of this process rises above what it holds now."""

    def __init__(self) -> None:
        # Forgets earlier peaks, as that of loading a model.
        Path("/proc/self/clear_refs").write_text("5")
        self._before = self._read("VmRSS")

    def peak(self) -> int:
        """Bytes, so far."""
        return self._read("VmHWM") - self._before

    @staticmethod
    def _read(name: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def noise(channels: int, edge: int) -> Floats:
    """An image of random intensities."""
    return np.random.default_rng(0).random((channels, edge, edge), np.float32)


def speed(edge: int, repeats: int) -> None:
    """Print the table of --speed."""
    model = load_model("builtin", device="cpu")
    plan = TilePlan(model.spec.patch_size, model.spec.tile_size, 2)
    image = noise(3, edge)
    layer, batch_size = model.spec.default_layer, 8
    origins = plan.origins((edge, edge))
    n_tiles = max(1, batch_size // 3)
    cutter = TileCutter(image, plan)
    batches = [cutter.cut(origins[i : i + n_tiles]) for i in range(0, len(origins), n_tiles)]
    with tempfile.TemporaryDirectory() as folder:
        cache = TokenCache(Path(folder))
        finish(embed_field(image, model, plan, cache=cache))
        kept = cache.size()
        ways = {
            "model alone": lambda: [model.tokens(b, layer, "residual") for b in batches],
            "embed_field": lambda: finish(embed_field(image, model, plan)),
            "embed_field, all in the cache": lambda: finish(
                embed_field(image, model, plan, cache=cache)
            ),
            "embed_field, none in the cache": lambda: finish(
                embed_field(
                    image, model, plan, cache=TokenCache(Path(tempfile.mkdtemp(dir=folder)))
                )
            ),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(repeats):
            for way, run in ways.items():
                start = time.process_time()
                run()
                seconds[way].append(time.process_time() - start)
    alone = np.array(seconds["model alone"])
    print(
        f"\nspeed: built-in model, {edge} x {edge} px, 3 channels, {len(origins)} tiles; "
        f"{kept / 1e6:.0f} MB in the cache; median (range) of {repeats} rounds"
    )
    rows = []
    for way, values in seconds.items():
        ratios = np.array(values) / alone
        rows.append(
            (
                way,
                f"{np.median(values):.2f}",
                f"{np.median(ratios):.3f} ({ratios.min():.3f}-{ratios.max():.3f})",
            )
        )
    print_columns(("way", "CPU s", "times the model"), rows)


def public_fields(data: Path) -> dict[str, list[Field]]:
    """Images with cells in them, by data set."""
    with (data / "transfluor" / "conditions.csv").open() as file:
        names = [row["file"] for row in csv.DictReader(file)][:6]
    sets = {"transfluor, 6 fields": [data / "transfluor" / "images" / name for name in names]}
    cell_painting = sorted((data / "bbbc022_mock" / "images").glob("*.tif*"))
    sets["bbbc022_mock, 2 fields"] = cell_painting[:2]
    fields = {}
    for title, paths in sets.items():
        images = [tifffile.imread(path) for path in paths]
        images = [image[None] if image.ndim == 2 else image for image in images]
        fields[title] = [
            Field(image, tuple(f"channel {c}" for c in range(len(image))), path.name)
            for path, image in zip(paths, images, strict=True)
        ]
    return fields


def differences(grids: list[TokenGrid], plan: TilePlan) -> tuple[float, float]:
    """Difference across borders over that inside, and how many standard deviations lie between.

    Parameters
    ----------
    grids : list of TokenGrid
        Tokens.
    plan : TilePlan
        How they were cut.

    Returns
    -------
    ratio : float
        Mean Euclidean distance of neighbours in two tiles over that of neighbours in one tile.
    deviations : float
        Difference of the two means in standard deviations of the distances inside.
    """
    across, inside = [], []
    for grid in grids:
        for axis in (0, 1):
            steps = np.linalg.norm(np.diff(grid.tokens, axis=axis), axis=-1)
            border = np.arange(1, steps.shape[axis] + 1) % plan.inner == 0
            across.append(np.compress(border, steps, axis=axis).ravel())
            inside.append(np.compress(~border, steps, axis=axis).ravel())
    a, b = np.concatenate(across), np.concatenate(inside)
    return float(a.mean() / b.mean()), float((a.mean() - b.mean()) / b.std())


def shifted(images: list[Floats], grids: list[TokenGrid], embed: Any, p: int) -> float:
    """Median relative change of tokens when the image moves by one patch."""
    changes = []
    for image, grid in zip(images, grids, strict=True):
        moved = embed(image[:, p:, p:]).tokens
        rows, columns = (n // p - 1 for n in image.shape[1:])
        here, there = moved[:rows, :columns], grid.tokens[1 : rows + 1, 1 : columns + 1]
        centre = there.mean((0, 1))
        change = np.linalg.norm(here - there, axis=-1) / np.linalg.norm(there - centre, axis=-1)
        changes.append(np.median(change))
    return float(np.mean(changes))


def seams(data: Path) -> None:
    """Print the table of --seams."""
    model = load_model("builtin", device="cpu")
    p = model.spec.patch_size
    rows = []
    for title, fields in public_fields(data).items():
        scaler = IntensityScaling().fit(fields)
        images = [scaler.apply(i, f.read()) for i, f in enumerate(fields)]
        for halo in (0, 1, 2):
            plan = TilePlan(p, model.spec.tile_size, halo)
            raw = [finish(embed_field(image, model, plan)) for image in images]
            component = PositionComponent.fit(raw, plan.tile_tokens**2)

            def embed(
                image: Floats, plan: TilePlan = plan, component: PositionComponent = component
            ) -> TokenGrid:
                return component.remove(finish(embed_field(image, model, plan)))

            removed = [component.remove(grid) for grid in raw]
            cells = [f"{title}, halo {halo}"]
            for grids in (raw, removed):
                ratio, deviations = differences(grids, plan)
                cells += [f"{ratio:.3f}", f"{deviations:+.2f}"]
            rows.append((*cells, f"{shifted(images[:2], removed[:2], embed, p):.2f}"))
    print(
        "\nseams: built-in model, tiles of 128 px; neighbours in two tiles over neighbours in one, "
        "and\nthe same in standard deviations of the latter; as they are, and with the position "
        "component removed\nas in a run; then how far such tokens move, over their distance from "
        "the mean token, when 2 of the\nimages are shifted by one patch"
    )
    print_columns(("images", "as they are", "sd", "removed", "sd", "shift"), rows)


def large_worker(size: int) -> dict[str, float]:
    """Peak memory of one large image, in a process of its own."""
    import zarr

    model = BackingOff(load_model("builtin", device="cpu"))
    plan = TilePlan(model.spec.patch_size, model.spec.tile_size, 2)
    with tempfile.TemporaryDirectory() as folder:
        stored = zarr.create_array(
            Path(folder) / "image.zarr", shape=(1, size, size), chunks=(1, 1024, 1024), dtype="u2"
        )
        rng = np.random.default_rng(0)
        for row in range(0, size, 1024):
            n = min(1024, size - row)
            stored[0, row : row + n] = rng.integers(1, 4000, (n, size), np.uint16)
        field = Field(stored, ("a",), "large")
        # What torch needs for its first pass is the model's.
        model.tokens(noise(1, 128)[None], model.spec.default_layer, "residual")
        memory, start = Memory(), time.process_time()
        scaler = IntensityScaling().fit([field])
        grid = finish(embed_field(ScaledImage(field, scaler, 0), model, plan, layer=1))
        embedded = memory.peak()
        seconds = time.process_time() - start
        position_share([grid])
        grid = PositionComponent.fit([grid], plan.tile_tokens**2).remove(grid)
        pool(grid, units_of(grid, "crop", crop_size=128, crop_stride=128))
    estimate = estimate_embedding([(size, size)], 1, model.spec, plan, lazy=True)
    return {
        "estimate": estimate.memory,
        "embedded": embedded,
        "pooled": memory.peak(),
        "tokens": estimate.tokens,
        "seconds": seconds,
    }


def large(size: int, threads: int) -> None:
    """Print the table of --large."""
    task = {"large": size, "threads": threads}
    figures = in_own_process(__file__, task, None)
    print(f"\nlarge: a zarr image of {size} x {size} px, uint16, built-in model, layer 1")
    megabytes = {key: f"{figures[key] / 1e6:.0f}" for key in ("tokens", "estimate", "embedded")}
    print_columns(
        ("", "tokens, MB", "estimate, MB", "peak, embedded", "and pooled", "CPU s"),
        [
            (
                "above the model",
                *megabytes.values(),
                f"{figures['pooled'] / 1e6:.0f}",
                f"{figures['seconds']:.0f}",
            )
        ],
    )


def make_dinov2(folder: Path) -> None:
    """Write DINOv2-S with random weights as `transformers` does."""
    from transformers import Dinov2Config, Dinov2Model

    torch.manual_seed(0)
    config = Dinov2Config(**DINOV2, patch_size=DINOV2_PATCH, image_size=DINOV2_TILE)
    Dinov2Model(config).save_pretrained(folder)


def transformers_way(way: str, network: Any, image: Floats, device: str) -> Callable[[], Any]:
    """The last layer at every pixel, of the padded image or of its tiles."""
    size = image.shape[-1]

    def features(pixels: torch.Tensor) -> torch.Tensor:
        n, _, height, width = pixels.shape
        tokens = network(pixels.to(device)).last_hidden_state[:, 1:]
        grid = tokens.reshape(n, height // DINOV2_PATCH, width // DINOV2_PATCH, -1)
        upsampled = torch.nn.functional.interpolate(
            grid.permute(0, 3, 1, 2), scale_factor=DINOV2_PATCH, mode="bilinear"
        )
        return upsampled.cpu()

    def run() -> Any:
        step = DINOV2_PATCH if way == PADDED else DINOV2_TILE
        width = -(-size // step) * step
        padded = np.pad(image, ((0, 0), (0, width - size), (0, width - size)), "reflect")
        pixels = torch.from_numpy(padded)[None]
        if way == PADDED:
            return features(pixels)[..., :size, :size]
        whole = torch.empty(DINOV2["hidden_size"], width, width)
        for i in range(0, width, step):
            for j in range(0, width, step):
                here = slice(i, i + step), slice(j, j + step)
                whole[:, *here] = features(pixels[:, :, *here])[0]
        return whole[:, :size, :size]

    return run


def convpaint_way(way: str, network: Any, image: Floats) -> Callable[[], Any]:
    """napari-convpaint's own extraction, from padding to pixels, around the same network.

    Its extractor fetches DINOv2 through torch.hub; here it gets a network of `transformers`, whose
    attention needs less memory than that of Meta's code without xformers. Another extractor is
    imported with it and imports timm, which does not import without torchvision: an empty module
    stands in for timm, which nothing here calls.
    """
    sys.modules["timm"] = types.ModuleType("timm")
    from napari_convpaint.convpaint_model import ConvpaintModel
    from napari_convpaint.feature_extractors.dino import Dinov2Features

    class FromHub(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward_features(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"x_norm_patchtokens": self.network(pixels).last_hidden_state[:, 1:]}

    Dinov2Features.create_model = staticmethod(lambda _: FromHub().eval())
    model = ConvpaintModel(fe_name="dinov2_small-reg")
    # No normalisation, as in the other ways.
    model.set_params(channel_mode="rgb", normalize=1, ignore_warnings=True)
    if way == CONVPAINT[0]:
        return lambda: model.get_feature_image(image, use_device="cpu")
    width = -(-image.shape[-1] // DINOV2_PATCH) * DINOV2_PATCH
    over = width - image.shape[-1]
    # Its axes are (channel, z, y, x).
    padded = np.pad(image, ((0, 0), (0, over), (0, over)), "reflect")[:, None]
    return lambda: model.fe_model.extract_features(padded, model.get_params())


def dinov2_worker(task: dict[str, Any]) -> dict[str, float]:
    """CPU seconds and peak memory of one way, in a process of its own."""
    way, folder, device, tile = task["dinov2"], task["folder"], task["device"], task["tile"]
    image = noise(3, task["size"])
    run: Callable[[], Any]
    if way in (NO_HALO, HALO):
        # Its three channels go in together, as those of a colour image.
        model = load_model(folder, device=device, joint=True)
        plan = TilePlan(DINOV2_PATCH, tile, 0 if way == NO_HALO else 2)
        layer = model.spec.depth

        def run() -> Any:
            grid = finish(embed_field(image, model, plan, layer=layer, batch_size=1))
            return grid_to_pixels(grid.tokens[..., 0], DINOV2_PATCH, grid.image_shape)

        model.tokens(image[None, :, :DINOV2_TILE, :DINOV2_TILE], 1, "residual")
    else:
        # Only the module of the model: the top of the package looks for torchvision.
        from transformers.models.dinov2.modeling_dinov2 import Dinov2Model

        network = Dinov2Model.from_pretrained(folder).eval().to(device)
        if way in CONVPAINT:
            run = convpaint_way(way, network, image)
        else:
            run = transformers_way(way, network, image, device)
        warm = torch.from_numpy(image[None, :, :DINOV2_PATCH, :DINOV2_PATCH])
        with torch.inference_mode():
            network(warm.to(device))
    memory, start, wall = Memory(), time.process_time(), time.perf_counter()
    with torch.inference_mode():
        run()
    return {
        "cpu": time.process_time() - start,
        "wall": time.perf_counter() - wall,
        "peak": memory.peak(),
    }


def dinov2(size: int, tile: int, threads: int, device: str, only: str) -> None:
    """Print the table of --dinov2, or those rows of it whose names begin so."""
    print(f"\ndinov2: S/14, random weights, {size} x {size} px, 3 channels, on {device}")
    counts = [len(TilePlan(DINOV2_PATCH, tile, halo).origins((size, size))) for halo in (0, 2)]
    print(f"our tiles: {tile} px; {counts[0]} without halo, {counts[1]} with a halo of 2")
    ways = [PADDED, TILES, NO_HALO, HALO]
    if device == "cpu" and importlib.util.find_spec("napari_convpaint"):
        ways[2:2] = CONVPAINT
    else:
        print("napari-convpaint is not installed here, or not to run on the processor: left out")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        make_dinov2(Path(folder))
        for way in (way for way in ways if way.startswith(only)):
            task = {"dinov2": way, "folder": folder, "size": size, "device": device, "tile": tile}
            figures = in_own_process(__file__, {**task, "threads": threads}, None)
            rows.append(
                (
                    way,
                    f"{figures['cpu']:.1f}",
                    f"{figures['wall']:.1f}",
                    f"{figures['peak'] / 1e6:.0f}",
                )
            )
            print(f"  {way}: {rows[-1][1:]}", file=sys.stderr)
    print_columns(("way", "CPU s", "s", "peak above the model, MB"), rows)


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    for question in ("speed", "seams", "large", "dinov2"):
        parser.add_argument(f"--{question}", action="store_true")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--tile", type=int, default=DINOV2_TILE)
    parser.add_argument("--only", default="", help="rows of --dinov2 whose names begin so")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        task = json.loads(arguments.worker)
        torch.set_num_threads(task["threads"])
        figures = large_worker(task["large"]) if "large" in task else dinov2_worker(task)
        print(json.dumps(figures))
        return
    torch.set_num_threads(arguments.threads)
    print(
        f"{platform.processor() or platform.machine()}, {arguments.threads} thread(s); "
        f"Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    )
    if arguments.speed:
        speed(arguments.size, arguments.repeats)
    if arguments.seams:
        seams(arguments.data)
    if arguments.large:
        large(arguments.size, arguments.threads)
    if arguments.dinov2:
        dinov2(
            arguments.size,
            arguments.tile,
            arguments.threads,
            arguments.device,
            arguments.only,
        )


if __name__ == "__main__":
    main()
