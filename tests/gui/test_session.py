from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
from napari import Viewer
from napari.components import LayerList
from napari.layers import Image, Labels

from napari_microdl.core.errors import MicrodlError
from napari_microdl.gui.dock import session_of
from napari_microdl.gui.session.layers import Layout
from napari_microdl.gui.session.session import Session

from .conftest import small_layers

# A session holds layers weakly; those of a viewer are held by it.
open_layers: list[LayerList] = []


def session_with(*layers, **layout) -> Session:
    session = Session()
    open_layers.append(LayerList(layers))
    session.images.set_layout(Layout(**layout), open_layers[-1])
    return session


def sentences(session: Session) -> list[str]:
    return [problem.sentence for problem in session.plan.problems()]


def grey(name: str = "a", shape: tuple[int, ...] = (20, 30)) -> Image:
    return Image(np.random.default_rng(0).random(shape), name=name)


def test_the_sample_needs_nothing():
    session = session_with(*small_layers())
    assert sentences(session) == []
    assert [row.is_control for row in session.images.rows] == [False, False, True, True]
    assert [channel.name for channel in session.images.channels] == ["GFP"]
    fields, sources, config = session.plan.prepare()
    assert len(fields) == len(sources) == 4
    assert config.tokens.channels is None


@pytest.mark.parametrize(
    ("layers", "sentence"),
    [
        ([], "Open images first"),
        ([grey()], "Pick at least one control field"),
        ([Image(np.zeros((9, 9, 3)), rgb=True, name="r")], "'r' is an RGB image"),
        ([grey("s", (5, 20, 30))], "'s' is a stack of 5 x 20 x 30; say which axis"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(layers, sentence):
    session = session_with(*layers)
    assert sentences(session)[0].startswith(sentence)
    with pytest.raises(MicrodlError, match=f"^{sentence}"):
        session.plan.prepare()


def test_no_image_or_channel_ticked_is_said():
    session = session_with(*small_layers())
    session.images.edit_channel(0, use=False)
    assert sentences(session) == ["Tick at least one channel."]
    session.images.edit_rows(range(4), use=False)
    assert sentences(session) == ["Tick at least one image in the column Use."]


def test_a_labelled_channel_axis_is_filled_in_and_can_be_changed():
    layer = Image(np.zeros((3, 20, 30)), axis_labels=("c", "y", "x"))
    session = session_with(layer)
    assert session.images.layout.channel_axis == 0
    assert [c.name for c in session.images.channels] == ["channel 1", "channel 2", "channel 3"]
    session.images.set_layout(Layout(channel_axis="none"), LayerList([layer]))
    assert len(session.images.rows) == 3


def test_condition_and_control_are_shared_by_the_channels_of_a_field():
    session = session_with(grey("dna"), grey("actin"), arrangement="channels")
    session.images.edit_rows([1], is_control=True, condition="DMSO")
    assert [(row.is_control, row.condition) for row in session.images.rows] == [(True, "DMSO")] * 2
    fields, _, _ = session.plan.prepare()
    assert fields[0].channel_names == ("dna", "actin")


def test_renamed_and_unticked_channels_reach_the_run():
    layer = Image(np.random.default_rng(0).random((3, 20, 30)), name="a")
    session = session_with(layer, channel_axis=0)
    session.images.edit_rows([0], is_control=True)
    session.images.edit_channel(0, name="DNA")
    session.images.edit_channel(1, use=False)
    fields, _, config = session.plan.prepare()
    assert fields[0].channel_names == ("DNA", "channel 2", "channel 3")
    assert config.tokens.channels == ("DNA", "channel 3")


def test_what_was_entered_survives_another_image_being_opened():
    first = grey("a")
    session = session_with(first)
    session.images.edit_rows([0], condition="DMSO", is_control=True, name="mine")
    session.images.update(LayerList([first, grey("b")]))
    assert [row.name for row in session.images.rows] == ["mine", "b"]
    assert session.images.rows[0].condition == "DMSO"


def test_labels_are_suggested_by_name_and_never_guessed():
    a, b = grey("a1"), grey("b2")
    cells = np.ones((20, 30), int)
    named = Labels(cells, name="a1 cells")
    session = session_with(a, b, named, Labels(cells, name="other"))
    assert [row.labels_layer() for row in session.images.rows] == [named, None]
    session.images.edit_rows([0], is_control=True)
    session.settings.choose(cell_source="labels")
    assert sentences(session) == ["Choose a Labels layer for 'b2', or the built-in segmentation."]


@pytest.mark.parametrize(
    ("image", "labels", "fits"),
    [
        ("site1", "site1.labels", True),
        ("site_1", "SITE_1_cp_masks_000", True),
        ("B02 f01 (drug)", "segmentation of B02 f01 (drug)", True),
        ("site1", "site10 cells", False),
        ("1", "site1 cells", False),
        ("A01", "A01 cells of B01", False),
        ("A01", "A01 02 cells", False),
        ("cells", "other cells", False),
    ],
)
def test_labels_are_suggested_by_the_whole_name(image: str, labels: str, fits: bool):
    found = Labels(np.ones((20, 30), int), name=labels)
    session = session_with(grey(image), grey("another image"), found)
    assert session.images.rows[0].labels_layer() is (found if fits else None)


def test_labels_that_were_filled_in_give_way_to_what_is_clear_and_a_persons_stay():
    cells = np.ones((20, 30), int)
    first, second = grey("A01"), grey("B01")
    labels = Labels(cells, name="B01 cells")
    layers = [first, labels]
    session = session_with(*layers)

    def found() -> list[str | None]:
        session.images.update(LayerList(layers))
        return [getattr(row.labels_layer(), "name", None) for row in session.images.rows]

    # The only ones there, before the image that they belong to is opened.
    assert found() == ["B01 cells"]
    layers.append(second)
    assert found() == [None, "B01 cells"]
    # What is renamed belongs elsewhere from now on.
    labels.name = "A01 cells"
    assert [row.labels_layer() for row in session.images.rows] == [labels, None]
    session.images.edit_rows([0], labels=None)
    session.images.edit_rows([1], labels=weakref.ref(labels))
    assert found() == [None, "A01 cells"]
    layers.remove(labels)
    layers.append(Labels(cells, name="B01 cells"))
    assert found() == [None, "B01 cells"]


def test_a_viewer_has_one_session_that_goes_with_it(qapp):
    viewer = Viewer(show=False)
    session = weakref.ref(session_of(viewer))
    assert session_of(viewer) is session()
    viewer.close()
    del viewer
    # The fixture holds viewers weakly. The viewer goes first and its session, a ring, after it.
    gc.collect()
    gc.collect()
    assert session() is None
