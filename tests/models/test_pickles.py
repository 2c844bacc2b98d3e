"""PyTorch files that ask for more than they hold."""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch

from core.refusals import refusal
from napari_microdl.models.weights.reading import tensor_shapes


class Empty:
    """Asks for empty memory, which torch allows."""

    def __reduce__(self) -> tuple:
        return bytearray, (10,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_file_that_asks_for_empty_memory_is_refused(tmp_path: Path, zipped: bool):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(3), "b": Empty()}, path, _use_new_zipfile_serialization=zipped)
    # torch itself would open it.
    assert torch.load(path, weights_only=True)["b"] == bytearray(10)
    assert "was not opened" in refusal(tensor_shapes, path)


def test_a_compressed_archive_is_refused(tmp_path: Path):
    path = tmp_path / "a.pth"
    torch.save({"a": torch.ones(3)}, path)
    assert tensor_shapes(path) == {"a": (3,)}
    with (
        zipfile.ZipFile(io.BytesIO(path.read_bytes())) as source,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for entry in source.infolist():
            packed.writestr(entry.filename, source.read(entry))
    assert "was not opened" in refusal(tensor_shapes, path)


def test_tensors_that_are_larger_than_their_numbers_are_refused(tmp_path: Path):
    path = tmp_path / "a.pth"
    for tensor in (
        torch.ones(1).expand(10**9),
        torch.empty(10**12, device="meta"),
        torch.ones(3).to_sparse(),
    ):
        torch.save({"a": tensor}, path)
        assert "was not opened" in refusal(tensor_shapes, path)


def test_a_plain_pickle_is_refused(tmp_path: Path):
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"a": 1}, 4))
    assert "was not opened" in refusal(tensor_shapes, path)
