"""The store of tokens for the docks and napari's Preferences: its size, and how to clear it."""

from __future__ import annotations

from functools import partial

from napari.utils.notifications import show_info, show_warning
from qtpy.QtCore import QObject, Signal
from qtpy.QtWidgets import QApplication

from napari_microdl.gui.session.preferences import plugin_preferences, token_cache
from napari_microdl.gui.widgets.jobs import JobRunner


def _measure(clear: bool) -> tuple[int, int]:
    """Bytes in the store and bytes that were deleted; many files take a while to look at."""
    cache = token_cache()
    before = cache.size()
    if clear:
        cache.clear()
    after = cache.size() if clear else before
    return after, before - after


def amount(n_bytes: int) -> str:
    """A size in MB or GB, of 10^6 and 10^9 bytes."""
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.0f} MB"


class TokenStore(QObject):
    """Measures and clears the store in the background, for every dock and for the Preferences.

    Preferences are built from the manifest, which knows neither buttons nor labels. So the size
    stands in a line of text that is written anew whenever somebody else changes it, and clearing
    is a box that unticks itself when it is done. A box that was ticked while nothing of the plugin
    was loaded is heeded as soon as something is.
    """

    measured = Signal(object)

    def __init__(self, parent: QObject) -> None:
        super().__init__(parent)
        self._size: str | None = None
        self._clearing = False
        self._runner = JobRunner(self)
        self._runner.succeeded.connect(self._on_measured)
        self._runner.failed.connect(self._on_failed)
        self._preferences = plugin_preferences()
        if self._preferences is not None:
            self._preferences.events.tokens_kept.connect(self._show_size)
            self._preferences.events.clear_tokens.connect(self._on_box)
            self._on_box()
        self.look()

    def look(self) -> None:
        """Measure anew; `measured` sends the size in bytes. A clearing is not interrupted."""
        if not self._clearing:
            self._runner.start(partial(_measure, clear=False))

    def clear(self) -> None:
        """Delete all tokens, then measure."""
        self._clearing = True
        self._runner.start(partial(_measure, clear=True))

    def _on_box(self, _: object = None) -> None:
        if self._preferences.clear_tokens and not self._clearing:
            self.clear()

    def _on_measured(self, sizes: tuple[int, int]) -> None:
        size, deleted = sizes
        cleared, self._clearing = self._clearing, False
        self._size = amount(size)
        self._show_size()
        self._untick()
        if cleared:
            show_info(f"Deleted {amount(deleted)} of stored tokens.")
        self.measured.emit(size)

    def _on_failed(self, sentence: str) -> None:
        self._clearing = False
        self._untick()
        show_warning(sentence)

    def _untick(self) -> None:
        if self._preferences is not None:
            self._preferences.clear_tokens = False

    def _show_size(self, _: object = None) -> None:
        """Write the size where Preferences show it, over whatever was typed there."""
        if self._preferences is not None and self._size is not None:
            self._preferences.tokens_kept = self._size


def token_store() -> TokenStore:
    """The one object that looks after the store, made when first asked for."""
    application = QApplication.instance()
    return application.findChild(TokenStore) or TokenStore(application)
