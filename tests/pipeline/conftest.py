from __future__ import annotations

import pytest

from napari_microdl.fields.field import Field
from pipeline.small_run import corner_fields


@pytest.fixture(scope="module")
def fields() -> list[Field]:
    return corner_fields()
