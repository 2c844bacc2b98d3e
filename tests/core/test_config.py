from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from typing import Any

import pytest

from napari_microdl.core.config import PipelineConfig, SegmentationConfig
from napari_microdl.core.errors import MicrodlError

# Another value for every setting.
OTHERS: dict[str, Any] = {
    "model": "random-init",
    "layer": 3,
    "joint": True,
    "site": "attention",
    "channels": ("DNA", "RNA"),
    "channel_tokens": "mean",
    "scaling": "plate",
    "tile_size": 64,
    "halo": 1,
    "unit": "crop",
    "crop_size": 32,
    "crop_stride": 16,
    "segmentation": SegmentationConfig("DNA", 20.0, "otsu", 30.0),
    "remove_position": False,
    "whiten": False,
    "shrinkage": 0.5,
    "n_components": 8,
    "n_atoms": 64,
    "n_iterations": 3,
    "atoms_per_iteration": 2,
    "update": "adam",
    "init": "linear",
    "learning_rate": 3e-3,
    "selection": "absolute",
    "refit": "full",
    "positive_code": True,
    "control_atoms": 5,
    "max_steps": 7,
    "early_stopping": True,
    "device": "cpu",
    "precision": "bf16",
    "batch_size": 3,
    "cache": False,
    "random_state": 9,
}


def test_every_setting_is_tried_here():
    assert set(OTHERS) == {f.name for f in dataclasses.fields(PipelineConfig)}
    for name, value in OTHERS.items():
        assert getattr(PipelineConfig(), name) != value


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_setting_goes_through_json_and_changes_the_hash(name: str):
    config = PipelineConfig.of(**{name: OTHERS[name]})
    text = json.dumps(config.to_dict(), allow_nan=False)
    assert PipelineConfig.from_dict(json.loads(text)) == config
    assert config.hash != PipelineConfig().hash
    assert PipelineConfig.from_dict(json.loads(text)).hash == config.hash


def test_every_setting_of_the_segmentation_changes_the_hash():
    hashes = {
        PipelineConfig.of(segmentation=SegmentationConfig(**{name: value})).hash
        for name, value in {
            "channel": "DNA",
            "diameter": 20.0,
            "threshold": "otsu",
            "min_area": 3.0,
        }.items()
    }
    assert len(hashes | {PipelineConfig().hash}) == 5


def test_the_hash_is_the_same_in_every_process():
    code = "from napari_microdl.core.config import PipelineConfig as C; print(C(layer=3).hash)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONHASHSEED": "1"},
    )
    assert done.stdout.strip() == PipelineConfig.of(layer=3).hash
    assert len(PipelineConfig().hash) == 12
    int(PipelineConfig().hash, 16)


def test_what_is_missing_keeps_its_default():
    assert PipelineConfig.from_dict({}) == PipelineConfig()
    values = {"unit": "token", "segmentation": {"diameter": 20}}
    config = PipelineConfig.from_dict(values)
    assert config.units.kind == "token"
    assert config.cells == SegmentationConfig(diameter=20)
    assert values == {"unit": "token", "segmentation": {"diameter": 20}}, "the input was changed"


def test_unknown_settings_give_one_sentence():
    with pytest.raises(MicrodlError) as caught:
        PipelineConfig.from_dict({"unit": "cell", "n_atom": 3, "batchsize": 1})
    assert str(caught.value) == (
        "The settings hold 'batchsize', 'n_atom', which this version does not know; "
        "remove or correct them."
    )
    with pytest.raises(MicrodlError, match=r"The segmentation settings do not fit: .*'radius'"):
        PipelineConfig.from_dict({"segmentation": {"radius": 3}})
    with pytest.raises(MicrodlError, match="Threshold 'x' is not known"):
        PipelineConfig.from_dict({"segmentation": {"threshold": "x"}})


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        PipelineConfig().unit = "crop"
