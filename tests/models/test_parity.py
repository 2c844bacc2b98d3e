from __future__ import annotations

from pathlib import Path

import pytest

from core.processes import python
from models.cases import CASES
from models.comparison import Case

# Float32 against float32 of another order of sums, or against float64, after three layers (twelve
# at full size), in parts of the largest value.
TOLERANCE = 2e-6
FULL_SIZE_TOLERANCE = 1e-5


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_layer_and_site_equals_an_independent_implementation(case: Case, tmp_path: Path):
    difference = case.measure(tmp_path)
    assert difference.scale > 1, "tokens so small that a difference would not show"
    tolerance = FULL_SIZE_TOLERANCE if "full size" in case.name else TOLERANCE
    assert difference.largest <= tolerance * difference.scale


def test_the_package_itself_never_imports_transformers():
    python(
        "import sys\nfrom napari_microdl.models.registry import load_model\nload_model()\n"
        "assert 'transformers' not in sys.modules\nassert 'huggingface_hub' not in sys.modules"
    )
