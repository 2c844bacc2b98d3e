from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from pathlib import Path

import pytest
from npe2 import PluginManifest

PACKAGED = Path(str(files("napari_microdl"))) / "napari.yaml"
TOP_LEVEL = Path(__file__).parents[1] / "napari.yaml"
MANIFEST = PluginManifest.from_file(PACKAGED)
COMMANDS = MANIFEST.contributions.commands or []


def test_the_installed_manifest_is_found_and_valid():
    found = PluginManifest.from_distribution("napari-microdl")
    assert found.name == "napari-microdl"
    assert found.contributions == MANIFEST.contributions


def test_the_top_level_link_is_the_packaged_file():
    assert TOP_LEVEL.is_symlink()
    assert TOP_LEVEL.read_bytes() == PACKAGED.read_bytes()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.id)
def test_every_command_leads_somewhere(command):
    assert command.id.startswith("napari-microdl.")
    module, name = command.python_name.split(":")
    assert callable(getattr(import_module(module), name))


def test_both_docks_and_the_sample_are_offered():
    widgets = {w.display_name: w.command for w in MANIFEST.contributions.widgets or []}
    assert set(widgets) == {"Concept workflow", "Concept explorer"}
    samples = {s.key: s.command for s in MANIFEST.contributions.sample_data or []}
    assert set(samples) == {"transfluor"}
    assert {*widgets.values(), *samples.values()} == {command.id for command in COMMANDS}
