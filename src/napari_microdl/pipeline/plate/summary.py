"""What a plate run has come to: counts and names of fields, for files and for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from napari_microdl.core.text import counted
from napari_microdl.pipeline.plate.folder import SUMMARY
from napari_microdl.pipeline.plate.listing import Receipt, named

# Of many fields that are left out, those that are named; all are in the summary.
_MOST_NAMES = 5
_LEFT_OUT = {
    "not_imaged": "not imaged",
    "unreadable": "unreadable",
    "no_cells": "without cells",
}


def counts_of(receipts: Sequence[Receipt]) -> dict[str, Any]:
    """How many fields and units there are, and the fields that are left out, kinds kept apart.

    Parameters
    ----------
    receipts : sequence of Receipt
        Of all fields, those that are not there too.

    Returns
    -------
    dict
        ``n_fields``, ``n_done``, ``n_units``, ``not_imaged``, ``unreadable`` and ``no_cells``:
        nothing of when, so that runs can be compared.
    """
    every = sorted(receipts, key=lambda r: r.number)
    return {
        "n_fields": len(every),
        "n_done": sum(r.status == "done" for r in every),
        "n_units": sum(r.n_units for r in every),
        "not_imaged": named(every, "not imaged"),
        "unreadable": named(every, "unreadable"),
        "no_cells": named(every, "no cells"),
    }


def sentences(summary: dict[str, Any], out: Path) -> list[str]:
    """What a run has come to, for people.

    Parameters
    ----------
    summary : dict
        As `run_plate` returns it.
    out : Path
        Folder of the run.

    Returns
    -------
    list of str
    """
    lines = [f"Note: {note}" for note in summary["notes"]]
    for status, label in _LEFT_OUT.items():
        if found := summary[status]:
            few = "; ".join(
                ": ".join(filter(None, (f["name"], f.get("reason")))) for f in found[:_MOST_NAMES]
            )
            more = f"; and {len(found) - _MOST_NAMES:,} more" if found[_MOST_NAMES:] else ""
            lines.append(f"{counted(len(found), 'field')} {label}: {few}{more}.".replace("..", "."))
    wells = "" if summary["n_wells"] is None else f" in {summary['n_wells']:,} wells"
    lines.append(
        f"{summary['n_units']:,} units of {summary['n_done']:,} of {summary['n_fields']:,} fields"
        f"{wells}: {', '.join(summary['files'])} and {SUMMARY} are in {out}."
    )
    return [*lines, *([summary["best_concepts"]] if summary["best_concepts"] else [])]
