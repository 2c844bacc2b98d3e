from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from napari_microdl.core.config import PipelineConfig, SegmentationConfig, read_config, write_config
from napari_microdl.core.errors import MicrodlError

CHANGED = PipelineConfig.of(
    layer=3,
    site="attention",
    channels=("DNA", "ER"),
    segmentation=SegmentationConfig(channel="DNA", diameter=31.5),
    shrinkage=10.0,
    n_atoms=64,
    learning_rate=1e-3,
    positive_code=True,
    random_state=7,
)


@pytest.mark.parametrize("config", [PipelineConfig(), CHANGED])
def test_settings_come_back_as_they_were(tmp_path: Path, config: PipelineConfig):
    path = tmp_path / "settings.json"
    write_config(config, path)
    assert read_config(path) == config
    assert read_config(path).hash == config.hash
    # Every setting is there to be seen and changed.
    assert set(json.loads(path.read_text())) == {f.name for f in dataclasses.fields(config)}


def test_settings_that_are_left_out_keep_their_default(tmp_path: Path):
    path = tmp_path / "settings.json"
    path.write_text('{"n_atoms": 32, "shrinkage": 1, "segmentation": {"diameter": 20}}')
    assert read_config(path) == PipelineConfig.of(
        n_atoms=32, shrinkage=1, segmentation=SegmentationConfig(diameter=20)
    )


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "are not JSON"),
        ("[1]", "are a list; a JSON object"),
        ('{"n_atom": 3}', "'n_atom', which this version does not know"),
        ('{"n_atoms": "many"}', 'n_atoms is "many" but must be a whole number or null.'),
        ('{"n_atoms": true}', "n_atoms is true but must be a whole number or null."),
        ('{"n_atoms": 2.5}', "n_atoms is 2.5 but must be a whole number or null."),
        ('{"whiten": 1}', "whiten is 1 but must be true or false."),
        ('{"channels": "DNA"}', 'channels is "DNA" but must be a list of texts or null.'),
        ('{"site": 3}', "site is 3 but must be a text."),
        ('{"site": "elsewhere"}', "site is 'elsewhere', which is not known"),
        ('{"learning_rate": null}', "learning_rate is null but must be a number."),
        ('{"segmentation": 3}', "segmentation is 3 but must be an object."),
        ('{"segmentation": {"diameter": "x"}}', 'segmentation.diameter is "x" but must be a num'),
        ('{"segmentation": {"diam": 3}}', "segmentation settings do not fit"),
    ],
)
def test_settings_that_cannot_be_used_say_which(tmp_path: Path, text: str, sentence: str):
    path = tmp_path / "settings.json"
    path.write_text(text)
    with pytest.raises(MicrodlError) as caught:
        read_config(path)
    assert sentence in str(caught.value)


def test_settings_that_are_not_there_are_missed(tmp_path: Path):
    with pytest.raises(MicrodlError, match="check that the file exists"):
        read_config(tmp_path / "settings.json")
