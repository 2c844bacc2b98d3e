from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from core.processes import python
from core.refusals import refusal
from napari_microdl.core.config import (
    PipelineConfig,
    SegmentationConfig,
    read_config,
    read_window,
    write_config,
)

# Another value for every setting, by its own name.
OTHERS: dict[str, Any] = {
    "illumination": False,
    "level": 2,
    "labels": "nuclei",
    "model": "random-init",
    "layer": 3,
    "joint": True,
    "site": "attention",
    "channels": ("DNA", "RNA"),
    "channel_tokens": "mean",
    "scaling": "plate",
    "tile_size": 64,
    "halo": 1,
    "orientations": 8,
    "unit": "crop",
    "crop_size": 32,
    "crop_stride": 16,
    "pooling": "mean",
    "segmentation": SegmentationConfig(
        channel="DNA", diameter=20.0, threshold="otsu", min_area=30.0
    ),
    "remove_position": False,
    "whiten": False,
    "shrinkage": 0.5,
    "plates": "scale",
    "n_components": 8,
    "background_weight": 50.0,
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
    "n_starts": 3,
    "device": "cpu",
    "precision": "bf16",
    "batch_size": 3,
    "cache": False,
    "random_state": 9,
}
OLD = Path(__file__).parents[1] / "data" / "version_0_1"


def flat(config: PipelineConfig) -> dict[str, Any]:
    """All settings by group and name."""
    found: dict[str, Any] = {}
    for group, values in config.to_dict().items():
        if isinstance(values, dict):
            found |= {f"{group}.{name}": value for name, value in values.items()}
        else:
            found[group] = values
    return found


def test_every_setting_is_tried_here():
    changed = flat(PipelineConfig.of(**OTHERS))
    for name, default in flat(PipelineConfig()).items():
        assert changed[name] != default, name


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_a_setting_goes_through_a_file_and_changes_the_hash(name: str, tmp_path: Path):
    config = PipelineConfig.of(**{name: OTHERS[name]})
    path = tmp_path / "settings.json"
    write_config(config, path)
    again = read_config(path)
    assert again == config
    assert again.hash == config.hash != PipelineConfig().hash
    # Every setting is there to be seen and changed.
    assert flat(again).keys() == flat(PipelineConfig()).keys()
    assert json.loads(path.read_text()) == config.to_dict()


def test_every_setting_of_the_segmentation_changes_the_hash():
    values = {"channel": "DNA", "diameter": 20.0, "threshold": "otsu", "min_area": 3.0}
    hashes = {PipelineConfig(cells={name: value}).hash for name, value in values.items()}
    assert len(hashes | {PipelineConfig().hash}) == 5


def test_the_hash_is_the_same_in_every_process():
    code = "from napari_microdl.core.config import PipelineConfig as C; print(C.of(layer=3).hash)"
    done = python(code, env={**os.environ, "PYTHONHASHSEED": "1"})
    assert done.stdout.strip() == PipelineConfig.of(layer=3).hash
    assert len(PipelineConfig().hash) == 12
    int(PipelineConfig().hash, 16)


def test_groups_and_names_without_groups_say_the_same():
    config = PipelineConfig(
        model={"name": "random-init"},
        units={"kind": "crop", "crop_size": 32},
        whitening={"enabled": False},
        cells={"diameter": 20.0},
    )
    same = PipelineConfig.of(model="random-init", unit="crop", crop_size=32, whiten=False)
    assert config == same.with_settings(segmentation=SegmentationConfig(diameter=20))
    assert config.with_settings(n_atoms=3).dictionary.n_atoms == 3
    assert config.replace(cache=False).units == config.units


@pytest.mark.parametrize("name", ["settings", "settings_other"])
def test_settings_of_version_0_1_are_read(name: str, tmp_path: Path):
    written = json.loads((OLD / f"{name}.json").read_text())
    config = read_config(OLD / f"{name}.json")
    asked = {key: tuple(v) if isinstance(v, list) else v for key, v in written.items()}
    asked["segmentation"] = SegmentationConfig(**written["segmentation"])
    assert config == PipelineConfig.of(**asked)
    places = {"model": "model.name", "unit": "units.kind", "whiten": "whitening.enabled"}
    found = flat(config)
    for key, value in written.items():
        if key != "segmentation":
            (place,) = [p for p in found if p in (places.get(key), key) or p.endswith(f".{key}")]
            assert found[place] == value
    assert config.to_dict()["cells"] == written["segmentation"]
    write_config(config, tmp_path / "again.json")
    assert read_config(tmp_path / "again.json") == config


@pytest.mark.parametrize("name", ["window", "stack", "no_files"])
def test_what_a_window_of_version_0_1_saved_are_settings_too(name: str):
    path = OLD / f"{name}.json"
    written = json.loads(path.read_text())
    assert read_window(path) == written.pop("window")
    assert read_config(path) == PipelineConfig.from_dict(written)
    assert read_window(OLD / "settings.json") is None


def test_what_is_missing_keeps_its_default(tmp_path: Path):
    assert PipelineConfig.from_dict({}) == PipelineConfig()
    values = {"unit": "token", "shrinkage": 1, "segmentation": {"diameter": 20}}
    config = PipelineConfig.from_dict(values)
    assert config == PipelineConfig(
        units={"kind": "token"}, whitening={"shrinkage": 1}, cells={"diameter": 20}
    )
    assert values == {"unit": "token", "shrinkage": 1, "segmentation": {"diameter": 20}}, (
        "the input was changed"
    )
    path = tmp_path / "settings.json"
    path.write_text('{"dictionary": {"n_atoms": 32}, "window": {"images": []}}')
    assert read_config(path) == PipelineConfig.of(n_atoms=32)


def test_a_weight_of_the_background_is_read_as_it_was_written():
    for weight in (0.0, 50.0, "auto"):
        config = PipelineConfig.from_dict({"whitening": {"background_weight": weight}})
        assert config.whitening.background_weight == weight
        assert config.wants_background == (weight != 0)
    assert PipelineConfig().background_weight == 100
    # Auto is for what it was measured on.
    assert not PipelineConfig.of(pooling="mean").wants_background
    assert PipelineConfig.of(pooling="mean", background_weight=1.0).wants_background
    assert not PipelineConfig.of(unit="crop", background_weight=1.0).wants_background


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "are not JSON"),
        ("[1]", "are a list; a JSON object"),
        ('{"window": 3}', "The entry window of the settings 'settings.json' is 3 but must be an"),
        ('{"n_atom": 3, "batchsize": 1}', "hold 'batchsize', 'n_atom', which this version does"),
        ('{"dictionary": {"n_atom": 3}}', "'n_atom', which this version does not know"),
        ('{"units": {}, "layer": 3}', "'layer', which this version does not know"),
        ('{"n_atoms": "many"}', 'n_atoms is "many" but must be a whole number or null.'),
        ('{"n_atoms": true}', "n_atoms is true but must be a whole number or null."),
        ('{"n_atoms": 2.5}', "n_atoms is 2.5 but must be a whole number or null."),
        ('{"whiten": 1}', "whitening.enabled is 1 but must be true or false."),
        ('{"channels": "DNA"}', 'channels is "DNA" but must be a list of texts or null.'),
        ('{"channels": [1]}', "channels is 1 but must be a text"),
        ('{"site": 3}', "tokens.site is 3, which is not known; use one of 'residual', 'attention'"),
        ('{"site": "elsewhere"}', "site is 'elsewhere', which is not known"),
        ('{"dictionary": {"refit": "x"}}', "use one of 'block', 'full', 'final', 'auto'."),
        ('{"learning_rate": null}', "dictionary.learning_rate is null but must be a number."),
        ('{"background_weight": "x"}', 'weight is "x" but must be a number or "auto".'),
        ('{"background_weight": -1}', "background_weight is -1 but must be 0 or more."),
        ('{"segmentation": 3}', "cells is 3 but must be an object."),
        ('{"segmentation": {"diameter": "x"}}', 'cells.diameter is "x" but must be a number.'),
        ('{"segmentation": {"diameter": 1}}', "cells.diameter is 1 but must be 4 or more."),
        ('{"segmentation": {"threshold": "x"}}', "cells.threshold is 'x', which is not known"),
        ('{"segmentation": {"diam": 3}}', "'diam', which this version does not know"),
    ],
)
def test_settings_that_cannot_be_used_say_which(tmp_path: Path, text: str, sentence: str):
    path = tmp_path / "settings.json"
    path.write_text(text)
    assert sentence in refusal(read_config, path)


def test_settings_that_are_not_there_are_missed(tmp_path: Path):
    assert "check that the file exists" in refusal(read_config, tmp_path / "settings.json")


def test_settings_cannot_be_changed():
    config = PipelineConfig()
    with pytest.raises(ValueError, match="frozen"):
        config.cache = False
    with pytest.raises(ValueError, match="frozen"):
        config.units.kind = "crop"
