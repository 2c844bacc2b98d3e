from __future__ import annotations

from importlib import import_module
from importlib.resources import files
from itertools import chain
from pathlib import Path
from typing import get_args

import pytest
from npe2 import PluginManifest

from napari_microdl.core.config import PipelineConfig, UnitKind
from napari_microdl.gui.session.preferences import Preferences

PACKAGED = Path(str(files("napari_microdl"))) / "napari.yaml"
TOP_LEVEL = Path(__file__).parents[1] / "napari.yaml"
MANIFEST = PluginManifest.from_file(PACKAGED)
CONTRIBUTED = MANIFEST.contributions
COMMANDS = CONTRIBUTED.commands or []


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


def test_every_command_is_offered_somewhere():
    widgets = {w.display_name: w.command for w in CONTRIBUTED.widgets or []}
    assert set(widgets) == {"Concept workflow", "Concept explorer"}
    samples = {s.key: s.command for s in CONTRIBUTED.sample_data or []}
    assert set(samples) == {"transfluor", "simulated"}
    menus = {menu: [item.command for item in items] for menu, items in CONTRIBUTED.menus.items()}
    assert set(menus) == {
        f"napari/layers/{name}" for name in ("measure", "transform", "classify", "visualize")
    }
    offered = {*widgets.values(), *samples.values(), *chain.from_iterable(menus.values())}
    offered |= {r.command for r in CONTRIBUTED.readers or []}
    offered |= {w.command for w in CONTRIBUTED.writers or []}
    assert offered == {command.id for command in COMMANDS}


def test_defaults_of_the_preferences_are_those_of_the_package():
    properties = CONTRIBUTED.configurations["runs"].properties
    shown = {name: p.default for name, p in properties.items()}
    assert shown["device"] == Preferences().device == PipelineConfig().model.device
    assert shown["default_unit"] == Preferences().default_unit == PipelineConfig().units.kind
    assert shown["cache_gigabytes"] == Preferences().cache_gigabytes
    assert shown["cache_folder"] == ""
    assert properties["default_unit"].enum == list(get_args(UnitKind))
