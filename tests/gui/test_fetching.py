"""The window asks before weights are fetched from the network."""

from __future__ import annotations

from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMessageBox

from .steps import click


def question(viewer: Any) -> QMessageBox:
    (box,) = viewer.__wrapped__.window._qt_window.findChildren(QMessageBox)
    return box


def press(qtbot: Any, box: QMessageBox, text: str) -> None:
    (button,) = [b for b in box.buttons() if b.text().replace("&", "") == text]
    qtbot.mouseClick(button, Qt.MouseButton.LeftButton)


def test_weights_on_the_hub_are_fetched_once_a_person_agrees(
    viewer, workflow, tmp_path, monkeypatch, qtbot, no_network
):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for row in range(len(workflow.session.images.rows)):
        workflow.session.images.edit_rows([row], is_control=row % 2 == 0)
    workflow.session.settings.configure(model="dinov2-small")
    repository = "facebook/dinov2-small"
    click(qtbot, workflow.run_button)
    box = question(viewer)
    assert f"The weights of {repository} are not here. Fetch them" in box.text()
    assert "Licence of the weights" in box.text()
    assert not workflow.running.is_running
    press(qtbot, box, "Cancel")
    assert workflow.status.text() == (
        f"⚠ Nothing was fetched from {repository}; choose a file with its weights, or another "
        "model."
    )
    qtbot.waitUntil(lambda: not viewer.__wrapped__.window._qt_window.findChildren(QMessageBox))
    assert no_network == []

    def no_answer(repository: str, name: str, **options: object) -> str:
        raise ConnectionError(name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", no_answer)
    click(qtbot, workflow.run_button)
    press(qtbot, question(viewer), "Fetch")
    qtbot.waitUntil(lambda: "could not be fetched" in workflow.status.text())
