"""Overlays on the frames of a stack follow the slider."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from napari.layers import Image

from napari_microdl.gui.session.layers import TAG, Source, is_output


def test_the_overlay_on_the_selected_image_follows_the_slider(
    explored: Any, small_run: Any, qtbot: Any
):
    viewer, explorer = explored
    viewer.layers.clear()
    stack = viewer.add_image(np.stack([f.read()[0] for f in small_run.fields]), name="movie")
    # An image that begins earlier shifts the steps of the slider against the frames.
    viewer.add_image(np.zeros((7, 4, 4)), name="longer", translate=(-3, 0, 0))
    sources = [
        Source(
            weakref.ref(stack.__wrapped__ if hasattr(stack, "__wrapped__") else stack), (i,), f.name
        )
        for i, f in enumerate(small_run.fields)
    ]
    session = explorer.session
    session.finish(small_run.result, small_run.fields, sources)
    session.view.show(kinds=["activation"], all_fields=False)
    viewer.layers.selection.active = stack
    activations = small_run.result.activations
    for frame in (2, 0, 3):
        viewer.dims.set_point(0, frame)
        (overlay,) = [x for x in viewer.layers if isinstance(x, Image) and is_output(x)]
        assert overlay.metadata[TAG]["field"] == frame
        assert overlay.translate[0] == frame
        painted = overlay.data.reshape(overlay.data.shape[-2:])
        _, values = activations.unit_values(frame, session.view.concept)
        assert painted[0, 0] == np.float32(values[0])
        assert explorer.overlays.field_of(session.run.current.sources[0].layer()) == frame
    # The overlay itself may be selected, too.
    viewer.layers.selection.active = overlay
    viewer.dims.set_point(0, 1)
    (overlay,) = [x for x in viewer.layers if isinstance(x, Image) and is_output(x)]
    assert overlay.metadata[TAG]["field"] == 1
