"""The model step: licences, weights, channels, the comparison of layers."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest

from models.transformers_cases import BY_NAME, VISION, CLIPVisionConfig
from napari_microdl.core.config import PipelineConfig, write_config
from napari_microdl.gui.session.layers import FIELD_TAG
from napari_microdl.gui.session.preferences import token_cache
from napari_microdl.gui.workflow.dock import ConceptWorkflow
from napari_microdl.models.base import commercial_use, terms_of
from napari_microdl.models.registry import list_models, model_spec
from napari_microdl.pipeline.cache import StageCache
from napari_microdl.pipeline.layer_choice import layer_scores
from napari_microdl.tokens import TilePlan, estimate_embedding

from .conftest import SMALL, small_fields, small_layers
from .steps import choose, click, click_tick, open_workflow, run

QUICK = {"unit": "crop", "n_atoms": 8, "max_steps": 20, "device": "cpu", "shrinkage": 1.0}


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory) -> Path:
    """A small DINOv2 with random weights, as transformers saves it."""
    return BY_NAME["DINOv2"].write(tmp_path_factory.mktemp("dino"))


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    """A small CLIP with random weights, which the library transformers runs."""
    config = CLIPVisionConfig(**VISION | {"image_size": 112})
    clip = dataclasses.replace(BY_NAME["CLIP, vision model"], config=config)
    return clip.write(tmp_path_factory.mktemp("clip"))


def chosen_channels(workflow: Any) -> dict[str, str]:
    """What every channel of the model is to be, as the boxes show it."""
    boxes = workflow.tokens.channels.items()
    return {wanted: box.currentText() for wanted, box in boxes}


@pytest.fixture
def painted(bare_workflow, qtbot) -> Any:
    """Factory of two fields whose channels have names, with the step open."""

    def paint(*names: str) -> ConceptWorkflow:
        viewer, rng = bare_workflow.viewer, np.random.default_rng(0)
        for number, is_control in enumerate((True, False)):
            data = rng.integers(0, 4000, (len(names), 160, 160)).astype(np.uint16)
            layer = viewer.add_image(data, name=f"f{number}")
            layer.metadata[FIELD_TAG] = {
                "channel_names": names,
                "is_control": is_control,
                "condition": "DMSO" if is_control else "drug",
            }
            layer.axis_labels = ("c", "y", "x")
        bare_workflow.session.images.rows.clear()
        bare_workflow.session.images.update(viewer.layers)
        click(qtbot, bare_workflow.tokens.heading)
        return bare_workflow

    return paint


def test_licence_terms_and_channels_of_every_model_are_shown_at_once(workflow, qtbot):
    click(qtbot, workflow.tokens.heading)
    for spec in list_models():
        choose(qtbot, workflow.tokens.model, spec.title)
        text = workflow.tokens.licence.text()
        assert spec.licence in text
        assert spec.source in text
        assert f"({commercial_use(spec.non_commercial)}). Source: {spec.source}." in text
        # What forbids something or leaves it open is said also where the step is folded up.
        warned = "commercial use" in workflow.tokens.summary.text()
        assert warned == (spec.non_commercial is not False)
        assert list(workflow.tokens.channels) == list(spec.channels.names)
        assert workflow.tokens.layer.maximum() == spec.depth
    # So is what is known of weights from the hub.
    choose(qtbot, workflow.tokens.model, "DINOv2 ViT-S/14")
    assert "Commit ed25f3a31f01, sha256 ae1e99fcefd5." in workflow.tokens.licence.text()
    choose(qtbot, workflow.tokens.model, "OpenPhenom CA-MAE ViT-S/16")
    assert "the sha256 of the first download will be kept" in workflow.tokens.licence.text()


def test_channels_are_filled_in_by_name_and_asked_for_where_in_doubt(painted, qtbot):
    names = ("Hoechst", "syto14", "conA", "phalloidin", "channel 5")
    workflow = painted(*names)
    step, session = workflow.tokens, workflow.session
    choose(qtbot, step.model, "Cell-DINO ViT-S/8 (Cell Painting)")
    assert chosen_channels(workflow) == {
        "DNA": "Hoechst",
        "RNA": "syto14",
        "ER": "conA",
        "AGP": "phalloidin",
        "Mito": "choose...",
    }
    assert "Say which channel of the images is 'Mito'" in step.need.text()
    choose(qtbot, step.channels["Mito"], "conA")
    assert "'conA' stands for two" in step.need.text()
    choose(qtbot, step.channels["Mito"], "channel 5")
    assert session.plan.run_config().tokens.channels == names
    # A renamed channel keeps its place.
    session.images.edit_channel(4, name="TMRM")
    assert step.channels["Mito"].currentText() == "TMRM"
    # What is chosen travels in the settings.
    config = session.plan.run_config()
    session.plan.model.channel_choices.clear()
    session.plan.take_config(config)
    assert step.channels["Mito"].currentText() == "TMRM"
    # Its weights are nowhere to be fetched, so a file is asked for.
    assert "choose their file" in step.need.text()


def test_channels_that_the_images_lack_are_left_out_of_a_model_that_allows_it(
    painted, qtbot, tmp_path, pick
):
    names = ("Hoechst", "MitoTracker", "brefeldin")
    workflow = painted(*names)
    step, session = workflow.tokens, workflow.session
    choose(qtbot, step.model, "ChannelViT-S/8, five Cell Painting channels")
    assert "no commercial use" in step.licence.text()
    assert list(step.channels) == ["Mito", "AGP", "RNA", "ER", "DNA"]
    assert "or that it is not in the images" in step.need.text()
    for wanted in ("AGP", "RNA"):
        choose(qtbot, step.channels[wanted], "not in the images")
    choose(qtbot, step.channels["ER"], "brefeldin")
    assert session.settings.config.model.name == "channelvit-jump-cp[Mito,ER,DNA]"
    assert step.model.currentText() == "ChannelViT-S/8, five Cell Painting channels"
    chosen, lacking = list(chosen_channels(workflow).values()), "not in the images"
    assert chosen == ["MitoTracker", lacking, lacking, "brefeldin", "Hoechst"]
    assert session.plan.run_config().tokens.channels == ("MitoTracker", "brefeldin", "Hoechst")
    assert "are not on the hub" in step.need.text()
    # Its weights are given as those of the whole model.
    weights = pick(tmp_path / "weights.pth")
    click(qtbot, step.file)
    assert session.settings.config.model.name == f"channelvit-jump-cp[Mito,ER,DNA]@{weights}"
    assert step.weights.text() == "weights.pth"
    assert not step.need.text()
    # A channel is taken in again by saying which it is.
    choose(qtbot, step.channels["ER"], "not in the images")
    choose(qtbot, step.channels["AGP"], "brefeldin")
    assert session.plan.run_config().tokens.channels == ("MitoTracker", "brefeldin", "Hoechst")
    assert session.settings.config.model.name.startswith("channelvit-jump-cp[Mito,AGP,DNA]@")
    for wanted in ("AGP", "DNA"):
        choose(qtbot, step.channels[wanted], "not in the images")
    # The last one stays.
    box = step.channels["Mito"]
    assert "not in the images" not in [box.itemText(i) for i in range(box.count())]
    for wanted in ("AGP", "RNA", "ER", "DNA"):
        choose(qtbot, step.channels[wanted], "brefeldin")
    assert session.settings.config.model.name == f"channelvit-jump-cp@{weights}"


def test_a_models_own_folder_is_looked_at_and_run(painted, qtbot, dino_folder, pick):
    workflow = painted("red", "green", "blue")
    step, session = workflow.tokens, workflow.session
    choose(qtbot, step.model, "Other weights: file or folder...")
    # No file was picked, so the model before it in the list stays.
    assert step.model.currentText() == list_models()[-1].title
    session.settings.configure(model="elsewhere")
    qtbot.waitUntil(lambda: "'elsewhere' is not known" in step.licence.text())
    pick(dino_folder)
    click(qtbot, step.folder)
    qtbot.waitUntil(lambda: session.plan.model.spec is not None)
    assert step.model.currentText() == "Other weights: file or folder..."
    assert step.weights.text() == dino_folder.name
    assert "3 layers, patches of 14 px" in step.licence.text()
    for label in (step.licence, step.summary):
        assert "whether commercial use is allowed is not stated" in label.text()

    session.settings.configure(**QUICK)
    run(qtbot, workflow)
    read = session.settings.dictionary.spec.model
    # The channels of these images are called red, green and blue.
    assert (read.joint, read.intensity, read.patch_size) == (True, "linear", 14)
    assert list(chosen_channels(workflow).values()) == ["red", "green", "blue"]
    assert session.settings.dictionary.whitening.n_features_in_ == 48
    assert "at the pace of the last run" in step.cost.text()


def test_colour_images_are_read_as_one_until_the_box_is_unticked(viewer, qtbot, dino_folder):
    workflow = open_workflow(viewer)
    rng = np.random.default_rng(0)
    for number in range(2):
        colours = rng.integers(0, 255, (160, 160, 3)).astype(np.uint8)
        layer = viewer.add_image(colours, rgb=True, name=f"slide {number}")
        layer.metadata[FIELD_TAG] = {"is_control": not number, "condition": f"c{number}"}
    workflow.session.images.rows.clear()
    workflow.session.images.update(viewer.layers)
    step, session = workflow.tokens, workflow.session
    click_tick(qtbot, workflow.fields.split_rgb)
    click(qtbot, step.heading)
    session.settings.configure(model=str(dino_folder), **QUICK)
    qtbot.waitUntil(lambda: session.plan.model.spec is not None)
    assert session.settings.config.model.joint is None
    assert step.joint.isVisible()
    assert step.joint.isChecked()
    assert list(chosen_channels(workflow).values()) == ["red", "green", "blue"]
    # What the command line is given says so, too.
    assert session.plan.run_config().model.joint is True
    run(qtbot, workflow)
    assert session.settings.dictionary.spec.model.joint
    assert session.settings.dictionary.whitening.n_features_in_ == 48
    assert not step.state.text()
    click_tick(qtbot, step.joint)
    assert session.settings.config.model.joint is False
    qtbot.waitUntil(lambda: session.plan.model.spec is not None)
    assert not step.channels
    run(qtbot, workflow)
    assert not session.settings.dictionary.spec.model.joint
    assert session.settings.dictionary.whitening.n_features_in_ == 3 * 48


@pytest.mark.parametrize("order", [("red", "green", "blue"), ("blue", "green", "red")])
def test_channels_of_settings_win_over_names_also_before_a_folder_is_looked_at(
    painted, qtbot, dino_folder, tmp_path, order
):
    workflow = painted("blue", "green", "red")
    session = workflow.session
    config = PipelineConfig.of(model=str(dino_folder), joint=True, channels=order)
    write_config(config, tmp_path / "settings.json")
    workflow.files.load_settings(tmp_path / "settings.json")
    # A run that starts now is given them, too.
    assert session.plan.model.spec is None
    assert session.plan.run_config().tokens.channels == order
    qtbot.waitUntil(lambda: session.plan.model.spec is not None)
    assert tuple(chosen_channels(workflow).values()) == order
    assert session.plan.run_config().tokens.channels == order


def test_the_terms_of_the_dictionarys_model_are_shown_while_it_is_applied(
    workflow, qtbot, small_run, tmp_path, pick
):
    step, other = workflow.tokens, model_spec("cell-dino-cp-vits8")
    for opened in (step, workflow.dictionary):
        click(qtbot, opened.heading)
    choose(qtbot, step.model, other.title)
    assert terms_of(other) in step.licence.text()
    for number, (model, non_commercial) in enumerate(
        [("openphenom", True), ("our-vit", None), ("builtin", False)]
    ):
        spec = small_run.result.dictionary.spec
        facts = spec.model.replace(
            id=model,
            licence=f"Licence {number}",
            source=f"source {number}",
            non_commercial=non_commercial,
        )
        spec = spec.replace(model=facts)
        dictionary = dataclasses.replace(small_run.result.dictionary, spec=spec)
        pick(dictionary.save(tmp_path / f"{number}"))
        click(qtbot, workflow.dictionary.load)
        use = commercial_use(non_commercial)
        terms = f"Licence of the weights: Licence {number} ({use}). Source: source {number}."
        for label in (step.licence, workflow.dictionary.loaded):
            assert terms in label.text()
            assert f"model '{model}', layer {spec.tokens.layer}" in label.text()
            assert other.licence not in label.text()
            assert other.source not in label.text()
        assert step.summary.text().startswith(f"{model}, of the dictionary; ")
        assert (use in step.summary.text()) == (non_commercial is not False)
        assert ("Commit 0f92333685f6" in step.licence.text()) == (model == "openphenom")
        # Another model may be chosen; it plays no part yet.
        choose(qtbot, step.model, "uniDINO ViT-S/16")
        assert terms in step.licence.text()
        choose(qtbot, step.model, other.title)
    click_tick(qtbot, workflow.dictionary.fit)
    assert not workflow.session.settings.apply_dictionary
    assert terms_of(other) in step.licence.text()
    assert step.summary.text().startswith(f"{other.title}; no commercial use; ")


def estimate_of_the_run(qtbot: Any, workflow: Any) -> str:
    """Run all steps anew; what the run said that it would take."""
    heard = []
    workflow.jobs.progressed.connect(lambda p: heard.append(p.message) if p.stays else None)
    # Without what earlier runs left.
    workflow.session._stages = StageCache()
    run(qtbot, workflow)
    (sentence,) = heard
    return sentence


@pytest.mark.parametrize("lazy", [False, True])
def test_what_a_run_will_take_is_shown_as_the_run_estimates_it(
    viewer, qtbot, tmp_path, small_run, lazy
):
    workflow = open_workflow(viewer)
    treated, *_, control = small_layers()
    for layer in (treated, control):
        # Large enough that the strips of a file show in megabytes.
        data = np.tile(layer.data, (3, 3))
        stored = lazy and layer is control
        layer.data = da.from_array(data, chunks=160) if stored else data
        viewer.add_layer(layer)
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == 2)
    workflow.session.plan.take_config(SMALL.with_settings(layer=1, max_steps=5))
    click(qtbot, workflow.tokens.heading)
    qtbot.waitUntil(lambda: " About " in workflow.tokens.cost.text())
    shown, time = workflow.tokens.cost.text().split(" About ")
    assert time.endswith(" s on the processor, by its arithmetic, less where it was read before.")
    assert estimate_of_the_run(qtbot, workflow) == shown
    assert workflow.tokens.cost.text().endswith(
        " s at the pace of the last run, less where it was read before."
    )
    shapes, spec = [(480, 480)] * 2, model_spec("random-init")
    estimates = [
        f"{estimate_embedding(shapes, 1, spec, TilePlan(8, 128, 2), lazy=read)}, beside the model."
        for read in (lazy, not lazy)
    ]
    assert shown == estimates[0]
    assert shown != estimates[1]

    # A dictionary has its own model and tiles, whatever else is chosen.
    dictionary = small_run.result.dictionary
    tokens = dictionary.spec.tokens.replace(layer=1, halo=4)
    applied = dataclasses.replace(dictionary, spec=dictionary.spec.replace(tokens=tokens))
    workflow.files.load_dictionary(applied.save(tmp_path / "applied"))
    choose(qtbot, workflow.tokens.model, "Cell-DINO ViT-L/14 (HPA, 518 px)")
    shown = workflow.tokens.cost.text()
    assert shown.startswith("128 tiles will take about ")
    assert shown.startswith(f"{estimate_of_the_run(qtbot, workflow)} About ")


def test_a_folder_that_the_library_runs_is_looked_at_and_run(workflow, qtbot, clip_folder, pick):
    step, session = workflow.tokens, workflow.session
    click(qtbot, step.heading)
    pick(clip_folder)
    click(qtbot, step.folder)
    qtbot.waitUntil(lambda: session.plan.model.spec is not None)
    assert step.weights.text() == clip_folder.name
    text = step.licence.text()
    assert "not stated, see its source" in text
    assert f"Source: local folder '{clip_folder.name}'" in text
    assert "3 layers, patches of 14 px, tiles of 112 px" in text
    assert step.joint.isVisible()
    session.settings.configure(**QUICK, site="attention")
    run(qtbot, workflow)
    spec = session.settings.dictionary.spec
    assert (spec.model.patch_size, spec.tokens.layer, spec.tokens.site) == (14, 2, "attention")
    assert session.settings.dictionary.whitening.n_features_in_ == 48


def test_a_folder_that_the_library_would_run_asks_for_it_where_it_is_missing(
    workflow, qtbot, clip_folder, monkeypatch
):
    click(qtbot, workflow.tokens.heading)
    monkeypatch.setitem(sys.modules, "transformers", None)
    workflow.session.settings.configure(model=str(clip_folder))
    sentence = "pip install 'napari-microdl[transformers]'."
    qtbot.waitUntil(lambda: workflow.tokens.licence.text().endswith(sentence))
    assert "is run by the package transformers, which is not" in workflow.tokens.licence.text()


def test_the_size_of_stored_tokens_is_shown_and_they_are_cleared(workflow, qtbot):
    workflow.session.settings.configure(unit="crop", cache=True)
    click(qtbot, workflow.tokens.heading)
    stored = workflow.tokens.stored
    run(qtbot, workflow)
    qtbot.waitUntil(stored.clear.isEnabled)
    cache = token_cache()
    assert cache.size() > 0
    assert (
        stored.size.text() == f"Kept on disk of what models have read: {cache.size() / 1e6:.0f} MB"
    )
    click(qtbot, stored.clear)
    qtbot.waitUntil(lambda: stored.size.text().endswith(": 0 MB"))
    assert token_cache().size() == 0
    # What intensities were measured against is shown, too.
    limits = workflow.session.run.current.result.report["intensity"]
    lowest = min(entry["background"] for entry in limits)
    assert f"GFP background {lowest:.4g} to " in workflow.tokens.measured.text()
    assert workflow.session.run.current.result.report["device"] == "cpu"


def test_layers_are_compared_as_the_core_compares_them(workflow, qtbot):
    workflow.session.settings.configure(unit="crop")
    click(qtbot, workflow.tokens.heading)
    assert "tiles will take about" in workflow.tokens.cost.text()
    with qtbot.waitSignal(workflow.jobs.succeeded):
        click(qtbot, workflow.tokens.compare)
    expected = layer_scores(small_fields(), SMALL)
    (axes,) = workflow.tokens.curve._canvas.figure.axes
    np.testing.assert_allclose(axes.lines[0].get_ydata(), expected["auc"])
    best = expected["layer"][expected["auc"].idxmax()]
    assert f"Layer {best} tells treated from control best" in workflow.status.text()
    assert workflow.session.settings.config.tokens.layer is None
    # Scores of one model say nothing about another.
    choose(qtbot, workflow.tokens.model, "DINOv2 ViT-S/14")
    assert not workflow.tokens.curve.isVisible()


def test_too_few_fields_to_compare_layers_are_said(workflow, qtbot, quiet):
    workflow.session.images.edit_rows([0], use=False)
    click(qtbot, workflow.tokens.heading)
    with qtbot.waitSignal(workflow.jobs.failed):
        click(qtbot, workflow.tokens.compare)
    assert "at least two wells" in workflow.status.text()
    assert len(quiet) == 1
