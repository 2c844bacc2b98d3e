"""How far the tokens of each model family are from an independent implementation.

``python benchmarks/parity.py`` loads random weights in the published layout of each family, as the
tests do, and prints the largest absolute difference over all tiles, layers and sites beside the
largest token value. It needs the extra ``test`` (for ``transformers``).
"""

from __future__ import annotations

import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

# The cases are those of the tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from models.cases import CASES
from models.comparison import TRANSFORMERS


def main() -> None:
    """Print one line a case."""
    print(f"torch {version('torch')}, transformers {version('transformers')}, CPU, float32\n")
    print("| weights | against | largest difference | largest value | ratio |")
    print("|---|---|---|---|---|")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["NAPARI_MICRODL_CACHE"] = folder
            found = case.measure(Path(folder))
        against = "transformers" if case.against == TRANSFORMERS else "the second one, float64"
        ratio = found.largest / found.scale
        print(
            f"| {case.name} | {against} | {found.largest:.1e} | {found.scale:.1f} | {ratio:.0e} |"
        )


if __name__ == "__main__":
    main()
