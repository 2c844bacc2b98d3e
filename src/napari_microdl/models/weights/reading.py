"""Reads weights without trusting them: told by their first bytes, never executed, checked."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.files import cache_folder, write_whole
from napari_microdl.core.reading import plain_file, refusing, require_file
from napari_microdl.core.safetensors_files import begins_as_safetensors, describe_foreign
from napari_microdl.models.weights.assembly import (
    DoesNotFitError,
    needed_names,
)
from napari_microdl.models.weights.files import is_index, weight_map, weights_files, weights_sha256
from napari_microdl.models.weights.keys import KeyMap
from napari_microdl.models.weights.pickles import require_modest

# A safetensors file of which less than this is needed is cut down, too.
WORTH_KEEPING = 0.5
# Entries of a checkpoint under which its weights may lie; of DINO's two networks the better one.
WRAPPERS = ("teacher", "state_dict", "model")
# Where a copy states the digest of its tensors.
_DIGEST = "sha256"


def _begin(path: Path) -> bytes:
    with (
        refusing(f"'{path.name}' cannot be read ({{reason}}); check that the file exists."),
        plain_file(path) as file,
    ):
        start = file.read(16)
    if len(start) < 10:
        raise MicrodlError(
            f"'{path.name}' holds no weights: it is only {len(start)} bytes long; fetch it again."
        )
    return start


def _is_pickle(start: bytes, path: Path) -> bool:
    """Whether it is one, told by its first bytes and not by its name."""
    if begins_as_safetensors(start):
        return False
    if start[:2] == b"PK" or start[:1] == b"\x80":
        return True
    raise MicrodlError(
        f"'{path.name}' holds no weights that can be read: {describe_foreign(start)}; give a "
        "safetensors or PyTorch file."
    )


def _unwrapped(content: Any) -> dict[str, Tensor]:
    """The weights themselves, out of what a training run saved around them."""
    while isinstance(content, Mapping):
        inner = next((w for w in WRAPPERS if isinstance(content.get(w), Mapping)), None)
        if inner is None:
            return {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
        content = content[inner]
    return {}


def _require_plain(tensor: Tensor) -> None:
    """Refuse a tensor that is no matrix of numbers in memory, or says to be larger than these."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ValueError("a tensor holds no plain numbers")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError("a tensor is larger than its numbers")


def _read_pickle(path: Path) -> dict[str, Tensor]:
    # torch goes by the name where it ends in .safetensors, unless it gets an open file; a file of
    # another name is mapped, so that only what is needed of it is read.
    misnamed = path.suffix == ".safetensors"
    with (
        refusing(
            f"'{path.name}' was not opened: it is damaged, or asks to run code, which weights "
            "never need; fetch it from its source, as safetensors if it is offered."
        ),
        plain_file(path) as file,
    ):
        zipped = zipfile.is_zipfile(file)
        require_modest(file, zipped=zipped)
        file.seek(0)
        # Only tensors and plain containers are made; anything else in the file is refused.
        content = torch.load(
            file if misnamed else path,
            map_location="cpu",
            weights_only=True,
            mmap=not misnamed and zipped,
        )
        tensors = _unwrapped(content)
        for tensor in tensors.values():
            _require_plain(tensor)
    if not tensors:
        raise MicrodlError(f"'{path.name}' holds no tensors; give the file of the weights.")
    return tensors


def _read_safetensors(
    path: Path, choose: Callable[[Iterable[str]], Iterable[str]]
) -> tuple[dict[str, Tensor], float]:
    """Tensors that `choose` picks by name, one by one, and their share of the file."""
    from safetensors import safe_open

    with _undamaged(path), safe_open(path, framework="pt", device="cpu") as file:
        names = list(file.keys())
    chosen = list(choose(names))
    with _undamaged(path), safe_open(path, framework="pt", device="cpu") as file:
        tensors = {name: file.get_tensor(name) for name in chosen}
    read = sum(t.numel() * t.element_size() for t in tensors.values())
    return tensors, read / path.stat().st_size


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of a file, or of all files that an index names."""
    if not is_index(path):
        return _shapes_of_file(path)
    shapes: dict[str, tuple[int, ...]] = {}
    held: dict[str, str] = {}
    for file in weights_files(path):
        here = _shapes_of_file(file)
        if twice := sorted(set(here) & set(shapes)):
            raise MicrodlError(
                f"'{file.name}' holds '{twice[0]}', which '{held[twice[0]]}' holds too; fetch all "
                "files of the model again."
            )
        shapes |= here
        held |= dict.fromkeys(here, file.name)
    if wrong := sorted(set(held.items()) ^ set(weight_map(path).items())):
        raise MicrodlError(
            f"The files beside '{path.name}' do not hold '{wrong[0][0]}' where it says; fetch all "
            "files of the model again."
        )
    return shapes


def _shapes_of_file(path: Path) -> dict[str, tuple[int, ...]]:
    if _is_pickle(_begin(path), path):
        return {k: tuple(v.shape) for k, v in _read_pickle(path).items()}
    from safetensors import safe_open

    with (
        _undamaged(path),
        safe_open(path, framework="pt", device="cpu") as file,
    ):
        return {k: tuple(file.get_slice(k).get_shape()) for k in file.keys()}  # noqa: SIM118


def _undamaged(path: Path) -> AbstractContextManager[None]:
    return refusing(f"'{path.name}' is truncated or damaged; fetch it again from its source.")


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of the names, types, shapes and bytes of tensors, in hex."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _read_copy(path: Path) -> dict[str, Tensor] | None:
    """Tensors of a copy in the cache folder; None where it is missing or not what was written."""
    from safetensors import SafetensorError, safe_open

    try:
        require_file(path)
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
            stated = (file.metadata() or {}).get(_DIGEST)
    except (OSError, SafetensorError):
        return None
    return tensors if stated == _digest(tensors) else None


def _write_copy(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors for the next time; a cache folder that cannot be written to is none."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with suppress(OSError, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        own = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}
        with write_whole(path) as partial:
            save_file(own, partial, {_DIGEST: _digest(own)})


def _read(
    path: Path, choose: Callable[[Iterable[str]], Iterable[str]]
) -> tuple[dict[str, Tensor], float]:
    """Tensors that `choose` picks by name from a file or the files of an index, and their share."""
    if not is_index(path):
        if not _is_pickle(_begin(path), path):
            return _read_safetensors(path, choose)
        loaded = _read_pickle(path)
        return {name: loaded[name] for name in choose(loaded)}, 0.0
    chosen = set(choose(tensor_shapes(path)))
    tensors: dict[str, Tensor] = {}
    read = size = 0.0
    for file in weights_files(path):
        found, share = _read(file, chosen.intersection)
        tensors |= found
        read += share * file.stat().st_size
        size += file.stat().st_size
    return tensors, read / size


def encoder_tensors(
    path: Path, keys: KeyMap, sha256: str | None = None
) -> tuple[dict[str, Tensor], str]:
    """Tensors of a file, or of an index, that an encoder needs, and the digest of the file.

    A checkpoint, and a file most of which is not needed, is cut down to them once and read from
    the cache folder from then on; a copy whose own digest does not fit is made again.

    Raises
    ------
    MicrodlError
        If it cannot be read, has another digest or belongs to another model.
    """
    for file in weights_files(path):
        _is_pickle(_begin(file), file)
    digest = weights_sha256(path)
    if sha256 and digest != sha256.lower():
        raise MicrodlError(
            f"'{path.name}' is not the file that was pinned: its sha256 is {digest}, not "
            f"{sha256.lower()}; fetch it again from its source."
        )
    copy = cache_folder() / "weights" / f"{digest}-{keys.name}.safetensors"
    if (known := _read_copy(copy)) is not None:
        return known, digest

    def needed(names: Iterable[str]) -> Iterable[str]:
        return needed_names(names, keys)

    tensors, share = _read(path, needed)
    if share < WORTH_KEEPING:
        _write_copy(copy, tensors)
    return tensors, digest


def finite(tensor: Tensor, name: str, path: Path) -> Tensor:
    """A tensor of weights as float32.

    Raises
    ------
    DoesNotFitError
        If its numbers are complex.
    MicrodlError
        If some are NaN or infinite.
    """
    if tensor.is_complex():
        raise DoesNotFitError(f"'{name}' holds complex numbers")
    tensor = tensor.float()
    if not torch.isfinite(tensor).all():
        raise MicrodlError(
            f"'{path.name}' holds NaN or infinite values in '{name}'; it was not used."
        )
    return tensor


def not_the_weights(path: Path, title: str, error: DoesNotFitError) -> MicrodlError:
    """The sentence that weights which do not fit a model are refused with."""
    return MicrodlError(
        f"'{path.name}' does not hold the weights of {title}: {error}; choose the file that "
        "belongs to the model."
    )
