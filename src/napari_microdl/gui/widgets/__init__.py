"""Widgets that know nothing of a session: inputs, plots, progress."""
