"""Loaders and the whole files that damaged ones are made from; `scripts/fuzz.py` tries many more.

An input of bytes says how a whole file is changed, so that a fuzzer that looks at which lines are
reached gets deep into a loader: most inputs change a few bytes, some give the whole content.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ngio
import numpy as np
import pandas as pd
import tifffile
import torch
from PIL import Image

from concepts.test_activations import make as make_activations
from concepts.test_dictionary import make as make_dictionary
from fields.test_harmony import index as harmony_index
from models import published
from models.test_custom import TOML
from napari_microdl.concepts.dictionary import ConceptDictionary
from napari_microdl.concepts.store import open_activations, save_activations
from napari_microdl.core.config import PipelineConfig, read_config, read_window, write_config
from napari_microdl.core.digests import content_digest
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.task import current_task
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.estimators.icfl.checkpoint import Checkpoint
from napari_microdl.fields.harmony import find_indexed
from napari_microdl.fields.illumination import read_illumination
from napari_microdl.fields.image_files import channels_shape, read_channels
from napari_microdl.fields.metadata import read_table
from napari_microdl.fields.ome_zarr import find_images, open_image
from napari_microdl.fields.pixel_size import read_pixel_size
from napari_microdl.fields.query import select
from napari_microdl.models.formats.custom import hugging_face_recipe
from napari_microdl.models.registry import load_model, recipes
from napari_microdl.models.weights.files import weight_map
from napari_microdl.pipeline.plate.folder import Manifest
from napari_microdl.pipeline.plate.shards import read_shard, write_shard
from napari_microdl.tokens import TokenCache

MOST_SECONDS = 2.0
MOST_BYTES = 2**30
# What no loader has any business to do.
_FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "socket.connect")
_watched: list[str] = []


class FaultError(Exception):
    """A loader did what none may do."""


@dataclass
class Loader:
    """A loader and the whole files that it reads.

    Parameters
    ----------
    name : str
        What it reads.
    files : list of Path
        Whole files, each of which is changed in turn.
    load : callable
        Reads them; its value tells all numbers of what was read, or is None.
    sealed : bool
        Whether any other value than that of the whole files is a fault.
    """

    name: str
    files: list[Path]
    load: Callable[[], Any]
    sealed: bool = False
    whole: list[bytes] = field(init=False)
    value: Any = field(init=False)

    def __post_init__(self) -> None:
        self.whole = [file.read_bytes() for file in self.files]
        self.value = self.load()


def changed(whole: bytes, steps: bytes) -> bytes:
    """A file changed as an input says: its content, or up to eight changes of a few bytes."""
    if steps[:1] > b"\xf0":
        return steps[1:]
    content = bytearray(whole)
    for begin in range(1, min(len(steps), 49), 6):
        part = steps[begin : begin + 6].ljust(6, b"\0")
        place = int.from_bytes(part[1:4], "little") % (len(content) + 1)
        kind, value = part[0] % 6, part[4:6]
        if kind == 0 and place < len(content):
            content[place] ^= 1 << (value[0] % 8)
        elif kind == 1 and place < len(content):
            content[place] = value[0]
        elif kind == 2:
            content[place:place] = value[:1] * (1 + value[1])
        elif kind == 3:
            del content[place : place + 1 + value[0]]
        elif kind == 4:
            content[place : place + 8] = (b"\xff" * 8, b"\0" * 8, b"9" * 8, b"[" * 8)[value[0] % 4]
        else:
            other = (place + int.from_bytes(value, "little")) % (len(content) + 1)
            content[place:place] = content[other : other + 64]
    return bytes(content)


def try_input(loader: Loader, data: bytes) -> str:
    """Give a loader one damaged file.

    Returns
    -------
    str
        "refused" or "read".

    Raises
    ------
    FaultError
        Says what it did that no loader may do.
    """
    number = data[0] % len(loader.files) if data else 0
    file, whole = loader.files[number], loader.whole[number]
    content = changed(whole, data[1:])
    file.write_bytes(content)
    _watched.clear()
    before, started = _most_memory(), time.process_time()
    try:
        with current_task().taking_notes():
            value = loader.load()
        found = "read"
    except MicrodlError as error:
        found = "refused"
        if "\n" in str(error) or len(str(error)) > 2000:
            raise FaultError(f"{loader.name}: no sentence: {str(error)[:300]!r}") from error
    except Exception as error:
        raise FaultError(f"{loader.name}: {type(error).__name__}: {error}") from error
    finally:
        file.write_bytes(whole)
    spent, taken = time.process_time() - started, _most_memory() - before
    if _watched:
        raise FaultError(f"{loader.name}: ran {_watched[0]}")
    if spent > MOST_SECONDS:
        raise FaultError(f"{loader.name}: took {spent:.1f} s")
    if taken > MOST_BYTES:
        raise FaultError(f"{loader.name}: took {taken / 2**30:.1f} GiB")
    if found == "read" and loader.sealed and value not in (loader.value, None):
        raise FaultError(f"{loader.name}: read other numbers than were written")
    return found


def _most_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _watch(event: str, _: Any) -> None:
    if event in _FORBIDDEN:
        _watched.append(event)


def random_inputs(n: int, seed: int = 0) -> Iterator[bytes]:
    """Inputs without knowledge of the loader."""
    random = np.random.default_rng(seed)
    for _ in range(n):
        yield random.bytes(2 + 6 * int(random.integers(1, 5)))


# The loaders --------------------------------------------------------------------------------------


def all_loaders(folder: Path) -> dict[str, Callable[[], Loader]]:
    """How to make each of them, by its name, with its files in a folder of its own."""
    sys.addaudithook(_watch)
    os.environ["NAPARI_MICRODL_CACHE"] = str(folder / "cache")

    def made(make: Callable[[Path], Loader], name: str) -> Callable[[], Loader]:
        place = folder / name.replace(" ", "_")
        return lambda: (place.mkdir(), make(place))[1]

    return {name: made(make, name) for name, make in _MAKERS.items()}


def _dictionary(folder: Path) -> Loader:
    path = make_dictionary().save(folder / "d")

    def load() -> str:
        return _of_dictionary(ConceptDictionary.load(path))

    return Loader("dictionary", [path], load, sealed=True)


def _of_dictionary(dictionary: ConceptDictionary) -> str:
    tensors, header = dictionary._pack()
    return content_digest(tensors, json.dumps(header))


def _checkpoint(folder: Path) -> Loader:
    path = folder / "fit"
    x = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    ICFL(8, max_steps=3, random_state=0).fit(x, checkpoint=path)

    def load() -> str:
        state = Checkpoint(path, 1, resume=True)._stored
        assert state is not None
        return content_digest(state.arrays, json.dumps(state.numbers))

    return Loader("checkpoint", [path], load, sealed=True)


def _activations(folder: Path) -> Loader:
    place = save_activations(make_activations()[1], folder / "a")
    files = sorted(p for p in place.rglob("*") if p.is_file() and p.name != ".lock")

    def load() -> str:
        found = open_activations(place)
        parts = [_of_dictionary(found.dictionary), found.units.to_json(), found.ranking.to_json()]
        arrays = {"vectors": found.vectors, "lengths": found.lengths}
        for name, codes in (("codes", found.codes), ("columns", found.columns)):
            assert codes is not None
            arrays |= {f"{name}.{part}": getattr(codes, part) for part in ("data", "indices")}
        return content_digest(arrays, "".join(parts))

    return Loader("activations", files, load, sealed=True)


def _shard(folder: Path) -> Loader:
    path = folder / "000001.safetensors"
    write_shard(path, {"vectors": np.arange(12.0).reshape(3, 4)}, "key", {"n_units": 3})

    def load() -> str:
        tensors, facts, _ = read_shard(path)
        return content_digest(tensors, json.dumps(facts))

    return Loader("shard", [path], load, sealed=True)


def _token_cache(folder: Path) -> Loader:
    cache = TokenCache(folder)
    cache.put("ab" * 32, np.arange(24, dtype=np.float32).reshape(2, 3, 4))

    def load() -> str | None:
        found = cache.get("ab" * 32)
        return None if found is None else content_digest({"tokens": found}, "")

    return Loader("token cache", [cache._path("ab" * 32)], load, sealed=True)


def _settings(folder: Path) -> Loader:
    path = folder / "settings.json"
    write_config(PipelineConfig(), path, {"fields": "x.csv", "images": [{"layer": "a"}]})
    return Loader("settings", [path], lambda: (read_config(path), read_window(path)))


def _description(folder: Path) -> Loader:
    published.write(_lab_state(), folder / "encoder.safetensors")
    (folder / "ours.toml").write_text(TOML)
    return _model("description", folder, [folder / "ours.toml"])


def _weights(suffix: str) -> Callable[[Path], Loader]:
    def make(folder: Path) -> Loader:
        weights = folder / f"encoder.{suffix}"
        published.write(_lab_state(), weights)
        (folder / "ours.toml").write_text(TOML.replace("encoder.safetensors", weights.name))
        return _model(f"weights {suffix}", folder, [weights])

    return make


def _old_weights(folder: Path) -> Loader:
    weights = folder / "encoder.pth"
    torch.save(_lab_state(), weights, _use_new_zipfile_serialization=False)
    (folder / "ours.toml").write_text(TOML.replace("encoder.safetensors", weights.name))
    return _model("weights old pth", folder, [weights])


def _lab_state() -> dict[str, torch.Tensor]:
    recipe = published.small(recipes()["unidino"])
    return published.timm_state(replace(recipe.config, in_channels=2))


def _model(name: str, folder: Path, files: list[Path]) -> Loader:
    def load() -> None:
        # Of weights in pieces a copy is kept by their digest, which says nothing of the loader.
        shutil.rmtree(Path(os.environ["NAPARI_MICRODL_CACHE"]) / "weights", ignore_errors=True)
        load_model(str(folder / "ours.toml"), device="cpu")

    return Loader(name, files, load)


def _config(folder: Path) -> Loader:
    config = {
        "model_type": "dinov2",
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "patch_size": 14,
        "image_size": 70,
        "mlp_ratio": 4,
        "num_channels": 3,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
    }
    processor = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "rescale_factor": 0.004}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    files = [folder / "config.json", folder / "preprocessor_config.json"]
    return Loader("config.json", files, lambda: hugging_face_recipe(folder))


def _index_of_weights(folder: Path) -> Loader:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {f"t{i}": f"m-{i % 2}.bin" for i in range(5)}}))
    return Loader("index of weights", [path], lambda: weight_map(path))


def _tiff(folder: Path) -> Loader:
    pixels = np.random.default_rng(0).integers(0, 99, (2, 24, 20)).astype(np.uint16)
    options = ({"ome": True}, {"compression": "zlib"}, {"imagej": True}, {})
    files = [folder / f"{number}.tif" for number in range(len(options))]
    for path, option in zip(files, options, strict=True):
        tifffile.imwrite(path, pixels, photometric="minisblack", **option)

    def load() -> None:
        for path in files:
            read_pixel_size(path)
            channels_shape(path, whole=True)
            read_channels(path)

    return Loader("tiff", files, load)


def _picture(folder: Path) -> Loader:
    files = [folder / "a.png", folder / "b.jpg", folder / "p.png"]
    grey = Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30))
    for path, picture in zip(files, (grey, grey, grey.convert("P")), strict=True):
        picture.save(path)

    def load() -> None:
        for path in files:
            channels_shape(path)
            read_channels(path)

    return Loader("picture", files, load)


def _table(folder: Path) -> Loader:
    table = pd.DataFrame({"Metadata_Well": ["A01", "B02"], "FileName_DNA": ["a.tif", "b.tif"]})
    files = [folder / "a.csv", folder / "b.tsv", folder / "c.parquet"]
    table.to_csv(files[0], index=False)
    table.to_csv(files[1], index=False, sep="\t", encoding="utf-16")
    table.to_parquet(files[2])
    return Loader("table", files, lambda: [read_table(path) for path in files])


def _harmony(folder: Path) -> Loader:
    path = folder / "Index.xml"
    path.write_text(harmony_index(6, [(2, 3, 1, 1, 1), (2, 3, 1, 1, 2)]).replace("x" * 10000, "x"))
    return Loader("harmony", [path], lambda: find_indexed(path))


def _illumination(folder: Path) -> Loader:
    path = folder / "illum.npy"
    np.save(path, np.full((6, 5), 1.5))
    return Loader("illumination", [path], lambda: np.array(read_illumination(path)))


def _zarr(folder: Path) -> Loader:
    place = folder / "image.zarr"
    pixels = np.arange(2 * 16 * 12, dtype=np.uint16).reshape(2, 16, 12)
    options = {"pixelsize": 0.65, "axes_names": ("c", "y", "x"), "channels_meta": ["DNA", "ER"]}
    ngio.create_ome_zarr_from_array(place, pixels, levels=1, ngff_version="0.4", **options)
    files = sorted(path for path in place.rglob("*") if path.is_file())

    def load() -> None:
        fields, _ = find_images(place)
        data, *_ = open_image(fields[0])
        np.asarray(data[:])

    return Loader("ome zarr", files, load)


def _manifest(folder: Path) -> Loader:
    begun = {"config": PipelineConfig().to_dict(), "channels": ["DNA"]}
    manifest = Manifest(folder, begun)
    with manifest.making("places.safetensors", "ab"):
        pass
    return Loader(
        "plate manifest",
        [folder / "plate.json"],
        lambda: Manifest(folder, begun).is_made("places.safetensors", "ab"),
    )


def _query(folder: Path) -> Loader:
    table = pd.DataFrame(
        {"Metadata_condition": ["DMSO", "drug"], "Metadata_control": [True, False], "n": [1, 2]}
    )
    path = folder / "query.txt"
    path.write_text("Metadata_condition == 'DMSO' and not (`n` >= 2 or n in [3, 4]) | ~(n < 1.5)")

    def load() -> None:
        select(table, path.read_bytes().decode("utf-8", "replace"))

    return Loader("query", [path], load)


_MAKERS: dict[str, Callable[[Path], Loader]] = {
    "dictionary": _dictionary,
    "checkpoint": _checkpoint,
    "activations": _activations,
    "shard": _shard,
    "token cache": _token_cache,
    "settings": _settings,
    "description": _description,
    "weights safetensors": _weights("safetensors"),
    "weights pth": _weights("pth"),
    "weights old pth": _old_weights,
    "config.json": _config,
    "index of weights": _index_of_weights,
    "tiff": _tiff,
    "picture": _picture,
    "table": _table,
    "harmony": _harmony,
    "illumination": _illumination,
    "ome zarr": _zarr,
    "plate manifest": _manifest,
    "query": _query,
}
LOADERS = tuple(_MAKERS)
