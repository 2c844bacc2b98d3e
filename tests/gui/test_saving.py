"""Activations copied beside the labels of cells."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest

from napari_microdl.gui.explorer.dock import ConceptExplorer
from napari_microdl.gui.session.layers import TAG, Source
from napari_microdl.pipeline.run import PipelineResult, run_pipeline

from .clicks import click_entry


@pytest.fixture(scope="module")
def cell_run(small_run: Any) -> PipelineResult:
    config = small_run.config.with_settings(unit="cell", n_atoms=8, max_steps=5, whiten=False)
    return run_pipeline(small_run.fields[:2], config)


@pytest.mark.parametrize("own", [False, True], ids=["built-in cells", "own labels"])
def test_activations_are_copied_to_the_labels_and_stay(
    open_viewer, small_run, cell_run, qtbot, monkeypatch, own
):
    messages: list[str] = []
    monkeypatch.setattr("napari_microdl.gui.explorer.saving.show_info", messages.append)
    viewer = open_viewer().__wrapped__
    explorer = ConceptExplorer(viewer)
    qtbot.addWidget(explorer)
    session = explorer.session
    sources = []
    for number, field in enumerate(small_run.fields[:2]):
        layer = viewer.add_image(field.read()[0], name=field.name)
        sources.append(Source(weakref.ref(layer), (), field.name, has_own_labels=own))
        if own:
            labels = viewer.add_labels(cell_run.labels[number], name=f"mine {number}")
            session.images.update(viewer.layers)
            rows = enumerate(session.images.rows)
            row = next(n for n, r in rows if r.layer() is layer)
            session.images.edit_rows([row], labels=weakref.ref(labels))
    session.finish(cell_run, small_run.fields[:2], sources)
    click_entry(explorer.save_button, explorer.save_button.entries["features"])
    if not own:
        assert "No open Labels layer shows the cells" in messages.pop()
        session.view.show(kinds=["cells"], all_fields=True)
        click_entry(explorer.save_button, explorer.save_button.entries["features"])
    assert messages == ["Activations of 8 concepts copied to 2 Labels layers."]
    session.view.show_concept(int(cell_run.activations.ranking.index[1]))
    for number in range(2):
        layer = (
            viewer.layers[f"mine {number}"]
            if own
            else next(
                x
                for x in viewer.layers
                if x.metadata.get(TAG, {}).get("field") == number
                and x.metadata[TAG]["kind"] == "cells"
            )
        )
        ids, values = cell_run.activations.unit_values(number, 3)
        features = layer.features.set_index("index")
        np.testing.assert_allclose(features.loc[ids, "concept 3"], values)
        # What napari shows in its status bar for a hovered cell.
        y, x = np.argwhere(cell_run.labels[number] == ids[0])[0]
        shown = layer.get_status((y, x))["coordinates"]
        assert "concept 3" in shown
