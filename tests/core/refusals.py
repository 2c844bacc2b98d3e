"""What is refused with one sentence, and files that try to run code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from napari_microdl.core.errors import MicrodlError


def refusal(call: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """The sentence that a call is refused with."""
    with pytest.raises(MicrodlError) as caught:
        call(*arguments, **options)
    sentence = str(caught.value)
    assert sentence.endswith("."), sentence
    assert "\n" not in sentence, sentence
    return sentence


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return open, (str(self.mark), "w")
