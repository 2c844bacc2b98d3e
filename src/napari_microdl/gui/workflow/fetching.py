"""The question before weights are fetched: nothing is taken from the network unasked."""

from __future__ import annotations

from collections.abc import Callable

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QMessageBox, QWidget

from napari_microdl.gui.session.session import Session
from napari_microdl.models.registry import to_be_fetched


class FetchQuestion:
    """Asks once whether the weights of a model may be fetched.

    Parameters
    ----------
    session : Session
        Its settings name the model.
    parent : QWidget
        Whose window the question belongs to.
    """

    def __init__(self, session: Session, parent: QWidget) -> None:
        self._session, self._parent = session, parent
        self._allowed: set[str] = set()

    def asks(self, go_on: Callable[[], None], give_up: Callable[[str], None]) -> bool:
        """Ask where that is needed.

        Parameters
        ----------
        go_on : callable
            Called once a person has agreed.
        give_up : callable
            Called with a sentence where a person has not.

        Returns
        -------
        bool
            Whether something is asked; else the weights are here, or may be fetched.
        """
        repository = to_be_fetched(self._session.settings.shown_config().model.name)
        if not repository or repository in self._allowed:
            return False

        def agreed() -> None:
            self._allowed.add(repository)
            go_on()

        box = QMessageBox(
            QMessageBox.Icon.Question,
            "MicroDL",
            f"The weights of {repository} are not here. Fetch them from the Hugging Face hub?\n\n"
            f"{self._session.plan.model.terms()}",
            parent=self._parent.window(),
        )
        box.setTextFormat(Qt.TextFormat.PlainText)
        fetch = box.addButton("Fetch", QMessageBox.ButtonRole.AcceptRole)
        box.addButton(QMessageBox.StandardButton.Cancel)
        fetch.clicked.connect(agreed)
        box.rejected.connect(
            lambda: give_up(
                f"Nothing was fetched from {repository}; choose a file with its weights, or "
                "another model."
            )
        )
        box.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        box.open()
        return True
