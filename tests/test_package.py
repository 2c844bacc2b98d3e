from __future__ import annotations

import json
import re
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import napari_microdl
from core.processes import python

REPOSITORY = Path(__file__).parents[1]
HEAVY = [
    "torch", "napari", "qtpy", "magicgui", "sklearn", "skimage", "scipy", "matplotlib", "pandas",
]  # fmt: skip
PUBLIC = [
    "ICFL",
    "ConceptActivations",
    "ConceptDictionary",
    "ControlWhitening",
    "Field",
    "MicrodlError",
    "PipelineConfig",
    "TopKSAE",
    "embed",
    "iter_pipeline",
    "run_pipeline",
]


def loaded_by(code: str, names: list[str]) -> list[str]:
    """Which of the packages a fresh interpreter has loaded after running the code."""
    code += f"\nimport json, sys; print(json.dumps([n for n in {names} if n in sys.modules]))"
    loaded: list[str] = json.loads(python(code).stdout.splitlines()[-1])
    return loaded


def test_importing_the_package_loads_nothing_heavy():
    assert loaded_by("import napari_microdl; dir(napari_microdl)", [*HEAVY, "numpy"]) == []


def test_the_guard_sees_what_is_loaded():
    assert loaded_by("import napari_microdl; napari_microdl.Field", ["numpy"]) == ["numpy"]


def test_discovery_of_the_manifest_loads_nothing_heavy():
    code = (
        "from npe2 import PluginManager\n"
        "manager = PluginManager()\n"
        "manager.discover()\n"
        "assert manager.get_manifest('napari-microdl').contributions.widgets\n"
    )
    names = ["torch", "napari", "qtpy", "sklearn", "skimage", "matplotlib", "napari_microdl"]
    assert loaded_by(code, names) == []


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name):
    assert name in napari_microdl.__all__
    assert name in dir(napari_microdl)
    value = getattr(napari_microdl, name)
    assert value.__name__ == name
    assert value.__module__.startswith("napari_microdl.")
    assert value.__doc__


def test_nothing_else_is_public():
    assert sorted(napari_microdl.__all__) == sorted([*PUBLIC, "__version__"])


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'TopKSEA'"):
        _ = napari_microdl.TopKSEA


def test_every_place_names_the_same_version():
    version = napari_microdl.__version__
    assert metadata.version("napari-microdl") == version
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## \[{re.escape(version)}\]", changelog, flags=re.MULTILINE)


def test_the_base_installation_brings_no_qt():
    requirements = metadata.requires("napari-microdl") or []
    base = [line for line in requirements if "extra ==" not in line]
    assert base
    assert not [line for line in base if re.match(r"(?i)(pyqt|pyside|napari)", line)]
