"""A folder of images, labels and names that are alike, by clicks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from napari.layers import Image, Labels
from qtpy.QtCore import QMimeData, QPoint, QPointF, Qt, QUrl
from qtpy.QtGui import QDragEnterEvent, QDropEvent
from qtpy.QtWidgets import QApplication

from napari_microdl.fields.folder import find_fields
from napari_microdl.fields.samples import transfluor
from napari_microdl.fields.segmentation import segment_cells
from napari_microdl.fields.tables import read_fields
from napari_microdl.gui.session.files import collect_window, write_window
from napari_microdl.gui.session.layers import Layout, rows_of
from napari_microdl.gui.session.opening import arrangement_of, layers_of, read_all
from napari_microdl.gui.session.own_labels import looks_like_labels
from napari_microdl.gui.workflow.dock import ConceptWorkflow
from napari_microdl.gui.workflow.fill_fields import FillFields
from napari_microdl.gui.workflow.import_folder import ImportFolder
from napari_microdl.gui.workflow.match_labels import MatchLabels

from .clicks import write_in_table
from .steps import LEFT, click, look_in, tick, write

SIZE = 96


def pixels(number: int) -> np.ndarray:
    return transfluor()[number % 8].read()[0][:SIZE, :SIZE].copy()


def known(workflow: ConceptWorkflow, *names: str) -> list[tuple[Any, ...]]:
    return [tuple(getattr(row, name) for name in names) for row in workflow.session.images.rows]


def labels_names(workflow: ConceptWorkflow) -> list[str | None]:
    return [getattr(row.labels_layer(), "name", None) for row in workflow.session.images.rows]


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """Two wells of two channels as ImageXpress writes them, with masks, one file damaged."""
    for number, place in enumerate(("DMSO/P_A01", "drug/P_A02", "drug/P_A03")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        for wave in (1, 2):
            tifffile.imwrite(tmp_path / f"{place}_s1_w{wave}.tif", pixels(number) // wave)
        tifffile.imwrite(tmp_path / f"{place}_s1_w1_thumb.tif", pixels(number)[:9, :9])
        cells = segment_cells(pixels(number)).astype(np.uint16)
        tifffile.imwrite(tmp_path / f"{place}_s1_cp_masks.tif", cells)
    (tmp_path / "drug" / "P_A03_s1_w2.tif").write_bytes(b"II*\0 no image")
    return tmp_path


def shown(dialog: ImportFolder) -> list[list[Any]]:
    model = dialog.table.model()
    columns = [c for c in range(model.columnCount()) if not dialog.table.isColumnHidden(c)]
    return [
        [model.index(row, c).data() for c in columns if c != 6] for row in range(model.rowCount())
    ]


def test_a_plate_is_opened_and_step_one_is_filled_in(viewer, bare_workflow, qtbot, plate):
    workflow = bare_workflow
    dialog = look_in(qtbot, workflow, plate)
    assert dialog.way.currentText() == "ImageXpress: 6 of 6 names fit"
    assert shown(dialog) == [
        ["A01_s1", "w1, w2", "P", "A01", "s1", "DMSO", "P_A01_s1_cp_masks.tif"],
        ["A02_s1", "w1, w2", "P", "A02", "s1", "drug", "P_A02_s1_cp_masks.tif"],
        ["A03_s1", "w1, w2", "P", "A03", "s1", "drug", "P_A03_s1_cp_masks.tif"],
    ]
    assert dialog.about.text() == (
        "3 fields, 1 of them called like controls; channels: w1, w2. 3 files are left out: "
        "a thumbnail (3)."
    )
    click(qtbot, dialog.details)
    assert dialog.left_out.isVisible()
    assert "P_A01_s1_w1_thumb.tif: a thumbnail" in dialog.left_out.toPlainText()
    # What is corrected stays when the names are read in another way and back.
    write_in_table(qtbot, dialog.table, 1, 5, "drug 2")
    with qtbot.waitSignal(dialog.message):
        click(qtbot, dialog.open)
    # One bad file is named, here and in the dock, and the others are open.
    assert "Opened 2 fields, 1 of them controls. Skipped 'A03_s1': 'P_A03_s1_w2.tif'" in (
        workflow.status.text()
    )
    assert dialog.about.text() == f"⚠ {workflow.status.text()}"
    assert known(workflow, "group", "channel", "well", "site", "condition", "is_control") == [
        ("A01_s1", "w1", "A01", "s1", "DMSO", True), ("A01_s1", "w2", "A01", "s1", "DMSO", True),
        ("A02_s1", "w1", "A02", "s1", "drug 2", False),
        ("A02_s1", "w2", "A02", "s1", "drug 2", False),
    ]  # fmt: skip
    assert labels_names(workflow) == ["A01_s1 cells"] * 2 + ["A02_s1 cells"] * 2
    assert workflow.session.settings.cell_source == "labels"
    assert workflow.session.plan.problems() == []
    fields, _, _ = workflow.session.plan.prepare()
    np.testing.assert_array_equal(fields[1].read(), [pixels(1), pixels(1) // 2])
    np.testing.assert_array_equal(fields[0].read_labels(), segment_cells(pixels(0)))
    # Settings that are saved name the files, so the command line reads the same.
    saved = write_window(collect_window(workflow.session.plan, plate / "s.json"), plate / "s.json")
    assert "In that folder the command line runs the same: napari-microdl fit" in saved
    # They lie side by side.
    assert not workflow.fields.arranger.look()[0]


def drop(dialog: ImportFolder, *files: Path) -> None:
    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(file)) for file in files])
    buttons, keys = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier
    entered = QDragEnterEvent(QPoint(9, 9), Qt.DropAction.CopyAction, data, buttons, keys)
    QApplication.sendEvent(dialog, entered)
    assert entered.isAccepted()
    dropped = QDropEvent(QPointF(9, 9), Qt.DropAction.CopyAction, data, buttons, keys)
    QApplication.sendEvent(dialog, dropped)


def test_dropped_files_own_patterns_and_a_table_of_conditions(
    viewer, bare_workflow, qtbot, tmp_path, pick
):
    names = ("x B02 1.tif", "x B03 1.tif", "y.tif")
    for number, name in enumerate(names):
        tifffile.imwrite(tmp_path / name, pixels(number))
    click(qtbot, bare_workflow.fields.import_folder)
    dialog = bare_workflow.fields.findChild(ImportFolder)
    qtbot.waitExposed(dialog)
    assert not dialog.open.isEnabled()
    with qtbot.waitSignal(dialog.looking.succeeded):
        drop(dialog, *(tmp_path / name for name in names))
    assert dialog.way.currentText() == "each file a field: 3 of 3 names fit"
    assert not dialog.pattern.isVisible()
    dialog.way.setFocus()
    with qtbot.waitSignal(dialog.looking.succeeded):
        qtbot.keyClick(dialog.way, Qt.Key.Key_End)
    assert dialog.pattern.isVisible()
    with qtbot.waitSignal(dialog.looking.succeeded):
        write(qtbot, dialog.pattern, "x {well} {site}")
    assert [row[0] for row in shown(dialog)] == ["B02_1", "B03_1"]
    assert "not named as the pattern says (1)" in dialog.about.text()
    with qtbot.waitSignal(dialog.looking.failed):
        write(qtbot, dialog.pattern, "x {wel}")
    assert "{wel}, which is not known" in dialog.about.text()
    assert not dialog.open.isEnabled()
    with qtbot.waitSignal(dialog.looking.succeeded):
        write(qtbot, dialog.pattern, "x {well} {site}")
    (tmp_path / "map.csv").write_text("Metadata_Well,compound\nB2,mock\nB3,drug\n")
    pick(tmp_path / "map.csv")
    click(qtbot, dialog.conditions)
    assert dialog.about.text() == "map.csv has 2 rows; 2 of 2 fields are among them."
    tick(qtbot, dialog.table, 1, 6)
    with qtbot.waitSignal(dialog.message):
        click(qtbot, dialog.open)
    assert known(bare_workflow, "name", "condition", "is_control") == [
        ("B02_1", "mock", True), ("B03_1", "drug", True),
    ]  # fmt: skip
    assert bare_workflow.session.images.layout.arrangement == "fields"


def test_a_cancelled_import_opens_nothing_and_an_empty_folder_says_so(
    viewer, bare_workflow, qtbot, plate
):
    empty = plate / "empty"
    empty.mkdir()
    dialog = look_in(qtbot, bare_workflow, empty)
    assert dialog.about.text().startswith("No fields were found")
    with qtbot.waitSignal(dialog.looking.failed):
        write(qtbot, dialog.place, str(plate / "nowhere"))
    assert "no file or folder" in dialog.about.text()
    with qtbot.waitSignal(dialog.looking.succeeded):
        write(qtbot, dialog.place, str(plate))
    click(qtbot, dialog.open)
    click(qtbot, dialog.bar.cancel_button)
    assert dialog.about.text() == "Cancelled: nothing was opened."
    assert list(viewer.layers) == []
    assert dialog.open.isEnabled()


def cells_of(number: int) -> np.ndarray:
    return segment_cells(pixels(number)).astype(np.uint8)


def test_images_that_look_like_labels_are_no_fields_and_become_labels(viewer, bare_workflow, qtbot):
    workflow = bare_workflow
    for number in range(2):
        viewer.add_image(pixels(number), name=f"a{number}")
    viewer.add_image(cells_of(0), name="a0 mask")
    # Its name says nothing, and its parts have one number.
    viewer.add_image((cells_of(1) > 0).astype(np.uint8) * 255, name="second")
    qtbot.waitUntil(lambda: len(workflow.session.images.label_like()) == 2)
    assert known(workflow, "name") == [("a0",), ("a1",)]
    assert workflow.fields.label_like.text() == (
        "'a0 mask', 'second' look like the labels of cells, and are therefore no fields."
    )
    click(qtbot, workflow.fields.match_labels)
    dialog = workflow.fields.findChild(MatchLabels)
    rows = [[dialog.table.item(r, c).text() for c in range(3)] for r in range(2)]
    assert rows == [["a0", "a0 mask", "same name"], ["a1", "second", "the only one left"]]
    # Nothing has changed until it is taken.
    assert labels_names(workflow) == [None, None]
    click(qtbot, dialog.take)
    qtbot.waitUntil(lambda: labels_names(workflow) == ["a0 mask", "second"])
    assert [type(layer) for layer in viewer.layers] == [Image, Image, Labels, Labels]
    np.testing.assert_array_equal(viewer.layers["a0 mask"].data, cells_of(0))
    assert viewer.layers["second"].data.max() > 1
    assert workflow.session.settings.cell_source == "labels"
    assert not workflow.fields.label_like.isVisible()


def test_labels_are_matched_by_order_only_when_a_person_says_so(viewer, bare_workflow, qtbot):
    workflow = bare_workflow
    for number in range(2):
        viewer.add_image(pixels(number), name=f"a{number}")
    for number in range(2):
        viewer.add_labels(cells_of(number), name=f"b{number}", translate=(number * 50, 0))
    viewer.add_image(cells_of(0), name="image of cells")
    qtbot.waitUntil(lambda: len(workflow.session.images.label_like()) == 1)
    click(qtbot, workflow.fields.as_fields)
    assert known(workflow, "name") == [("a0",), ("a1",), ("image of cells",)]
    tick(qtbot, workflow.fields.table, 2, 0)
    assert labels_names(workflow) == [None] * 3
    viewer.layers.remove(viewer.layers["image of cells"])
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == 2)
    workflow.session.settings.choose(cell_source="labels")
    click(qtbot, workflow.cells.heading)
    click(qtbot, workflow.cells.match_labels)
    dialog = workflow.cells.findChild(MatchLabels)
    assert "2 by their order alone" in dialog.about.text()
    found_by = [dialog.table.item(row, 2).text() for row in range(2)]
    assert found_by == ["same order", "same order, but elsewhere in the viewer"]
    assert "1 elsewhere in the viewer: where ticked, they are moved" in dialog.about.text()
    ticks = [dialog.table.item(row, 0).checkState() for row in range(2)]
    assert ticks == [Qt.CheckState.Checked, Qt.CheckState.Unchecked]
    dialog.table.item(1, 0).setCheckState(Qt.CheckState.Checked)
    click(qtbot, dialog.take)
    qtbot.waitUntil(lambda: labels_names(workflow) == ["b0", "b1"])
    for number in range(2):
        boxes = [viewer.layers[f"{kind}{number}"].extent.world for kind in "ab"]
        np.testing.assert_array_equal(*boxes)


def test_same_names_of_two_folders_are_told_apart(viewer, bare_workflow, qtbot, tmp_path):
    for number, folder in enumerate(("P1", "P2")):
        (tmp_path / folder / "masks").mkdir(parents=True)
        tifffile.imwrite(tmp_path / folder / "A01.tif", pixels(number))
        tifffile.imwrite(tmp_path / folder / "masks" / "A01.tif", cells_of(number))
    for folder in ("P1", "P2"):
        viewer.open(tmp_path / folder / "A01.tif", plugin="napari")
    for folder in ("P1", "P2"):
        viewer.open(tmp_path / folder / "masks" / "A01.tif", plugin="napari", layer_type="labels")
    qtbot.waitUntil(lambda: known(bare_workflow, "name") == [("P1_A01",), ("P2_A01",)])
    # napari has numbered all of them.
    assert [layer.name for layer in viewer.layers] == ["A01", "A01 [1]", "A01 [2]", "A01 [3]"]
    qtbot.waitUntil(lambda: labels_names(bare_workflow) == ["A01 [2]", "A01 [3]"])
    model = bare_workflow.fields.table.fields_model
    tip = model.data(model.index(1, 1), Qt.ItemDataRole.ToolTipRole)
    assert str(tmp_path / "P2" / "A01.tif") in tip
    # A person's own name stays when the layer is called otherwise, others follow.
    write_in_table(qtbot, bare_workflow.fields.table, 0, 1, "mine")
    viewer.layers[0].name = "first"
    viewer.layers[1].name = "second"
    assert known(bare_workflow, "name") == [("mine",), ("second",)]


def test_filling_in_keeps_the_channels_of_each_well_together(viewer, bare_workflow, qtbot):
    workflow = bare_workflow
    names = [f"{well}_s1_{c}" for well in ("B02", "B03", "C03") for c in ("DNA", "actin")]
    for number, name in enumerate(names):
        viewer.add_image(pixels(number), name=name)
    for well in ("C03", "B02"):
        viewer.add_labels(cells_of(0), name=f"{well}_s1 cells")
    qtbot.waitUntil(lambda: len(workflow.session.images.rows) == 6)
    workflow.session.images.set_layout(Layout("channels"), viewer.layers)
    assert labels_names(workflow) == [None] * 6
    click(qtbot, workflow.fields.fill)
    dialog = workflow.fields.findChild(FillFields)
    # Without a name of the field, one condition would be written over all.
    write(qtbot, dialog.names.pattern, "*_s1_{condition}")
    assert dialog.names.message.text().startswith(
        "⚠ The images of field 'field 1' would get the condition 'DNA' and 'actin'"
    )
    assert not dialog.names.apply.isEnabled()
    write(qtbot, dialog.names.pattern, "{well}_{site}_{channel}")
    qtbot.mouseClick(dialog.names.apply, LEFT)
    assert known(workflow, "group", "channel", "well") == [
        (f"{w}_s1", c, w) for w in ("B02", "B03", "C03") for c in ("DNA", "actin")
    ]
    # Whose labels they are is clear now.
    assert labels_names(workflow)[::2] == ["B02_s1 cells", None, "C03_s1 cells"]


@pytest.mark.parametrize("number", range(8))
def test_pictures_do_not_look_like_labels_and_cells_do(number):
    image = transfluor()[number].read()[0]
    assert not looks_like_labels(Image(image))
    assert not looks_like_labels(Image(np.maximum(image, 30) - 30))
    assert looks_like_labels(Image(segment_cells(image).astype(np.uint16)))


def test_axes_of_length_one_are_not_asked_for(viewer, bare_workflow, qtbot):
    viewer.add_image(pixels(0)[None, None], name="a")
    viewer.add_labels(cells_of(0)[None], name="a cells")
    qtbot.waitUntil(lambda: labels_names(bare_workflow) == ["a cells"])
    assert not bare_workflow.fields.channel_axis.isVisible()
    assert known(bare_workflow, "name") == [("a",)]
    bare_workflow.session.images.edit_rows([0], is_control=True)
    bare_workflow.session.settings.choose(cell_source="labels")
    (field,), _, _ = bare_workflow.session.plan.prepare()
    np.testing.assert_array_equal(field.read(), pixels(0)[None])
    np.testing.assert_array_equal(field.read_labels(), cells_of(0))


def test_what_does_not_fit_into_memory_is_read_when_it_is_looked_at(plate):
    found = find_fields([plate / "DMSO", plate / "drug"]).fields
    opened, problems = read_all(found, most_bytes=SIZE * SIZE)
    assert [isinstance(one.field.data, np.ndarray) for one in opened] == [True, False]
    np.testing.assert_array_equal(opened[1].field.read(), [pixels(1), pixels(1) // 2])
    np.testing.assert_array_equal(opened[1].limits, opened[0].limits)
    assert len(problems) == 1
    # Beyond 48 layers of a channel each, a field is one layer, a stack.
    assert [arrangement_of(opened * n) for n in (12, 13)] == ["channels", "fields"]
    layers = list(layers_of(opened, [(0, 0), (0, 99)], "fields", in_micrometres=False))
    assert [(layer.name, layer.data.shape) for layer in layers[::2]] == [
        ("A01_s1", (2, SIZE, SIZE)), ("A02_s1", (2, SIZE, SIZE)),
    ]  # fmt: skip
    (row,) = rows_of(layers[2], Layout("fields", 0))
    assert (row.name, row.condition, row.well) == ("A02_s1", "drug", "A02")
    # Labels that cannot be read do not take their field along.
    (plate / "DMSO" / "P_A01_s1_cp_masks.tif").write_bytes(b"II*\0")
    opened, problems = read_all(found[:1])
    assert opened[0].field.labels is None
    assert problems[0].startswith("Without its labels 'A01_s1': 'P_A01_s1_cp_masks.tif'")


@pytest.mark.parametrize("beside", [None, "pixel", "um"])
def test_images_that_tell_their_pixel_size_lie_in_micrometres(
    viewer, bare_workflow, qtbot, tmp_path, beside
):
    sizes = {"DMSO/P_A01_s1_w1.tif": 0.65, "drug/P_A02_s1_w1.tif": 1.3}
    for number, (place, size) in enumerate(sizes.items()):
        (tmp_path / place).parent.mkdir()
        per_um = (1 / size, 1 / size)
        tifffile.imwrite(
            tmp_path / place,
            pixels(number),
            imagej=True,
            resolution=per_um,
            metadata={"unit": "um"},
        )
        cells = segment_cells(pixels(number)).astype(np.uint16)
        tifffile.imwrite(tmp_path / place.replace(".tif", "_cp_masks.tif"), cells)
    if beside:
        viewer.add_image(pixels(3), name="beside", units=(beside, beside))
    dialog = look_in(qtbot, bare_workflow, tmp_path)
    click(qtbot, dialog.open)
    qtbot.waitUntil(lambda: len(viewer.layers) == 4 + bool(beside))
    layers = [layer for layer in viewer.layers if layer.name != "beside"]
    # Beside pixels, micrometres could not be told from them.
    expected = [1.0] * 4 if beside == "pixel" else [0.65, 0.65, 1.3, 1.3]
    assert sorted(float(layer.scale[-1]) for layer in layers) == pytest.approx(expected)
    boxes = [layer.extent.world for layer in layers if isinstance(layer, Image)]
    first, second = sorted(boxes, key=lambda box: box[0].tolist())
    assert (first[1] < second[0]).any()
    run_fields = [f.pixel_size for f in bare_workflow.session.plan.prepare("tokens")[0]]
    wanted = [None] * 2 if beside == "pixel" else [0.65, 1.3]
    assert run_fields[-2:] == [None if w is None else pytest.approx(w, rel=1e-5) for w in wanted]


def test_corrected_images_are_saved_with_their_illumination(viewer, bare_workflow, qtbot, tmp_path):
    light = np.linspace(1, 2, SIZE * SIZE).reshape(SIZE, SIZE)
    np.save(tmp_path / "P_IllumDNA.npy", light)
    rows = ["FileName_DNA,FileName_ER,Metadata_Plate,Metadata_Well,condition"]
    for number, well in enumerate(("A01", "A02")):
        for channel in ("DNA", "ER"):
            tifffile.imwrite(tmp_path / f"{well}_{channel}.tif", pixels(number))
        rows.append(f"{well}_DNA.tif,{well}_ER.tif,P,{well},DMSO")
    (tmp_path / "table.csv").write_text("\n".join(rows))
    dialog = look_in(qtbot, bare_workflow, tmp_path)
    with qtbot.waitSignal(dialog.message):
        click(qtbot, dialog.open)
    plan = bare_workflow.session.plan
    fields, _, _ = plan.prepare()
    np.testing.assert_allclose(fields[1].read()[0], pixels(1) / light, rtol=1e-6)
    assert [f.corrected for f in fields] == [("DNA",)] * 2
    (tmp_path / "saved").mkdir()
    path = tmp_path / "saved" / "s.json"
    said = write_window(collect_window(plan, path), path)
    assert "the command line runs the same" in said
    read = read_fields(path.with_name("s.fields.csv"))
    np.testing.assert_array_equal(read[1].read(), fields[1].read())
    assert [f.corrected for f in read] == [("DNA",)] * 2
