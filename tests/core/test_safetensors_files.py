from __future__ import annotations

import hashlib
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from core.refusals import Payload, refusal
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.safetensors_files import file_sha256, read_safetensors

TENSORS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1, -2], np.int16),
    "c": np.array([0.5, 0.25], np.float16),
}


def refused(path: Path) -> str:
    message = refusal(read_safetensors, path)
    assert message.startswith(f"'{path.name}' ")
    assert ". " not in message, "more than one sentence"
    return message


def write_raw(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_tensors_and_metadata_come_back(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_file(TENSORS, path, metadata={"key": "value"})
    tensors, metadata = read_safetensors(path)
    assert metadata == {"key": "value"}
    assert set(tensors) == set(TENSORS)
    for name, expected in TENSORS.items():
        assert tensors[name].dtype == expected.dtype
        np.testing.assert_array_equal(tensors[name], expected)


def test_a_file_without_metadata_is_read(tmp_path: Path):
    save_file(TENSORS, tmp_path / "x.safetensors")
    assert read_safetensors(tmp_path / "x.safetensors")[1] == {}
    path = write_raw(tmp_path / "y.safetensors", {"__metadata__": None})
    assert read_safetensors(path) == ({}, {})


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path):
    assert "No such file or directory" in refused(tmp_path / "none.safetensors")
    assert "cannot be read" in refused(tmp_path)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, protocol: int):
    mark = tmp_path / "executed"
    path = tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps({"weights": Payload(mark)}, protocol))
    message = refused(path)
    assert not mark.exists()
    if protocol >= 2:
        assert "it is a pickle, which may hold code; it was not opened" in message
    # The payload does work: the test above is not empty.
    pickle.loads(path.read_bytes())["weights"].close()
    assert mark.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pytorch_checkpoint_under_another_name_is_refused_and_never_run(
    tmp_path: Path, zipped: bool
):
    mark = tmp_path / "executed"
    path = tmp_path / "weights.safetensors"
    torch.save(
        {"weight": torch.ones(4), "payload": Payload(mark)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    message = refused(path)
    assert "may hold code; it was not opened, use a safetensors file" in message
    assert ("zip archive, as PyTorch checkpoints are" in message) is zipped
    assert not mark.exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "it is an HDF5 file"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}" + bytes(64), "it does not begin as one"),
        (b"<!DOCTYPE html><html>404 Not Found</html>", "it does not begin as one"),
        (b"version https://git-lfs.github.com/spec/v1\nsize 1\n", "it does not begin as one"),
        (b"", "it is only 0 bytes long; fetch it again"),
    ],
    ids=["HDF5", "numpy", "a page", "a pointer", "empty"],
)
def test_other_formats_are_named_or_refused(tmp_path: Path, content: bytes, reason: str):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert reason in refused(path)


@given(kept=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, kept: float):
    content = save(TENSORS, {"key": "value"})
    path = tmp_path_factory.getbasetemp() / "cut.safetensors"
    path.write_bytes(content[: int(len(content) * kept)])
    assert "is not a readable safetensors file" in refused(path)


@given(place=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_flipped_byte_gives_tensors_or_one_sentence(
    tmp_path_factory: pytest.TempPathFactory, place: int, flip: int
):
    content = bytearray(save(TENSORS, {"key": "value"}))
    content[place % len(content)] ^= flip
    path = tmp_path_factory.getbasetemp() / "flipped.safetensors"
    path.write_bytes(content)
    try:
        tensors, _ = read_safetensors(path)
    except MicrodlError:
        refused(path)
    else:
        assert all(np.isfinite(t).all() for t in tensors.values())


def test_bytes_after_the_end_are_refused(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    path.write_bytes(save(TENSORS) + b"more")
    assert "truncated or damaged" in refused(path)


@pytest.mark.parametrize(
    "header",
    [
        b"{not json at all}",
        b"{" + b"[" * 5,
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": "\xff\xfe"}',
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "X32", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"shape": [1]}},
        {"a": 3},
        {"__metadata__": {"key": 1}},
        {"__metadata__": [1]},
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, header: object):
    message = refused(write_raw(tmp_path / "x.safetensors", header, bytes(4)))
    assert "it is truncated or damaged; fetch it or save it again" in message


@pytest.mark.parametrize(("kind", "size"), [("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1)])
def test_a_type_that_numpy_lacks_is_refused(tmp_path: Path, kind: str, size: int):
    header = {"a": {"dtype": kind, "shape": [4], "data_offsets": [0, 4 * size]}}
    refused(write_raw(tmp_path / "x.safetensors", header, bytes(4 * size)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.complex64])
def test_nan_and_infinity_are_refused_by_the_tensor_name(tmp_path: Path, bad: float, kind: type):
    path = tmp_path / "x.safetensors"
    save_file({**TENSORS, "bad.weight": np.array([1, bad, 2], kind)}, path)
    assert refused(path) == (
        "'x.safetensors' holds NaN or infinite values in 'bad.weight'; it was not used."
    )


def test_the_digest_is_that_of_the_file(tmp_path: Path):
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(range(256)) * 5000)
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
