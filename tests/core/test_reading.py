from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.refusals import refusal
from napari_microdl.core.config import read_config
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.reading import (
    guarding,
    plain_file,
    read_bytes,
    read_json,
    read_toml,
    reason_of,
    refusing,
    require_file,
)
from napari_microdl.fields.illumination import read_illumination
from napari_microdl.fields.image_files import channels_shape, read_channels
from napari_microdl.fields.metadata import read_table
from napari_microdl.models.formats.custom import hugging_face_recipe, toml_recipe
from napari_microdl.models.weights.reading import tensor_shapes

pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RecursionError("x"), "it is nested too deep"),
        (MemoryError(), "it asks for more memory than there is"),
        (FileNotFoundError(2, "No such file or directory", "a"), "No such file or directory"),
        (ValueError("two\nlines."), "two lines"),
        (ZeroDivisionError(), "ZeroDivisionError"),
        (RuntimeError("x" * 1000), "x" * 237 + "..."),
    ],
)
def test_whatever_goes_wrong_is_one_sentence(error, reason):
    assert reason_of(error) == reason

    def load() -> None:
        with refusing("'a' cannot be read ({reason})."):
            raise error

    assert refusal(load) == f"'a' cannot be read ({reason})."


def test_a_sentence_that_is_one_already_stays_where_it_is_guarded():
    def load() -> None:
        with guarding("'a' cannot be read ({reason})."):
            raise MicrodlError("There is no well.")

    assert refusal(load) == "There is no well."


def test_only_so_many_bytes_are_read(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == read_bytes(path) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, at most 4 are read"):
        read_bytes(path, 4)


@pipes
def test_a_pipe_and_a_device_are_no_files_and_are_not_waited_for(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path(os.devnull)):
        for read in (read_bytes, read_json, read_toml, require_file):
            with pytest.raises(OSError, match="a pipe or a device, not a file"):
                read(path)
        with pytest.raises(OSError, match="a pipe or a device"), plain_file(path):
            pass


@pipes
@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("settings.json", read_config),
        ("model.toml", toml_recipe),
        ("encoder.safetensors", tensor_shapes),
        ("encoder.pth", tensor_shapes),
        ("image.tif", read_channels),
        ("image.tif", channels_shape),
        ("image.png", read_channels),
        ("image.png", channels_shape),
        ("table.csv", read_table),
        ("table.parquet", read_table),
        ("illum.npy", read_illumination),
    ],
)
def test_no_loader_waits_for_a_pipe(tmp_path, name, load):
    os.mkfifo(tmp_path / name)
    assert "a pipe or a device" in refusal(load, tmp_path / name)


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("name", "text", "load"),
    [
        ("settings.json", f'{{"a":{DEEP}', read_config),
        ("settings.json", f'{{"random_state": {"1" * 5000}}}', read_config),
        ("settings.json", '{"random_state": NaN}', read_config),
        ("model.toml", f"weights={DEEP}", toml_recipe),
        ("config.json", f'{{"a":{DEEP}', lambda path: hugging_face_recipe(path.parent)),
        (
            "config.json",
            '{"model_type": ["dinov2"]}',
            lambda path: hugging_face_recipe(path.parent),
        ),
        (
            "config.json",
            '{"model_type": "dinov2", "hidden_size": 48, "num_hidden_layers": 100000000, '
            '"num_attention_heads": 3, "patch_size": 14, "image_size": 70, "mlp_ratio": 4}',
            lambda path: hugging_face_recipe(path.parent),
        ),
        (
            "model.toml",
            'weights = "a"\nlayout = "timm"\n[vit]\ndim = 24\nn_heads = 0\npatch_size = 8\n'
            "depth = 2\n",
            toml_recipe,
        ),
    ],
)
def test_what_ended_in_other_errors_is_one_sentence(tmp_path, name, text, load):
    (tmp_path / name).write_text(text)
    assert len(refusal(load, tmp_path / name)) < 600
