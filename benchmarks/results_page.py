"""Writes the page of results from the rows that `claims.py` and `simulated.py` have measured.

All figures, and every "yes" and "no", come from the rows. The words around them are in
`results.template.md`, where ``{{name}}`` on a line of its own stands for a table.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from napari_microdl.metrics import baseline_correlation

PAGE = "docs/results.md"
TEMPLATE = Path(__file__).with_name("results.template.md")
NONE = "-"
Row = dict[str, Any]
# Below this gain over chance of the probe on the samples themselves there is nothing to keep.
LEAST_GAIN = 0.1
# With two labels any two methods correlate with 1 or -1.
LEAST_LABELS = 3
# The label of the samples that the whitening takes as controls; a concept is asked of the others.
CONTROL_LABEL = {
    "transfluor": "diffuse",
    "bbbc014_vitra": "untreated",
    "nf1_schwann": "WT",
    "bccd": "RBC",
}
METHODS = {
    "ICFL": "ICFL",
    "ICFL, printed": "ICFL as printed",
    "TopK SAE": "TopK SAE",
    "PCA axes": "PCA axes",
    "handcrafted": "handcrafted, sparse",
    "handcrafted, median": "handcrafted, split at the median",
    "random-init": "ICFL, random-init tokens",
    "ICFL, large": "ICFL, large M",
    "TopK SAE, large": "TopK SAE, large M",
}
PREPARATIONS = {"centred": "no", "whitened": "yes"}
_BOTH = (("centred", "not whitened"), ("whitened", "whitened"))
SIMULATED_METHODS = {
    "whitened": "concepts, whitened",
    "large": "concepts, whitened, M 256",
    "not whitened": "concepts, not whitened",
    "handcrafted": "handcrafted measurement",
    "tokens": "ridge regression on tokens",
}


def read_rows(path: Path, table: str) -> list[Row]:
    """Rows of one table of the file; none where there is no file yet."""
    if not path.exists():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["table"] == table]


def append(path: Path, row: Row) -> None:
    """Keep a row, whatever becomes of those that follow."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def write_between(begin: str, lines: list[str], end: str, page: Path = TEMPLATE) -> None:
    """Put the lines of a table between two marks of a page, the template where not given."""
    before, rest = page.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    made = "\n".join((before + begin, *lines, end + after))
    page.write_text(made, encoding="utf-8")


def shown(values: Sequence[float | None], digits: int = 2) -> str:
    """Median and range; the range is left out of one value, and where nothing varies."""
    known = [v for v in values if v is not None and np.isfinite(v)]
    if not known:
        return NONE
    # Adding zero turns a negative one, which rounding makes, into a positive one.
    figures = (round(float(q), digits) + 0.0 for q in (min(known), np.median(known), max(known)))
    low, middle, high = (f"{q:.{digits}f}" for q in figures)
    dash = " to " if low.startswith("-") else "-"
    return middle if low == high else f"{middle} ({low}{dash}{high})"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def of(rows: list[Row], name: str, method: str, preparation: str) -> list[Row]:
    """All seeds of one combination, in order."""
    found = [
        r for r in rows if (r["set"], r["method"], r["samples"]) == (name, method, preparation)
    ]
    return sorted(found, key=lambda row: row["seed"])


def _combinations(rows: list[Row], name: str) -> Iterator[tuple[str, str, list[Row]]]:
    for method in METHODS:
        for preparation in PREPARATIONS:
            found = of(rows, name, method, preparation)
            if found:
                yield METHODS[method], PREPARATIONS[preparation], found


def selectivity_table(rows: list[Row], name: str) -> list[str]:
    """Selectivity of the chosen concept, the best there is, the null, and the AUC, per label."""
    labels = sorted({label for r in rows if r["set"] == name for label in r["labels"]})
    header = ["method", "whitened", "label", "fitted on", "**held out**", "best held out"]
    header += ["null, 95 %", "AUC"]
    lines = []
    for label in sorted(labels, key=lambda each: each == CONTROL_LABEL.get(name)):
        for method, whitened, found in _combinations(rows, name):
            figures = [r["labels"][label] for r in found]
            columns = [
                shown([f[key] for f in figures])
                for key in ("fit", "held_out", "best_held_out", "null", "auc")
            ]
            columns[1] = f"**{columns[1]}**"
            lines.append([method, whitened, label, *columns])
    return markdown(header, lines)


def dictionary_table(rows: list[Row], name: str) -> list[str]:
    """Counts, dead features, reconstruction and probes."""
    header = ["method", "whitened", "M", "K", "> 0.5", "> 0.2", "> 0.1", "dead"]
    header += ["cosine at K", "cosine at K/4", "probe x", "reconstruction", "codes", "kept"]
    lines = []
    for method, whitened, found in _combinations(rows, name):
        learned = "cosine" in found[0] and not method.startswith("PCA")

        def column(key: str, digits: int = 2, found: list[Row] = found) -> str:
            return shown([r.get(key) for r in found], digits)

        lines.append(
            [
                method,
                whitened,
                str(found[0]["n_concepts"]),
                str(found[0]["k"]),
                *(shown([r["counts"][t] for r in found], 0) for t in ("0.5", "0.2", "0.1")),
                column("dead", 0) if learned else NONE,
                column("cosine"),
                column("cosine_few"),
                column("probe"),
                column("probe_reconstruction"),
                column("probe_codes"),
                shown([_share_kept(r) for r in found]),
            ]
        )
    return markdown(header, lines)


def treated(rows: list[Row], key: str = "held_out") -> list[float]:
    """Of every seed, the mean over the labels that are not the controls'."""
    scores = []
    for row in rows:
        of_treated = [
            f[key] for n, f in row["labels"].items() if n != CONTROL_LABEL.get(row["set"])
        ]
        scores.append(float(np.mean(of_treated)))
    return scores


def verdict(first: Sequence[float], second: Sequence[float], digits: int = 2) -> str:
    """Whether the first is above the second: in all seeds, in the median alone, or not."""
    if not first or not second:
        return NONE
    a, b = float(np.median(first)), float(np.median(second))
    if min(first) > max(second):
        word = "**yes**"
    elif a > b:
        word = "median only"
    else:
        word = "**no**"
    return f"{word}, {a:.{digits}f} against {b:.{digits}f}"


def claims_table(rows: list[Row]) -> list[str]:
    """The paper's claims, and ours beside them, on every set."""
    names = [n for n in CONTROL_LABEL if any(r["set"] == n for r in rows)]

    def by(key: str, sign: int = 1) -> Callable[[list[Row]], list[float]]:
        return lambda found: [sign * float(r[key]) for r in found]

    comparisons: list[tuple[str, Callable[[list[Row]], list[float]], Any, Any]] = [
        (title, treated, first, second)
        for title, first, second in (
            (
                "Selectivity: ICFL whitened above ICFL not whitened",
                ("ICFL", "whitened"),
                ("ICFL", "centred"),
            ),
            (
                "Selectivity: ICFL above TopK SAE, not whitened",
                ("ICFL", "centred"),
                ("TopK SAE", "centred"),
            ),
            (
                "Selectivity: ICFL above TopK SAE, whitened",
                ("ICFL", "whitened"),
                ("TopK SAE", "whitened"),
            ),
            (
                "Selectivity: ICFL whitened above TopK SAE not whitened",
                ("ICFL", "whitened"),
                ("TopK SAE", "centred"),
            ),
        )
    ]
    as_printed = any(row["method"] == "ICFL, printed" for row in rows)
    if as_printed:
        comparisons += [
            (
                "Selectivity, ICFL as printed: whitened above not whitened",
                treated,
                ("ICFL, printed", "whitened"),
                ("ICFL, printed", "centred"),
            )
        ]
        comparisons += [
            (
                f"Selectivity: ICFL as printed above TopK SAE, {words}",
                treated,
                ("ICFL, printed", preparation),
                ("TopK SAE", preparation),
            )
            for preparation, words in _BOTH
        ]
    comparisons += [
        (
            f"Selectivity, large M: ICFL above TopK SAE, {words}",
            treated,
            ("ICFL, large", preparation),
            ("TopK SAE, large", preparation),
        )
        for preparation, words in _BOTH
        if any(row["method"] == "TopK SAE, large" for row in rows)
    ]
    comparisons += [
        (
            f"AUC of the direction: ICFL above TopK SAE, {words}",
            lambda found: treated(found, "auc"),
            ("ICFL", preparation),
            ("TopK SAE", preparation),
        )
        for preparation, words in _BOTH
    ]
    for title, key in (
        ("Reconstruction cosine at K: ICFL above TopK SAE", "cosine"),
        ("Reconstruction cosine at K/4: ICFL above TopK SAE", "cosine_few"),
    ):
        for preparation, words in _BOTH:
            comparisons.append(
                (f"{title}, {words}", by(key), ("ICFL", preparation), ("TopK SAE", preparation))
            )
    if as_printed:
        comparisons += [
            (
                f"Reconstruction cosine at K: ICFL as printed above TopK SAE, {words}",
                by("cosine"),
                ("ICFL, printed", preparation),
                ("TopK SAE", preparation),
            )
            for preparation, words in _BOTH
        ]
    comparisons += [
        (
            "Not in the paper: ICFL above PCA axes, whitened",
            treated,
            ("ICFL", "whitened"),
            ("PCA axes", "whitened"),
        ),
        (
            "Not in the paper: ICFL whitened above measurements split at the median",
            treated,
            ("ICFL", "whitened"),
            ("handcrafted, median", "centred"),
        ),
        (
            "Not in the paper: ICFL above itself on random-init tokens, whitened",
            treated,
            ("ICFL", "whitened"),
            ("random-init", "whitened"),
        ),
    ]
    lines = [
        [title, *(verdict(f(of(rows, n, *first)), f(of(rows, n, *second))) for n in names)]
        for title, f, first, second in comparisons
    ]
    sides: list[list[str]] = []
    for title, show in (
        ("Concepts above 0.2: ICFL, TopK SAE", _above),
        ("Dead features: ICFL, TopK SAE", _dead),
        ("Dead features: ICFL as printed, TopK SAE", _dead_as_printed),
        ("Dead features, large M: ICFL, TopK SAE", _dead_of_many),
        ("Kept of the probe: ICFL, TopK SAE", _kept),
    ):
        for preparation, words in _BOTH:
            cells = [show(rows, name, preparation) for name in names]
            if any(cell != NONE for cell in cells):
                sides.append([f"{title}, {words}", *cells])
    lines[-3:-3] = sides
    return markdown(["claim", *names], lines)


def _side_by_side(
    rows: list[Row],
    name: str,
    preparation: str,
    value: Callable[[Row], float | None],
    digits: int,
    suffix: str = "",
) -> str:
    """A figure of both learners, of which there are M atoms."""
    found = [of(rows, name, m + suffix, preparation) for m in ("ICFL", "TopK SAE")]
    if not all(found):
        return NONE
    return ", ".join(shown([value(r) for r in of_one], digits) for of_one in found)


def _above(rows: list[Row], name: str, preparation: str) -> str:
    return _side_by_side(rows, name, preparation, lambda row: row["counts"]["0.2"], 0)


def _dead(rows: list[Row], name: str, preparation: str, suffix: str = "") -> str:
    told = _side_by_side(rows, name, preparation, lambda row: row["dead"], 0, suffix)
    if told == NONE:
        return told
    return f"{told} of {of(rows, name, 'ICFL' + suffix, preparation)[0]['n_concepts']}"


def _dead_of_many(rows: list[Row], name: str, preparation: str) -> str:
    return _dead(rows, name, preparation, ", large")


def _dead_as_printed(rows: list[Row], name: str, preparation: str) -> str:
    printed, sae = (of(rows, name, m, preparation) for m in ("ICFL, printed", "TopK SAE"))
    if not printed or not sae:
        return NONE
    told = ", ".join(shown([row["dead"] for row in found], 0) for found in (printed, sae))
    return f"{told} of {sae[0]['n_concepts']}"


def _share_kept(row: Row) -> float | None:
    """Share of the probe's gain that reconstructions keep, where there is a gain."""
    gain = row["probe"] - 1 / len(row["labels"])
    return row.get("probe_relative") if gain >= LEAST_GAIN else None


def _kept(rows: list[Row], name: str, preparation: str) -> str:
    return _side_by_side(rows, name, preparation, _share_kept, 2)


def correlation_table(rows: list[Row]) -> list[str]:
    """Best selectivities per label of ICFL, whitened, against those of measurements.

    The last column is what a correlation of so many labels must pass to be told from none, at a
    p-value of 0.05 on both sides.
    """
    by_hand = ("handcrafted", "handcrafted, median")
    lines = []
    for name in CONTROL_LABEL:
        concepts = of(rows, name, "ICFL", "whitened")
        n_labels = len(concepts[0]["labels"]) if concepts else 0
        if n_labels < LEAST_LABELS:
            continue
        found = [
            [
                baseline_correlation(_best(measured, labels), _best(row, labels))
                for row in concepts
                for labels in [sorted(row["labels"])]
                for measured in of(rows, name, method, "centred")
            ]
            for method in by_hand
        ]
        t = float(stats.t.ppf(0.975, n_labels - 2))
        least = t / np.sqrt(n_labels - 2 + t**2)
        lines.append([name, str(n_labels), *(shown(each) for each in found), f"{least:.3f}"])
    header = ["set", "labels", *(METHODS[method] for method in by_hand), "told from none above"]
    return markdown(header, lines) if lines else []


def _best(row: Row, labels: Sequence[str]) -> np.ndarray:
    return np.array([row["labels"][label]["held_out"] for label in labels])


def apart_table(rows: list[Row]) -> list[str]:
    """Selectivity and AUC on the wells that the package's sample has not, where there are such."""
    lines = []
    for name, label in CONTROL_LABEL.items():
        for method, whitened, found in _combinations(rows, name):
            known = [
                {f: n for f, n in row["labels"].items() if "held_out_apart" in n} for row in found
            ]
            for treated_label in sorted({x for row in known for x in row} - {label}):
                figures = [row[treated_label] for row in known if treated_label in row]
                columns = [
                    shown([f[key] for f in figures])
                    for key in ("held_out", "held_out_apart", "auc", "auc_apart")
                ]
                lines.append([method, whitened, treated_label, *columns])
    header = ["method", "whitened", "label", "all held out", "without the sample's wells"]
    header += ["AUC, all", "AUC, without"]
    return markdown(header, lines) if lines else []


def encoder_table(rows: list[Row]) -> list[str]:
    """Selectivity and AUC of every variant, columns for each set."""
    names = [n for n in CONTROL_LABEL if any(r["set"] == n for r in rows)]
    lines = []
    for preparation, whitened in PREPARATIONS.items():
        of_these = [r for r in rows if r["samples"] == preparation]
        for method in dict.fromkeys(r["method"] for r in of_these):
            cells = []
            for name in names:
                found = [r for r in of_these if (r["set"], r["method"]) == (name, method)]
                selectivity, auc = (shown([r[key] for r in found]) for key in ("held_out", "auc"))
                cells += [f"**{selectivity}**" if found else NONE, auc]
            lines.append([method, whitened, *cells])
    header = [words for name in names for words in (f"{name}, selectivity", "AUC")]
    return markdown(["variant", "whitened", *header], lines) if lines else []


def dead_table(rows: list[Row]) -> list[str]:
    """Dead features by the number of atoms."""
    atoms = sorted({r["n_atoms"] for r in rows})
    lines = []
    for method in dict.fromkeys(r["method"] for r in rows):
        for preparation, whitened in PREPARATIONS.items():
            found = [r for r in rows if (r["method"], r["samples"]) == (method, preparation)]
            cells = [shown([r["dead"] for r in found if r["n_atoms"] == m], 0) for m in atoms]
            lines.append([method, whitened, *cells])
    header = ["learner", "whitened", *(f"dead of {m}" for m in atoms)]
    return markdown(header, lines) if lines else []


def tables(rows: list[Row]) -> list[str]:
    """All tables of `claims.py`, for the terminal."""
    lines = []
    for name in CONTROL_LABEL:
        if any(r["set"] == name for r in rows):
            lines += ["", f"## {name}", "", *selectivity_table(rows, name)]
            lines += ["", *dictionary_table(rows, name)]
    return [*lines, "", "## Claims", "", *claims_table(rows)] if lines else []


def simulated_tables(rows: list[Row]) -> list[str]:
    """Correlation with the truth, a row a factor."""
    if not rows:
        return []
    titles = {
        "controls": "Over the held-out cells of the factor's own wells and of controls:",
        "own": "Over the held-out cells of the factor's own wells alone:",
    }
    lines = []
    first = next((r for r in rows if r["method"] == "whitened" and "n_fit" in r), None)
    if first:
        lines += [
            f"{first['n_fit']} cells of {first['width']} dimensions were fitted, "
            f"{first['n_test']} held out; the default size is {first['n_concepts']} atoms.",
        ]
    for name, title in titles.items():
        table = []
        for factor in rows[0]["factors"]:
            cells = []
            for method in SIMULATED_METHODS:
                figures = [r["factors"][factor] for r in rows if r["method"] == method]
                cells.append(_against_null(figures, name))
            if any(cell != NONE for cell in cells):
                table.append([factor, *cells])
        lines += ["", title, "", *markdown(["factor", *SIMULATED_METHODS.values()], table)]
    return lines if first else lines[1:]


def _against_null(figures: list[Row], name: str) -> str:
    """Median and range, in bold where the median is above the null, which follows."""
    values = [f[name] for f in figures if name in f]
    nulls = [f[f"{name}_null"] for f in figures if f"{name}_null" in f]
    if not values or not nulls:
        return shown(values)
    told = shown(values)
    return f"{f'**{told}**' if np.median(values) > nulls[0] else told}; {nulls[0]:.2f}"


def write_page(results: Path, page: Path) -> None:
    """Write the page."""
    rows, spreads = (read_rows(results, table) for table in ("claims", "spread"))
    parts = {
        "claims": claims_table(rows),
        "seeds": _seeds(rows),
        "correlations": correlation_table(rows),
        "apart": apart_table(rows),
        "encoder": encoder_table(read_rows(results, "encoder")),
        "dead": dead_table(read_rows(results, "dead")),
        "simulated": simulated_tables(read_rows(results, "simulated")),
    }
    for name in CONTROL_LABEL:
        there = any(row["set"] == name for row in rows)
        parts[f"sizes {name}"] = _sizes(rows, spreads, name)
        parts[f"selectivity {name}"] = selectivity_table(rows, name) if there else []
        parts[f"dictionary {name}"] = dictionary_table(rows, name) if there else []
    lines: list[str] = []
    for line in TEMPLATE.read_text(encoding="utf-8").splitlines():
        lines += parts[line[2:-2]] if line.startswith("{{") else [line]
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _seeds(rows: list[Row]) -> list[str]:
    """How many seeds there are of what."""
    lines = []
    for method, title in METHODS.items():
        found = [of(rows, name, method, p) for name in CONTROL_LABEL for p in PREPARATIONS]
        n_seeds = {len(of_one) for of_one in found if of_one}
        if n_seeds:
            span = f"{min(n_seeds)}" if len(n_seeds) == 1 else f"{min(n_seeds)}-{max(n_seeds)}"
            lines.append(f"{title}: {span}")
    return ["Median (range) over seeds. Seeds of each: " + "; ".join(lines) + "."]


def _sizes(rows: list[Row], spreads: list[Row], name: str) -> list[str]:
    found = of(rows, name, "ICFL", "whitened")
    if not found:
        return []
    row = found[0]
    lines = [
        f"{row['n_fit']} samples of {row['width']} dimensions were fitted, {row['n_test']} scored; "
        f"the whitening was shrunk by {row['shrinkage']:g} times the median eigenvalue."
    ]
    lines += [
        f"The variance of the fitted samples is spread over {spread['centred']:.0f} directions "
        f"(participation ratio), after whitening over {spread['whitened']:.0f}."
        for spread in spreads
        if spread["set"] == name
    ]
    return lines
