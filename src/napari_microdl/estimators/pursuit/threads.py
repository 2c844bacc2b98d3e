"""Work on rows that threads share, never more of them than torch may use."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from napari_microdl.core.arrays import blas_threads

# Below this many rows a second thread costs more than it brings.
_ROWS_PER_THREAD = 32


def share_rows(
    n_rows: int, work: Callable[[int, int], None], pool: ThreadPoolExecutor, n_threads: int
) -> None:
    """Do all rows here and in a pool; `work(first, last)` does those from one to before another."""
    parts = max(1, min(n_threads, n_rows // _ROWS_PER_THREAD))
    edges = [n_rows * i // parts for i in range(parts + 1)]
    others = [pool.submit(work, edges[i], edges[i + 1]) for i in range(1, parts)]
    work(edges[0], edges[1])
    for other in others:
        other.result()


def limited_blas() -> Any:
    """Context in which numpy's and scipy's products take no more threads than torch may use."""
    import torch

    return blas_threads(torch.get_num_threads())
