from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """Sets how many threads torch may use, for the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def variant(selection: str, refit: str, allow_repeats: bool) -> dict[str, Any]:
    """Options of a pursuit, for a test that is parametrised by them."""
    return {"selection": selection, "refit": refit, "allow_repeats": allow_repeats}
