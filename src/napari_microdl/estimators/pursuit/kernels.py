"""Compiled code where it can be had."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from typing import Any


@lru_cache
def compiled_module(name: str) -> Any:
    """Import a module that is compiled by numba.

    Parameters
    ----------
    name : str
        Full name of the module.

    Returns
    -------
    module or None
        None where there is no numba, as for a while after every new version of Python.
    """
    try:
        return import_module(name)
    except ImportError:
        return None
