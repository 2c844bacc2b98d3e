"""How much the tokens take that are kept on disk, and a button that drops them."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from qtpy.QtWidgets import QHBoxLayout, QPushButton, QWidget

from napari_microdl.gui.dock import sentence_label
from napari_microdl.gui.jobs import JobRunner
from napari_microdl.gui.settings import token_cache


@dataclass(frozen=True)
class _Looking:
    stage: str = "cache"


def _measure(clear: bool) -> Generator[Any, None, int]:
    """Size of the store in bytes; many files take a while to look at."""
    yield _Looking()
    cache = token_cache()
    if clear:
        cache.clear()
    return cache.size()


class KeptTokens(QWidget):
    """Size of the token store, with a button to clear it."""

    def __init__(self) -> None:
        super().__init__()
        self._runner = JobRunner(self)
        self._runner.succeeded.connect(self._on_measured)
        self.size = sentence_label()
        self.clear = QPushButton("Clear")
        self.clear.setToolTip(
            "Deletes the tokens that are kept on disk; they are computed again when needed. Folder "
            "and largest size are set in Preferences > Plugins > MicroDL."
        )
        self.clear.clicked.connect(lambda: self._runner.start(_measure(clear=True)))
        layout = QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self.size, 1)
        layout.addWidget(self.clear)

    def look(self) -> None:
        """Measure anew, in the background."""
        self._runner.start(_measure(clear=False))

    def stop(self) -> None:
        """Measure no longer, because the dock was closed."""
        self._runner.stop()

    def _on_measured(self, n_bytes: int) -> None:
        amount = f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.0f} MB"
        self.size.setText(f"Tokens kept on disk: {amount}")
        self.clear.setEnabled(n_bytes > 0)
