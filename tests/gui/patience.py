"""How long a test waits for what is bound to come: longer than a loaded machine needs."""

from __future__ import annotations

from functools import partialmethod

from pytestqt.qtbot import QtBot

# In milliseconds. Nothing takes as long as this unless it never comes.
PATIENCE = 120_000


class PatientBot(QtBot):
    """Waits patiently where a test does not say how long."""

    waitUntil = partialmethod(QtBot.waitUntil, timeout=PATIENCE)  # noqa: N815
    waitSignal = partialmethod(QtBot.waitSignal, timeout=PATIENCE)  # noqa: N815
    waitSignals = partialmethod(QtBot.waitSignals, timeout=PATIENCE)  # noqa: N815
    waitExposed = partialmethod(QtBot.waitExposed, timeout=PATIENCE)  # noqa: N815
