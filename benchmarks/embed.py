"""What embedding costs beyond the model itself, and whether its tiles can be seen.

``python benchmarks/embed.py`` prints a table for each question that is asked for:

--speed
    `embed_field` against the bare forward passes on the same tiles, in turns in one process, each
    over the passes of its own round: the built-in model and DINOv2-S with random weights, on an
    image in memory and on one of 16 bits read from zarr and scaled; the first with tokens from the
    cache, too.
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
    image or on its tiles, features of the last layer upsampled to pixels), by `transformers` on
    tiles with nothing upsampled, and ours (tokens of the last layer, one value a token upsampled to
    pixels), each in a process of its own, on an image of ``--size`` pixels an edge and 3 channels,
    with tiles of the stored positions (518 px) and of the plugin's default; ``--tile`` adds a row
    of ours with other tiles. Needs `transformers`. Where napari-convpaint is installed
    (README.md), its own feature extraction runs with the same weights, too.

CPU seconds are those of all threads, which suffer little from neighbours; wall seconds hold the
waiting for them, too. The last two run on Linux only, which tells the peak of a process.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from memory import status_bytes
from numpy.typing import NDArray
from recovery import in_own_process, print_columns

from napari_microdl.concepts.painting import grid_to_pixels
from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.fields.intensity import IntensityScaling
from napari_microdl.models.encoder import EncoderModel
from napari_microdl.models.registry import load_model, model_spec, recipes
from napari_microdl.models.vit.network import VisionTransformer
from napari_microdl.pipeline.estimate import estimate_seconds, processor_rate
from napari_microdl.tokens import (
    MemoryLimited,
    ScaledImage,
    TilePlan,
    TokenCache,
    TokenGrid,
    embed_field,
    estimate_embedding,
)
from napari_microdl.tokens.estimate import tiles_at_once
from napari_microdl.tokens.positions import PositionComponent, position_share
from napari_microdl.tokens.tiles import TileCutter
from napari_microdl.tokens.units import pool, units_of

Floats = NDArray[np.float32]
# DINOv2-S: every published one has these sizes and was trained on 518 px.
DINOV2 = {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6}
DINOV2_PATCH, DINOV2_TILE = 14, 518
# What the plugin takes unless told otherwise, by the names of `embed`.
DEFAULT_HALO, DEFAULT_BATCH = 2, 8


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
        found = status_bytes(name)
        assert found is not None, "Linux only"
        return found


def noise(channels: int, edge: int) -> Floats:
    """An image of random intensities."""
    return np.random.default_rng(0).random((channels, edge, edge), np.float32)


@dataclass
class Seconds:
    """CPU and wall seconds of each round."""

    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Add what happens inside as a round."""
        cpu, wall = time.process_time(), time.perf_counter()
        yield
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)


def spread(ratios: NDArray[np.float64]) -> str:
    """Median and range."""
    return f"{np.median(ratios):.3f} ({ratios.min():.3f}-{ratios.max():.3f})"


def random_dinov2() -> EncoderModel:
    """DINOv2-S as the plugin runs it by default, with random weights."""
    torch.manual_seed(0)
    recipe = recipes()["dinov2-small"]
    return EncoderModel(
        VisionTransformer(recipe.config),
        recipe.spec,
        torch.device("cpu"),
        "fp32",
        recipe.preprocessing,
    )


def stored_field(folder: Path, channels: int, edge: int) -> Field:
    """A zarr image of 16 bits with random intensities."""
    import zarr

    stored = zarr.create_array(
        folder / "image.zarr",
        shape=(channels, edge, edge),
        chunks=(1, min(edge, 1024), min(edge, 1024)),
        dtype="u2",
    )
    rng = np.random.default_rng(0)
    for channel in range(channels):
        for row in range(0, edge, 1024):
            n = min(1024, edge - row)
            stored[channel, row : row + n] = rng.integers(1, 4000, (n, edge), np.uint16)
    return Field(
        data=stored, channel_names=tuple(f"channel {c}" for c in range(channels)), name="stored"
    )


def speed_of(title: str, model: Any, edge: int, repeats: int, *, with_cache: bool) -> None:
    """Print the table of --speed for one model."""
    spec = model.spec
    plan = TilePlan(spec.patch_size, spec.tile_size, DEFAULT_HALO)
    channels, layer = 3, spec.default_layer
    origins = plan.origins((edge, edge))
    n_tiles = tiles_at_once(DEFAULT_BATCH, spec, channels)
    with tempfile.TemporaryDirectory() as folder:
        stored = stored_field(Path(folder), channels, edge)

        def scaler() -> IntensityScaling:
            return IntensityScaling(curve=spec.intensity).fit([stored])

        scaled = ScaledImage(stored, scaler(), 0)
        # The same numbers, so that every way has the same to do.
        image = scaled.rows(0, edge)
        cutter = TileCutter(image, plan)
        batches = [cutter.cut(origins[i : i + n_tiles]) for i in range(0, len(origins), n_tiles)]
        ways: dict[str, Callable[[], Any]] = {
            "model alone": lambda: [model.tokens(b, layer, "residual") for b in batches],
            "embed_field, scaled in memory": lambda: embed_field(image, model, plan),
            "embed_field, uint16 from zarr": lambda: embed_field(scaled, model, plan),
            "the same, scaling measured first": lambda: embed_field(
                ScaledImage(stored, scaler(), 0), model, plan
            ),
        }
        cached = ""
        if with_cache:
            cache = TokenCache(Path(folder) / "cache")
            embed_field(image, model, plan, cache=cache)
            cached = f"; {cache.size() / 1e6:.0f} MB in the cache"
            ways["scaled in memory, all in the cache"] = lambda: embed_field(
                image, model, plan, cache=cache
            )
            ways["scaled in memory, none in the cache"] = lambda: embed_field(
                image, model, plan, cache=TokenCache(Path(tempfile.mkdtemp(dir=folder)))
            )
        for run in ways.values():
            run()
        seconds = {way: Seconds() for way in ways}
        for _ in range(repeats):
            for way, run in ways.items():
                with seconds[way].measure():
                    run()
    print(
        f"\nspeed: {title}, layer {layer} of {spec.depth}, {edge} x {edge} px, {channels} "
        f"channels, {len(origins)} tiles of {plan.tile_size} px with a halo of "
        f"{plan.halo}{cached}; median (range) of {repeats} rounds"
    )
    rows = []
    alone = seconds["model alone"]
    for way, values in seconds.items():
        rows.append(
            (
                way,
                f"{np.median(values.cpu):.2f}",
                spread(np.array(values.cpu) / alone.cpu),
                f"{np.median(values.wall):.2f}",
                spread(np.array(values.wall) / alone.wall),
            )
        )
    print_columns(("way", "CPU s", "times the model", "wall s", "times the model"), rows)
    rate = processor_rate()
    estimated = estimate_seconds(len(origins), channels, spec, PipelineConfig(), rate=rate)
    taken = float(np.median(seconds["embed_field, scaled in memory"].wall))
    print(
        f"told before the first run: {estimated:.2f} s, from products at "
        f"{rate / 1e9:.0f} GFLOP/s; taken: {taken:.2f} wall s, "
        f"{taken / estimated:.2f} times"
    )


def speed(edge: int, repeats: int) -> None:
    """Print the tables of --speed."""
    builtin = load_model("builtin", device="cpu")
    speed_of("built-in model", builtin, edge, repeats, with_cache=True)
    speed_of("DINOv2-S, random weights", random_dinov2(), edge, repeats, with_cache=False)


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
            Field(
                data=image,
                channel_names=tuple(f"channel {c}" for c in range(len(image))),
                name=path.name,
            )
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
            raw = [embed_field(image, model, plan) for image in images]
            component = PositionComponent.fit(raw, plan.tile_tokens**2)

            def embed(
                image: Floats, plan: TilePlan = plan, component: PositionComponent = component
            ) -> TokenGrid:
                return component.remove(embed_field(image, model, plan))

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
    model = MemoryLimited(load_model("builtin", device="cpu"))
    plan = TilePlan(model.spec.patch_size, model.spec.tile_size, 2)
    with tempfile.TemporaryDirectory() as folder:
        large = stored_field(Path(folder), 1, size)
        # What torch needs for its first pass is the model's.
        model.tokens(noise(1, 128)[None], model.spec.default_layer, "residual")
        memory, start = Memory(), time.process_time()
        scaler = IntensityScaling().fit([large])
        grid = embed_field(ScaledImage(large, scaler, 0), model, plan, layer=1)
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


@dataclass(frozen=True)
class Way:
    """One row of --dinov2.

    Parameters
    ----------
    name : str
        What it is called.
    kind : {"transformers", "convpaint", "ours"}
        Whose code runs.
    tile : int
        Edge of a tile in pixels; 0 where the whole image goes in at once.
    upsampled : bool
        Whether the features of the last layer are upsampled to pixels.
    halo : int
        Tokens thrown away along the edges of a tile.
    batch_size : int
        Tiles a pass.
    joint : bool
        Whether the three channels go in together.
    """

    name: str
    kind: str
    tile: int = 0
    upsampled: bool = True
    halo: int = 0
    batch_size: int = 1
    joint: bool = True

    def size(self, edge: int) -> tuple[int, int]:
        """Tiles, and patch tokens that go through the network, for an image of that edge."""
        if not self.tile:
            return 1, (-(-edge // DINOV2_PATCH)) ** 2
        plan = TilePlan(DINOV2_PATCH, self.tile, self.halo)
        tiles = len(plan.origins((edge, edge)))
        return tiles, tiles * plan.tile_tokens**2 * (1 if self.joint else 3)


def ways_of(tile: int | None) -> list[Way]:
    """The rows of --dinov2; one more with tiles of ours of that edge."""
    default = model_spec("dinov2-small").tile_size
    plugin = Way(
        "ours, the plugin's tiles, halo and batches",
        "ours",
        default,
        halo=DEFAULT_HALO,
        batch_size=DEFAULT_BATCH,
    )
    ways = [
        Way("transformers, padded image, upsampled", "transformers"),
        Way("transformers, tiles, upsampled", "transformers", DINOV2_TILE),
        Way("transformers, tiles, not upsampled", "transformers", DINOV2_TILE, upsampled=False),
        Way("ours, tiles without halo", "ours", DINOV2_TILE),
        Way("ours, tiles with a halo of 2", "ours", DINOV2_TILE, halo=2),
        Way("transformers, smaller tiles, not upsampled", "transformers", default, upsampled=False),
        Way("ours, smaller tiles without halo", "ours", default),
        plugin,
        replace(plugin, name="ours, the same, each channel by itself", joint=False),
    ]
    if tile is not None:
        ways.append(replace(plugin, name="ours, other tiles, halo of 2", tile=tile))
    return ways


CONVPAINT = (
    Way("napari-convpaint, features of pixels", "convpaint"),
    Way("napari-convpaint, features of patches", "convpaint", upsampled=False),
)


def transformers_way(way: Way, network: Any, image: Floats, device: str) -> Callable[[], Any]:
    """The last layer at every pixel, or at every patch, of the padded image or of its tiles."""
    size = image.shape[-1]
    step = way.tile or DINOV2_PATCH
    width = -(-size // step) * step
    edge = way.tile or width
    scale = DINOV2_PATCH if way.upsampled else 1

    def features(pixels: torch.Tensor) -> torch.Tensor:
        n, _, height, width = pixels.shape
        tokens = network(pixels.to(device)).last_hidden_state[:, 1:]
        grid = tokens.reshape(n, height // DINOV2_PATCH, width // DINOV2_PATCH, -1)
        grid = grid.permute(0, 3, 1, 2)
        if way.upsampled:
            grid = torch.nn.functional.interpolate(grid, scale_factor=scale, mode="bilinear")
        return grid.cpu()

    def run() -> Any:
        padded = np.pad(image, ((0, 0), (0, width - size), (0, width - size)), "reflect")
        pixels = torch.from_numpy(padded)[None]
        if not way.tile:
            return features(pixels)[..., :size, :size]
        n = width * scale // DINOV2_PATCH
        whole = torch.empty(DINOV2["hidden_size"], n, n)
        for i in range(0, width, edge):
            for j in range(0, width, edge):
                top, left, out = (x * scale // DINOV2_PATCH for x in (i, j, edge))
                tile = features(pixels[:, :, i : i + edge, j : j + edge])[0]
                whole[:, top : top + out, left : left + out] = tile
        return whole[:, :size, :size] if way.upsampled else whole

    return run


def convpaint_way(way: Way, network: Any, image: Floats) -> Callable[[], Any]:
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
    if way.upsampled:
        return lambda: model.get_feature_image(image, use_device="cpu")
    width = -(-image.shape[-1] // DINOV2_PATCH) * DINOV2_PATCH
    over = width - image.shape[-1]
    # Its axes are (channel, z, y, x).
    padded = np.pad(image, ((0, 0), (0, over), (0, over)), "reflect")[:, None]
    return lambda: model.fe_model.extract_features(padded, model.get_params())


def dinov2_worker(task: dict[str, Any]) -> dict[str, float]:
    """CPU seconds and peak memory of one way, in a process of its own."""
    way, folder, device = Way(**task["dinov2"]), task["folder"], task["device"]
    image = noise(3, task["size"])
    run: Callable[[], Any]
    if way.kind == "ours":
        model = load_model(folder, device=device, joint=way.joint)
        plan = TilePlan(DINOV2_PATCH, way.tile, way.halo)
        layer = model.spec.depth

        def run() -> Any:
            grid = embed_field(image, model, plan, layer=layer, batch_size=way.batch_size)
            return grid_to_pixels(grid.tokens[..., 0], DINOV2_PATCH, grid.image_shape)

        model.tokens(image[None, :, :DINOV2_PATCH, :DINOV2_PATCH], layer, "residual")
    else:
        # Only the module of the model: the top of the package looks for torchvision.
        from transformers.models.dinov2.modeling_dinov2 import Dinov2Model

        network = Dinov2Model.from_pretrained(folder).eval().to(device)
        if way.kind == "convpaint":
            run = convpaint_way(way, network, image)
        else:
            run = transformers_way(way, network, image, device)
        warm = torch.from_numpy(image[None, :, :DINOV2_PATCH, :DINOV2_PATCH])
        with torch.inference_mode():
            network(warm.to(device))
    memory, seconds = Memory(), Seconds()
    with torch.inference_mode(), seconds.measure():
        run()
    return {"cpu": seconds.cpu[0], "wall": seconds.wall[0], "peak": memory.peak()}


def dinov2(
    size: int, tile: int | None, threads: int, device: str, only: Sequence[str], repeats: int
) -> None:
    """Print the table of --dinov2, or those rows of it whose names begin so."""
    ways = ways_of(tile)
    if device == "cpu" and importlib.util.find_spec("napari_convpaint"):
        ways[2:2] = CONVPAINT
    else:
        print("napari-convpaint is not installed here, or not to run on the processor: left out")
    ways = [way for way in ways if way.name.startswith(tuple(only))]
    rounds: list[Mapping[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        make_dinov2(Path(folder))
        for _ in range(repeats):
            figures = {}
            for way in ways:
                task = {"dinov2": asdict(way), "folder": folder, "size": size, "device": device}
                figures[way.name] = in_own_process(__file__, {**task, "threads": threads}, None)
                print(f"  {way.name}: {figures[way.name]}", file=sys.stderr)
            rounds.append(figures)
    print(
        f"\ndinov2: S/14, random weights, {size} x {size} px, 3 channels, layer 12 of 12, on "
        f"{device}; median (range) of {repeats} rounds"
    )
    rows = []
    for way in ways:
        tiles, tokens = way.size(size)
        cells = [way.name, str(way.tile or "-"), str(tiles), str(tokens)]
        for key in ("cpu", "wall"):
            values = [figures[way.name][key] for figures in rounds]
            cells.append(f"{np.median(values):.1f} ({min(values):.1f}-{max(values):.1f})")
        cells.append(f"{np.median([f[way.name]['peak'] for f in rounds]) / 1e6:.0f}")
        rows.append(cells)
    print_columns(
        ("way", "tile, px", "tiles", "tokens", "CPU s", "wall s", "peak above the model, MB"), rows
    )


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    for question in ("speed", "seams", "large", "dinov2"):
        parser.add_argument(f"--{question}", action="store_true")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--tile", type=int, help="edge of our tiles in another row of --dinov2")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="rows of --dinov2 whose names begin with one of"
    )
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
            arguments.repeats,
        )


if __name__ == "__main__":
    main()
