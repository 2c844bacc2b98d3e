"""Each family with random weights in its published layout, beside an independent implementation."""

from __future__ import annotations

from models.second_cases import SECOND_CASES
from models.transformers_cases import TRANSFORMERS_CASES

CASES = (*TRANSFORMERS_CASES, *SECOND_CASES)
