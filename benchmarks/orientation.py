"""What turning images does to concepts, as tokens are read once and in eight orientations.

A dictionary is fitted on half of the wells of the bundled sample; the fields of the others are
coded as they are, turned, and flipped, with their cells. Printed are the median over concepts of
the correlation of codes between cells as they are and turned, the correlation of cosines with the
best concept, and the seconds that reading the tokens took.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from napari_microdl.core.config import PipelineConfig
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor
from napari_microdl.pipeline.run import PipelineRun, run_pipeline

WAYS: dict[str, Callable[[NDArray[np.generic]], NDArray[np.generic]]] = {
    "turned by 90 degrees": lambda a: np.rot90(a, 1, (-2, -1)),
    "turned by 180 degrees": lambda a: np.rot90(a, 2, (-2, -1)),
    "flipped": lambda a: a[..., ::-1],
}


def laid(field: Field, labels: NDArray[np.int64], way: str) -> Field:
    """A field in another way, with the same cells."""
    lay = WAYS.get(way, lambda a: a)
    return dataclasses.replace(
        field,
        data=np.ascontiguousarray(lay(field.read())),
        labels=np.ascontiguousarray(lay(labels)),
    )


def main() -> None:
    """Fit, code, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edge", type=int, default=512, help="pixels of each field that are used")
    asked = parser.parse_args()
    fields = [
        dataclasses.replace(f, data=f.data[:, : asked.edge, : asked.edge]) for f in transfluor()
    ]
    fitted, others = fields[::2], fields[1::2]
    rows = []
    for orientations in (1, 8):
        config = PipelineConfig.of(orientations=orientations, cache=False)
        started = time.perf_counter()
        result = run_pipeline(fitted, config)
        seconds = result.report["seconds"]["tokens"]
        dictionary = result.dictionary
        cells = PipelineRun(others, config, dictionary=dictionary).cells()
        codes, cosines = {}, {}
        for way in ("as they are", *WAYS):
            seen = [laid(f, c, way) for f, c in zip(others, cells, strict=True)]
            found = run_pipeline(seen, config, dictionary=dictionary).activations
            # Cells are in the order of their labels, whichever way the field lies.
            codes[way] = found.codes.toarray()
            cosines[way] = found.alignment(result.activations.first_concept)
        used = (codes["as they are"] != 0).sum(0) >= 10
        for way in WAYS:
            pairs = zip(codes["as they are"].T[used], codes[way].T[used], strict=True)
            each = [np.corrcoef(a, b)[0, 1] if b.any() else 0.0 for a, b in pairs]
            rows.append(
                {
                    "orientations": orientations,
                    "way": way,
                    "codes": round(float(np.median(each)), 3),
                    "concepts": int(used.sum()),
                    "best": round(
                        float(np.corrcoef(cosines["as they are"], cosines[way])[0, 1]), 3
                    ),
                    "tokens_seconds": seconds,
                }
            )
            print(rows[-1], flush=True)
        print(f"all of it took {time.perf_counter() - started:.0f} s", flush=True)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
