"""Reader of dictionaries and plate runs, and writer of dictionaries: drag and drop, Open, Save."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import napari
from napari.utils.notifications import show_error, show_info

from napari_microdl.concepts.dictionary import SUFFIX, ConceptDictionary
from napari_microdl.core.errors import MicrodlError
from napari_microdl.gui.dock import EXPLORER, open_dock, session_of
from napari_microdl.gui.session.layers import TAG

# What napari takes for a file that was read and holds no layer.
_NO_LAYERS = [(None,)]


def get_reader(path: str | Sequence[str]) -> Callable[[Any], list[tuple[None]]] | None:
    """Reader of a dictionary file or a plate run, for npe2.

    Parameters
    ----------
    path : str or sequence of str
        What was dropped or opened.

    Returns
    -------
    callable or None
        None for anything but one dictionary file, or one ``plate.json`` of a plate run.
    """
    if not isinstance(path, str | Path):
        return None
    if str(path).lower().endswith(SUFFIX):
        return read_dictionary
    # The name of the manifest of a plate run, spelled out: to import the pipeline takes seconds.
    return read_plate if Path(path).name == "plate.json" else None


def read_dictionary(path: str | Path) -> list[tuple[None]]:
    """Load a dictionary into the session of the viewer, to be applied to its images.

    What is wrong with a file is said in the window. Of an error that is raised, napari would say
    only that the plugin had one.

    Parameters
    ----------
    path : str or Path
        Dictionary file.

    Returns
    -------
    list
        napari's sign for "read, but no layers".

    Raises
    ------
    MicrodlError
        If no viewer is open.
    """
    session = session_of(_viewer())
    try:
        dictionary = ConceptDictionary.load(path)
    except MicrodlError as error:
        show_error(str(error))
        return list(_NO_LAYERS)
    session.settings.set_dictionary(dictionary, Path(path))
    session.settings.choose(apply_dictionary=True)
    show_info(
        f"'{Path(path).name}' with {dictionary.n_concepts} concepts is loaded: open the Concept "
        "workflow (Plugins > MicroDL) to apply it to images."
    )
    return list(_NO_LAYERS)


def read_plate(path: str | Path) -> list[tuple[None]]:
    """Show the plate run of a folder in the Concept explorer.

    Parameters
    ----------
    path : str or Path
        Its ``plate.json``.

    Returns
    -------
    list
        napari's sign for "read, but no layers".

    Raises
    ------
    MicrodlError
        If no viewer is open.
    """
    explorer: Any = open_dock(_viewer(), EXPLORER)
    explorer.open_button.open(Path(path).parent)
    return list(_NO_LAYERS)


def write_dictionary(path: str, data: Any, attributes: dict[str, Any]) -> list[str]:
    """Save the dictionary behind an overlay layer, for npe2.

    Parameters
    ----------
    path : str
        Where to; the suffix is completed.
    data : array
        Pixels of the layer, which are not saved.
    attributes : dict
        Attributes of the layer.

    Returns
    -------
    list of str
        The file written.

    Raises
    ------
    MicrodlError
        If the layer was not made by this plugin in this viewer.
    """
    session = session_of(_viewer())
    tag = attributes.get("metadata", {}).get(TAG, {})
    run = session.run.current
    if run is None or tag.get("run_id") != run.run_id:
        raise MicrodlError(
            f"'{attributes.get('name', 'The layer')}' shows no concept; to save the dictionary, "
            "select an overlay of the Concept explorer, or use its button Save."
        )
    return [str(run.result.dictionary.save(path))]


def _viewer() -> Any:
    viewer = napari.current_viewer()
    if viewer is None:
        raise MicrodlError("Open a napari window first; the dictionary is loaded into it.")
    return getattr(viewer, "__wrapped__", viewer)
