"""The words of the page of results; its figures are in `results_page.py`."""

INTRODUCTION = ["# Results"]
VERDICTS: list[str] = []
OF_SET: dict[str, list[str]] = {
    n: [] for n in ("transfluor", "bbbc014_vitra", "nf1_schwann", "bccd")
}
SIMULATED = ["## Planted factors"]
CLOSING: list[str] = []
