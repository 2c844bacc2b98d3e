"""How much the tokens take that are kept on disk, and a button that drops them."""

from __future__ import annotations

from qtpy.QtWidgets import QHBoxLayout, QPushButton, QWidget

from napari_microdl.gui.dock import sentence_label
from napari_microdl.gui.session.token_store import amount, token_store


class KeptTokens(QWidget):
    """Size of the token store, with a button to clear it."""

    def __init__(self) -> None:
        super().__init__()
        self._store = token_store()
        self._store.measured.connect(self._on_measured)
        self.size = sentence_label()
        self.clear = QPushButton("Clear")
        self.clear.setToolTip(
            "Deletes the tokens that are kept on disk; they are computed again when needed. Folder "
            "and largest size are set in Preferences > MicroDL, which can clear them too."
        )
        self.clear.clicked.connect(lambda: self._store.clear())
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.size, 1)
        layout.addWidget(self.clear)

    def look(self) -> None:
        """Measure anew, in the background."""
        self._store.look()

    def _on_measured(self, n_bytes: int) -> None:
        self.size.setText(f"Tokens kept on disk: {amount(n_bytes)}")
        self.clear.setEnabled(n_bytes > 0)
