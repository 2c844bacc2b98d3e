"""Channels of images reach the channels of a model by name, without a window."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from core.refusals import refusal
from models import published
from models.transformers_cases import BY_NAME
from napari_microdl.cli import main
from napari_microdl.core.config import PipelineConfig, write_config
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.fields.intensity import IntensityScaling
from napari_microdl.models.registry import known_spec, load_model, recipes
from napari_microdl.pipeline.cache import StageCache
from napari_microdl.pipeline.layer_choice import layer_scores
from napari_microdl.pipeline.run import PipelineRun, run_pipeline
from napari_microdl.tokens import embed
from pipeline.small_run import small

# The files' order is not the model's, which is DNA, RNA, ER, AGP, Mito.
STAINS = ("MitoTracker", "phalloidin", "conA", "SYTO14", "Hoechst 33342")
IN_ORDER = STAINS[::-1]
NOTE = (
    "The model was given the images' channels by their names: 'Hoechst 33342' as DNA, 'SYTO14' as "
    "RNA, 'conA' as ER, 'phalloidin' as AGP, 'MitoTracker' as Mito; set channels where that is "
    "wrong."
)
MODEL_CHANNELS = dict(zip(("DNA", "RNA", "ER", "AGP", "Mito"), IN_ORDER, strict=True))
CONFIG = small(model="builtin", unit="crop", crop_size=16, halo=0, layer=1, n_atoms=4)
CONFIG = CONFIG.with_settings(whiten=False, remove_position=False, cache=False)


def painted(edge: int, names: tuple[str, ...] = STAINS, n: int = 2) -> list[Field]:
    rng = np.random.default_rng(0)
    return [
        Field(
            data=rng.gamma(2, 200, (len(names), edge, edge)).astype(np.uint16),
            channel_names=names,
            name=f"f{number}",
            condition="drug" if number % 2 else "DMSO",
            is_control=not number % 2,
        )
        for number in range(n)
    ]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of a lab's own that names its channels, in a file that has to be read."""
    folder = tmp_path_factory.mktemp("lab")
    small = published.small(recipes()["cell-dino-cp-vits8"])
    published.write(published.timm_state(small.config), folder / "lab.safetensors")
    (folder / "lab.toml").write_text(
        'weights = "lab.safetensors"\nlayout = "timm"\n[model]\ntile_size = 24\n[vit]\ndim = 24\n'
        "depth = 3\nn_heads = 3\npatch_size = 8\nin_channels = 5\nlayer_scale = true\n"
        'positions = "learned"\nposition_grid = [3, 3]\nposition_offset = 0.1\n[channels]\n'
        'names = ["DNA", "RNA", "ER", "AGP", "Mito"]\njoint = true\nleast = 5\nmost = 5\n'
    )
    return folder / "lab.toml"


def test_cell_dino_gets_its_channels_in_its_own_order(tmp_path):
    state = published.timm_state(recipes()["cell-dino-cp-vits8"].config)
    name = f"cell-dino-cp-vits8@{published.write(state, tmp_path / 'weights.pth')}"
    fields = painted(128)
    run = run_pipeline(fields, CONFIG.with_settings(model=name))
    assert run.dictionary.spec.tokens.channels == IN_ORDER
    assert NOTE in run.warnings
    assert NOTE in run.report["notes"]
    assert run.report["model_channels"] == MODEL_CHANNELS
    # One tile a field, through the model by hand.
    model = load_model(name, device="cpu")
    scaler = IntensityScaling(curve="linear").fit(fields, STAINS)
    for number, grid in enumerate(run.activations.grids):
        tile = scaler.apply(number, fields[number].read())
        in_order, as_filed = (
            model.tokens(channels[None], 1, "residual")[0, 0] for channels in (tile[::-1], tile)
        )
        np.testing.assert_allclose(grid.tokens, in_order, atol=1e-5)
        assert np.abs(grid.tokens - as_filed).max() > 0.1


def tokens(fields: list[Field], config: PipelineConfig, stages: StageCache | None = None) -> list:
    return [grid.tokens for grid in PipelineRun(fields, config, stages=stages).tokens().grids]


def test_channels_that_the_settings_name_always_win(lab):
    fields, stages = painted(48), StageCache()
    config = CONFIG.with_settings(model=str(lab))
    by_name = tokens(fields, config, stages)
    given = {
        names: run_pipeline(fields, config.with_settings(channels=names))
        for names in (IN_ORDER, STAINS)
    }
    for names, run in given.items():
        assert run.dictionary.spec.tokens.channels == names
        assert run.report["model_channels"] == dict(zip(MODEL_CHANNELS, names, strict=True))
        assert not [note for note in run.warnings if "by their names" in note]
        # Tokens of the one are not taken for those of the other.
        tokens(fields, config, stages)
        again = tokens(fields, config.with_settings(channels=names), stages)
        for here, there in zip(again, run.activations.grids, strict=True):
            np.testing.assert_array_equal(here, there.tokens)
    for named, right, wrong in zip(
        by_name, *(run.activations.grids for run in given.values()), strict=True
    ):
        np.testing.assert_array_equal(named, right.tokens)
        assert np.abs(named - wrong.tokens).max() > 0.1


def test_channels_that_the_model_does_not_know_are_left_out(lab):
    config = CONFIG.with_settings(model=str(lab))
    more = painted(48, ("brightfield", *STAINS))
    run = run_pipeline(more, config)
    assert run.dictionary.spec.tokens.channels == IN_ORDER
    fewer = [dataclasses.replace(f, data=f.data[1:], channel_names=STAINS) for f in more]
    for here, there in zip(run.activations.grids, tokens(fewer, config), strict=True):
        np.testing.assert_array_equal(here.tokens, there)


def test_a_model_that_takes_any_channels_gets_them_as_they_come():
    fields = painted(64, ("Mito", "DNA"))
    run = run_pipeline(fields, CONFIG.with_settings(tile_size=64))
    assert run.dictionary.spec.tokens.channels == ("Mito", "DNA")
    assert run.report["model_channels"] == {}
    assert not [note for note in run.warnings if "by their names" in note]


@pytest.mark.parametrize("layers", [False, True])
@pytest.mark.parametrize("by_name", [False, True])
def test_names_that_leave_a_doubt_are_refused(lab, layers, by_name):
    # Of a known model before weights are asked for, which are not there.
    model = "cell-dino-cp-vits8" if by_name else str(lab)
    title = "Cell-DINO ViT-S/8 (Cell Painting)" if by_name else "lab"
    config = CONFIG.with_settings(model=model)
    fields = painted(48, ("Mito", "AGP", "DAPI", "Hoechst", "channel 5"), n=4)
    told = refusal(layer_scores if layers else run_pipeline, fields, config)
    assert told.startswith(f"The model '{title}' reads the channels DNA, RNA, ER, AGP, Mito, but")
    assert "'DAPI', 'Hoechst', 'channel 5' is clearly its DNA or RNA or ER; set channels" in told


def test_a_model_that_does_with_fewer_channels_says_how():
    config = CONFIG.with_settings(model="channelvit-jump-cp")
    told = refusal(run_pipeline, painted(48, ("DNA", "Mito", "x")), config)
    assert told.endswith("the model of those that are there, 'channelvit-jump-cp[Mito,DNA]'.")


def test_layers_are_compared_on_the_channels_of_the_model(lab):
    fields, config = painted(48, n=4), CONFIG.with_settings(model=str(lab))
    scores = [
        layer_scores(fields, config.with_settings(channels=names))
        for names in (None, IN_ORDER, STAINS)
    ]
    pd.testing.assert_frame_equal(scores[0], scores[1])
    assert not scores[0].equals(scores[2])


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = []
    for field in painted(48):
        row = {"Metadata_condition": field.condition, "Metadata_control": field.is_control}
        for name, plane in zip(STAINS, field.data, strict=True):
            row[f"FileName_{name}"] = f"{field.name}_{name}.tif"
            tifffile.imwrite(tmp_path / row[f"FileName_{name}"], plane)
        rows.append(row)
    pd.DataFrame(rows).to_csv(tmp_path / "fields.csv", index=False)
    return tmp_path / "fields.csv"


def test_the_command_line_maps_channels_and_says_so(lab, table, tmp_path, capsys):
    for channels in (None, STAINS):
        settings, out = tmp_path / "settings.json", tmp_path / f"out-{channels is None}"
        write_config(CONFIG.with_settings(model=str(lab), channels=channels), settings)
        arguments = [str(table), "--config", str(settings), "--out", str(out)]
        assert main(["fit", *arguments]) == 0
        assert (f"Note: {NOTE}" in capsys.readouterr().out) == (channels is None)
        report = json.loads((out / "report.json").read_text())
        given = dict(zip(MODEL_CHANNELS, channels or IN_ORDER, strict=True))
        assert report["model_channels"] == given
        assert (NOTE in report["notes"]) == (channels is None)


def test_the_command_line_refuses_names_that_leave_a_doubt(table, tmp_path, capsys):
    text = table.read_text().replace("FileName_conA", "FileName_green")
    table.write_text(text)
    settings = tmp_path / "settings.json"
    write_config(CONFIG.with_settings(model="cell-dino-cp-vits8"), settings)
    arguments = [str(table), "--config", str(settings), "--out", str(tmp_path / "out")]
    assert main(["fit", *arguments]) == 2
    _, refused = capsys.readouterr().err.splitlines()
    assert "'green', 'SYTO14', 'Hoechst 33342' is clearly its ER; set channels" in refused


def test_tokens_without_a_run_go_by_names_too(lab):
    fields, model = painted(48), load_model(lab, device="cpu")
    options = {"layer": 1, "halo": 0}
    by_name = embed(fields, model, **options)
    for grid, right, wrong in zip(
        by_name,
        embed(fields, model, channels=IN_ORDER, **options),
        embed(fields, model, channels=STAINS, **options),
        strict=True,
    ):
        np.testing.assert_array_equal(grid.tokens, right.tokens)
        assert np.abs(grid.tokens - wrong.tokens).max() > 0.1
    with pytest.raises(MicrodlError, match="none of the images' channels 'a', 'b'"):
        embed(painted(48, ("a", "b")), model, **options)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small DINOv2 with random weights, as transformers saves it."""
    return BY_NAME["DINOv2"].write(tmp_path_factory.mktemp("photographs"))


@pytest.mark.parametrize(
    ("names", "joint", "expected"),
    [
        (("red", "green", "blue"), None, True),
        (("R", "G", "B"), None, True),
        (("red", "green", "blue"), False, False),
        # Who calls them so may mean something else.
        (("blue", "green", "red"), None, False),
        (("DNA", "RNA", "ER"), None, False),
        (("DNA", "RNA", "ER"), True, True),
    ],
)
def test_the_colours_of_an_image_go_together_into_a_model_of_photographs(
    photographs, names, joint, expected
):
    fields = painted(56, names)
    config = CONFIG.with_settings(model=str(photographs), joint=joint, crop_size=28)
    if joint:
        # Nothing in their names says which is red.
        config = config.with_settings(channels=names)
    run = run_pipeline(fields, config)
    assert run.dictionary.spec.model.joint == expected
    asked = config.with_settings(joint=expected)
    for grid, same in zip(run.activations.grids, tokens(fields, asked), strict=True):
        assert grid.tokens.shape[-1] == (48 if expected else 144)
        np.testing.assert_array_equal(grid.tokens, same)
    # Applied to other images, the dictionary decides.
    again = run_pipeline(fields, config.with_settings(joint=None), dictionary=run.dictionary)
    for grid, same in zip(run.activations.grids, again.activations.grids, strict=True):
        np.testing.assert_array_equal(grid.tokens, same.tokens)


def test_a_model_that_leaves_no_choice_reads_colours_as_it_does():
    for name in ("builtin", "cell-dino-cp-vits8", "openphenom", "dinobloom-s"):
        assert known_spec(name, joint="preferred") == known_spec(name)
    preferred = known_spec("dinov2-small", joint="preferred")
    assert preferred == known_spec("dinov2-small", joint=True)
    assert preferred is not None
    assert preferred.channels.joint
