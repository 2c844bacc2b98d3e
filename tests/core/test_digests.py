from __future__ import annotations

import numpy as np
import pytest

from napari_microdl.core import digests
from napari_microdl.core.digests import array_digest, content_digest, file_digest
from tasks import cancelling


@pytest.mark.parametrize("size", [0, 1, 1000, 9 * 2**20 + 3])
def test_every_bit_counts_wherever_it_lies(size, tmp_path):
    content = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    whole = array_digest(content)
    assert len(whole) == 16
    (tmp_path / "a").write_bytes(content.tobytes())
    assert file_digest(tmp_path / "a") == whole.hex()
    for place in {0, size // 2, size - 1} & set(range(size)):
        content[place] ^= 1
        assert array_digest(content) != whole
        content[place] ^= 1
    assert array_digest(content[:-1]) != whole or size == 0
    assert array_digest(np.append(content, np.uint8(0))) != whole


def test_names_types_shapes_and_words_count_and_order_does_not():
    a, b = np.arange(6, dtype=np.float32), np.zeros(2, np.int16)
    whole = content_digest({"a": a, "b": b}, "words")
    assert content_digest({"b": b, "a": a}, "words") == whole
    others = [
        content_digest({"a": a, "c": b}, "words"),
        content_digest({"a": a.reshape(2, 3), "b": b}, "words"),
        content_digest({"a": a.view(np.int32), "b": b}, "words"),
        content_digest({"a": a, "b": b}, "word"),
        content_digest({"a": a}, "words"),
        content_digest({"a": b, "b": a}, "words"),
    ]
    assert len({whole, *others}) == 7
    # Not contiguous in memory is the same numbers.
    assert content_digest({"a": np.repeat(a, 2)[::2], "b": b}, "words") == whole


def test_a_long_array_can_be_given_up():
    with cancelling(1):
        array_digest(np.zeros(4 * digests._PIECE, np.uint8))
