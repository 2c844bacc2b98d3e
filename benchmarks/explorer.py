"""How long the explorer takes to show another concept, in a real window.

``scripts/with-display .venv/bin/python benchmarks/explorer.py`` opens napari with images of
2,048 x 2,048 pixels, lays a finished run of made-up codes over one of them, and switches from one
concept to the next, as the arrow keys do. Times are from the switch until the window is drawn:
of the activation of every cell alone, of the heatmap alone, and of both. "bound" is what no way of
showing another picture can go below: a plain image layer in the same window gets a new array of the
same size. The table of 8,192 concepts of a million cells, whose codes lie in a file, is scrolled by
the page.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
import pandas as pd
from qtpy.QtWidgets import QApplication
from scipy import sparse

from napari_microdl.activations import ConceptActivations, unit_table
from napari_microdl.cells import Units
from napari_microdl.concept_statistics import compare_groups
from napari_microdl.config import PipelineConfig
from napari_microdl.dictionary import ConceptDictionary, DictionarySpec
from napari_microdl.embedding import TokenGrid
from napari_microdl.fields import Field
from napari_microdl.gui.explorer import ConceptExplorer
from napari_microdl.gui.layers import Source
from napari_microdl.icfl import ICFL
from napari_microdl.pipeline import PipelineResult

SIZE, PATCH, WIDTH, CONCEPTS, ACTIVE = 2048, 8, 192, 1024, 20
TABLE_CONCEPTS, TABLE_CELLS = 8192, 1_000_000
# The session notes how long a run took the model.
REPORT = {"seconds": {"embed": 0.0}}
SPEC = DictionarySpec(
    model_id="made-up",
    weights_sha256="0" * 64,
    weights_licence="",
    layer=1,
    site="residual",
    channel_names=("a",),
    channel_tokens="concat",
    scaling="image",
    tile_size=128,
    halo=0,
    patch_size=PATCH,
    unit="cell",
    crop_size=64,
    crop_stride=64,
)


def random_codes(
    random: np.random.Generator, n: int, n_concepts: int, n_active: int = ACTIVE
) -> sparse.csr_array:
    """As many random positive codes in every row, spread over all concepts."""
    first = np.arange(n_active) + random.random((n, n_active), np.float32)
    indices = (first * (n_concepts / n_active)).astype(np.int32).ravel()
    data = random.random(n * n_active, np.float32)
    indptr = np.arange(0, n * n_active + 1, n_active, dtype=np.int32)
    return sparse.csr_array((data, indices, indptr), shape=(n, n_concepts))


def dictionary_of(random: np.random.Generator, n_concepts: int) -> ConceptDictionary:
    """Random directions as concepts."""
    atoms = random.normal(size=(n_concepts, WIDTH)).astype(np.float32)
    return ConceptDictionary(SPEC, ICFL.from_arrays(atoms, n_iterations=4, atoms_per_iteration=5))


def made_up_run(
    viewer: Any, n_cells: int, n_fields: int
) -> tuple[PipelineResult, list[Field], list[Source]]:
    """A finished run of `n_cells` square cells on every field; nothing in it means anything."""
    random = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(n_cells)))
    cut = np.arange(SIZE) * side // SIZE
    labels = (cut[:, None] * side + cut + 1).astype(np.int32)
    labels[labels > n_cells] = 0
    ids, first = np.unique(labels, return_index=True)
    ids, first = ids[ids > 0], first[ids > 0]
    y, x = np.unravel_index(first, labels.shape)
    edge = SIZE // side
    units = Units(
        ids=ids.astype(np.int64),
        y=(y + edge / 2).astype(np.float32),
        x=(x + edge / 2).astype(np.float32),
        area=np.full(len(ids), edge**2, np.float32),
        boxes=np.stack([y, x, y + edge, x + edge], axis=1).astype(np.int32),
        weights=sparse.csr_array((len(ids), (SIZE // PATCH) ** 2), dtype=np.float32),
    )
    fields, sources, grids = [], [], []
    for number in range(n_fields):
        image = random.integers(0, 4000, (SIZE, SIZE)).astype(np.uint16)
        field = Field(
            image[None],
            ("a",),
            f"field {number}",
            "control" if number == 0 else "treated",
            number == 0,
            well=f"W{number}",
        )
        layer = viewer.add_image(image, name=field.name, visible=number == 0)
        fields.append(field)
        sources.append(Source(weakref.ref(layer), (), field.name, has_own_labels=True))
        tokens = random.normal(size=(SIZE // PATCH, SIZE // PATCH, WIDTH)).astype(np.float32)
        grids.append(TokenGrid(tokens, np.zeros(tokens.shape[:2], np.int32), PATCH, image.shape))
    dictionary = dictionary_of(random, CONCEPTS)
    n = len(ids) * n_fields
    activations = ConceptActivations(
        unit_table(fields, [units] * n_fields),
        random_codes(random, n, CONCEPTS),
        random.normal(size=(n, WIDTH)).astype(np.float32),
        dictionary,
        grids,
        [units] * n_fields,
    )
    config = PipelineConfig(unit="cell")
    return (
        PipelineResult(config, dictionary, activations, [labels] * n_fields, REPORT),
        fields,
        sources,
    )


def median_ms(switch: Callable[[int], Any], repeats: int) -> float:
    """Milliseconds from a switch until what it asks for is drawn; the first is not counted."""
    seconds = []
    for number in range(repeats + 1):
        start = time.perf_counter()
        switch(number)
        QApplication.processEvents()
        seconds.append(time.perf_counter() - start)
        settle(0.2)
    return float(np.median(seconds[1:]) * 1000)


def settle(seconds: float) -> None:
    """Let timers run and drawings end."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        QApplication.processEvents()
        time.sleep(0.005)


def switching(n_cells: int, repeats: int) -> None:
    """Print the times of one size."""
    viewer = napari.Viewer()
    viewer.window.resize(1366, 768)
    result, fields, sources = made_up_run(viewer, n_cells, n_fields=2)
    _, explorer = viewer.window.add_plugin_dock_widget("napari-microdl", "Concept explorer")
    assert isinstance(explorer, ConceptExplorer)
    session = explorer.session
    session.finish(result, fields, sources)
    viewer.reset_view()
    order = result.activations.ranking.index
    settle(1.0)

    def show(number: int) -> None:
        session.show_concept(int(order[number % len(order)]))

    times = {}
    for name, kinds in (
        ("activation", ["activation"]),
        ("heatmap", ["heatmap"]),
        ("both", ["activation", "heatmap"]),
    ):
        session.show(kinds=kinds, all_fields=False)
        settle(0.5)
        times[name] = median_ms(show, repeats)
    session.show(kinds=[])
    planes = np.random.default_rng(0).random((2, SIZE, SIZE)).astype(np.float32)
    plain = viewer.add_image(planes[0])

    def put(number: int) -> None:
        plain.data = planes[number % 2]

    times["bound"] = median_ms(put, repeats)
    for name, value in times.items():
        ratio = f"{value / times['bound']:6.2f}"
        print(f"{n_cells:9,d} cells  {name:11s} {value:7.1f} ms  {ratio} x bound", flush=True)
    viewer.close()
    settle(0.3)


def scrolling(repeats: int) -> None:
    """Print how long the large table takes to be made, filled and scrolled."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        codes = random_codes(random, TABLE_CELLS, TABLE_CONCEPTS, Path(folder))
        second = random.random(TABLE_CELLS) < 0.5
        start = time.perf_counter()
        tested = compare_groups(codes, ~second, second)
        print(
            f"{TABLE_CELLS:9,d} cells  {TABLE_CONCEPTS:,d} concepts compared in "
            f"{time.perf_counter() - start:.1f} s",
            flush=True,
        )
        del codes
    viewer = napari.Viewer()
    viewer.window.resize(1366, 768)
    result, fields, sources = made_up_run(viewer, 100, n_fields=2)
    activations = result.activations
    dictionary = dictionary_of(random, TABLE_CONCEPTS)
    activations = ConceptActivations(
        activations.units,
        random_codes(random, len(activations.units), TABLE_CONCEPTS),
        activations.vectors,
        dictionary,
        activations.grids,
        activations.geometry,
    )
    activations.ranking[["effect", "q_value"]] = tested[["effect", "q_value"]]
    assert isinstance(activations.ranking, pd.DataFrame)
    result = PipelineResult(result.config, dictionary, activations, result.labels, REPORT)
    _, explorer = viewer.window.add_plugin_dock_widget("napari-microdl", "Concept explorer")
    start = time.perf_counter()
    explorer.session.finish(result, fields, sources)
    QApplication.processEvents()
    print(
        f"{TABLE_CONCEPTS:9,d} rows   table filled in {(time.perf_counter() - start) * 1e3:.0f} ms"
    )
    settle(1.0)
    bar = explorer.table.verticalScrollBar()

    def page(number: int) -> None:
        bar.setValue((number + 1) * bar.pageStep())
        explorer.table.viewport().repaint()

    print(f"{TABLE_CONCEPTS:9,d} rows   one page on in {median_ms(page, repeats):.1f} ms")

    def sort(number: int) -> None:
        explorer.table.sortByColumn(
            2 + number % 2, explorer.table.horizontalHeader().sortIndicatorOrder()
        )

    print(f"{TABLE_CONCEPTS:9,d} rows   sorted in {median_ms(sort, 5):.0f} ms")

    def search(number: int) -> None:
        explorer.filter.setText(f"concept {number}")

    print(f"{TABLE_CONCEPTS:9,d} rows   searched in {median_ms(search, 5):.0f} ms")
    viewer.close()
    settle(0.3)


def main() -> None:
    """Run all, or what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, nargs="*", default=[5_000, 100_000])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--no-table", action="store_true")
    arguments = parser.parse_args()
    app = QApplication.instance() or QApplication([])
    for n_cells in arguments.cells:
        switching(n_cells, arguments.repeats)
    if not arguments.no_table:
        scrolling(arguments.repeats)
    app.quit()


if __name__ == "__main__":
    main()
