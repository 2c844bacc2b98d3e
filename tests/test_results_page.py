from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

ROOT = Path(__file__).parents[1]


@pytest.fixture
def results_page(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return import_module("results_page")


def row(method, samples, seed, puncta, **more):
    """A row of `claims.py` with one figure that matters and others that can be told from it."""
    label = {"concept": 3, "fit": 0.9, "best_held_out": 0.95, "null": 0.11, "p": 0.005, "auc": 0.77}
    figures = {
        "table": "claims",
        "set": "transfluor",
        "method": method,
        "samples": samples,
        "seed": seed,
        "n_fit": 5400,
        "n_test": 4500,
        "width": 192,
        "shrinkage": 3.0,
        "labels": {"diffuse": {**label, "held_out": 0.01}, "puncta": {**label, "held_out": puncta}},
        "counts": {"0.5": 1, "0.2": 7, "0.1": 23},
        "n_concepts": 256,
        "k": 20,
        "dead": 4 * seed,
        "cosine": 0.91,
        "cosine_few": 0.71,
        "probe": 0.99,
        "probe_reconstruction": 0.97,
        "probe_codes": 0.96,
        "probe_relative": 0.945,
    }
    return figures | more


ROWS = [
    *(row("ICFL", "whitened", s, v) for s, v in enumerate((0.61, 0.83, 0.72))),
    *(row("ICFL", "centred", s, v) for s, v in enumerate((0.4, 0.3, 0.62))),
    *(row("TopK SAE", "whitened", s, v) for s, v in enumerate((0.1, 0.2, 0.3))),
    *(row("TopK SAE", "centred", s, v) for s, v in enumerate((0.5, 0.45, 0.55))),
    # Measurements have no reconstruction.
    {k: v for k, v in row("handcrafted, median", "centred", 0, 0.33).items() if k != "cosine"},
]


def written(results_page, folder, rows):
    results, page = folder / "rows.jsonl", folder / "page.md"
    results.write_text("".join(json.dumps(r) + "\n" for r in rows))
    results_page.write_page(results, page)
    return page.read_text().splitlines()


def line(lines, *starts):
    """Cells of the one line that begins with these."""
    found = [x for x in lines if x.startswith("| " + " | ".join(starts) + " |")]
    assert len(found) == 1, found
    return [cell.strip() for cell in found[0].strip("|").split("|")]


def test_the_tables_hold_median_and_range_over_seeds(results_page, tmp_path):
    lines = written(results_page, tmp_path, ROWS)
    cells = line(lines, "ICFL", "yes", "puncta")
    assert cells[3:] == ["0.90", "**0.72 (0.61-0.83)**", "0.95", "0.11", "0.77"]
    assert line(lines, "handcrafted, split at the median", "no", "puncta")[4] == "**0.33**"
    cells = line(lines, "ICFL", "yes", "256")
    assert cells[3:8] == ["20", "1", "7", "23", "4 (0-8)"]
    assert cells[8:] == ["0.91", "0.71", "0.99", "0.97", "0.96", "0.94"]
    # What a method does not have is left open.
    assert line(lines, "handcrafted, split at the median", "no", "256")[7:9] == ["-", "-"]


@pytest.mark.parametrize(
    ("claim", "expected"),
    [
        ("Selectivity: ICFL above TopK SAE, whitened", "**yes**, 0.72 against 0.20"),
        ("Selectivity: ICFL whitened above ICFL not whitened", "median only, 0.72 against 0.40"),
        ("Selectivity: ICFL above TopK SAE, not whitened", "**no**, 0.40 against 0.50"),
    ],
)
def test_a_claim_holds_in_every_seed_in_the_median_or_not(results_page, tmp_path, claim, expected):
    assert line(written(results_page, tmp_path, ROWS), claim)[1] == expected


def test_the_label_of_the_controls_decides_nothing(results_page, tmp_path):
    changed = json.loads(json.dumps(ROWS))
    for each in changed:
        each["labels"]["diffuse"]["held_out"] = 0.99
    claim = "Selectivity: ICFL above TopK SAE, not whitened"
    assert line(written(results_page, tmp_path, changed), claim)[1].startswith("**no**")


def test_dead_features_and_probes_stand_side_by_side(results_page, tmp_path):
    lines = written(results_page, tmp_path, ROWS)
    cells = line(lines, "Dead features: ICFL, TopK SAE, whitened")
    assert cells[1] == "4 (0-8), 4 (0-8) of 256"
    assert line(lines, "Concepts above 0.2: ICFL, TopK SAE, whitened")[1] == "7, 7"
    # There is no row of a larger dictionary.
    assert not any(x.startswith("| Dead features, large M") for x in lines)
    assert line(lines, "Kept of the probe: ICFL, TopK SAE, whitened")[1] == "0.94, 0.94"


def test_of_a_probe_at_chance_nothing_is_kept(results_page, tmp_path):
    rows = [r | {"probe": 0.55, "probe_relative": 32.0} for r in ROWS]
    lines = written(results_page, tmp_path, rows)
    assert line(lines, "Kept of the probe: ICFL, TopK SAE, whitened")[1] == "-, -"
    assert line(lines, "ICFL", "yes", "256")[-1] == "-"


def test_larger_dictionaries_and_the_spread_are_told_where_they_were_measured(
    results_page, tmp_path
):
    large = {"n_concepts": 1024}
    rows = [
        *ROWS,
        row("ICFL, large", "whitened", 0, 0.5, **large, dead=3),
        row("TopK SAE, large", "whitened", 0, 0.5, **large, dead=800),
        {"table": "spread", "set": "transfluor", "centred": 9.3, "whitened": 70.04},
    ]
    lines = written(results_page, tmp_path, rows)
    cells = line(lines, "Dead features, large M: ICFL, TopK SAE, whitened")
    assert cells[1] == "3, 800 of 1024"
    told = "over 9 directions (participation ratio), after whitening over 70."
    assert any(x.endswith(told) for x in lines)


def test_figures_without_the_wells_of_the_sample_stand_beside_those_of_all(results_page):
    rows = [row("ICFL", "whitened", s, v) for s, v in enumerate((0.6, 0.8, 0.7))]
    assert results_page.apart_table(rows) == []
    for each, value in zip(rows, (0.1, 0.3, 0.2), strict=True):
        for figures in each["labels"].values():
            figures |= {"held_out_apart": value, "auc_apart": 2 * value}
    _, _, *lines = results_page.apart_table(rows)
    assert lines == [
        "| ICFL | yes | puncta | 0.70 (0.60-0.80) | 0.20 (0.10-0.30) | 0.77 | 0.40 (0.20-0.60) |"
    ]


def test_reasons_have_a_line_a_variant(results_page):
    variants = (("bccd", "ICFL", 0.2), ("transfluor", "ICFL", 0.4), ("bccd", "ICFL, positive", 0.5))
    rows = [
        {"set": name, "samples": "centred", "method": method, "seed": s, "auc": 0.9}
        | {"held_out": value + s / 10}
        for name, method, value in variants
        for s in range(3)
    ]
    head, _, *lines = results_page.encoder_table(rows)
    assert "transfluor, selectivity | AUC | bccd, selectivity" in head
    assert lines == [
        "| ICFL | no | **0.50 (0.40-0.60)** | 0.90 | **0.30 (0.20-0.40)** | 0.90 |",
        "| ICFL, positive | no | - | - | **0.60 (0.50-0.70)** | 0.90 |",
    ]
    rows = [
        {"method": "ICFL", "samples": p, "n_atoms": m, "dead": m // 16 + s}
        for p in ("whitened", "centred")
        for m in (128, 32)
        for s in range(2)
    ]
    _, _, *lines = results_page.dead_table(rows)
    assert lines == ["| ICFL | no | 2 (2-3) | 8 (8-9) |", "| ICFL | yes | 2 (2-3) | 8 (8-9) |"]


def test_planted_factors_have_a_line_each(results_page, tmp_path):
    size = {"controls": 0.8, "controls_null": 0.6, "own": 0.5, "own_null": 0.45}
    factors = (
        {"size": size, "density": {"controls": 0.4}},
        {"size": {"controls": 0.6, "own": 0.3}, "density": {"controls": 0.2}},
    )
    rows = [
        {"table": "simulated", "method": "whitened", "seed": seed, "factors": of_seed}
        for seed, of_seed in enumerate(factors)
    ]
    lines = written(results_page, tmp_path, [*ROWS, *rows])
    size = [x.split(" | ")[1] for x in lines if x.startswith("| size |")]
    # Bold is above the null, which follows.
    assert size == ["**0.70 (0.60-0.80)**; 0.60", "0.40 (0.30-0.50); 0.45"]
    density = [x.split(" | ")[1] for x in lines if x.startswith("| density |")]
    assert density == ["0.30 (0.20-0.40)"]


def test_correlations_over_labels_are_those_of_scipy_and_take_three_labels(results_page):
    def figures(**held_out):
        return {name: {"held_out": value} for name, value in held_out.items()}

    seeds = [(0.9, 0.1, 0.8), (0.7, 0.4, 0.2)]
    by_hand = (0.3, 0.05, 0.4)
    three = {"set": "bccd"}
    rows = [
        *ROWS,
        *(
            row("ICFL", "whitened", s, 0, **three) | {"labels": figures(a=a, b=b, c=c)}
            for s, (a, b, c) in enumerate(seeds)
        ),
        # Labels in another order are the same labels.
        row("handcrafted", "centred", 0, 0, **three)
        | {"labels": figures(c=by_hand[2], a=by_hand[0], b=by_hand[1])},
    ]
    _, _, *lines = results_page.correlation_table(rows)
    assert len(lines) == 1
    cells = line(lines, "bccd", "3")
    r = [stats.pearsonr(of_seed, by_hand).statistic for of_seed in seeds]
    assert cells[2] == f"{np.median(r):.2f} ({min(r):.2f} to {max(r):.2f})"
    assert cells[3] == "-"
    # Where a p-value of three labels is 0.05.
    least = float(cells[4])
    x = np.array([0.0, 1.0, 2.0])
    across = np.array([1.0, -2.0, 1.0]) / np.sqrt(3)
    y = least * (x - 1) + np.sqrt(1 - least**2) * across
    assert stats.pearsonr(x, y).pvalue == pytest.approx(0.05, abs=0.01)
    assert results_page.correlation_table(ROWS) == []


def test_the_page_is_what_the_results_give(results_page, tmp_path):
    page = tmp_path / "results.md"
    results_page.write_page(ROOT / "benchmarks" / "results.jsonl", page)
    assert page.read_text() == (ROOT / results_page.PAGE).read_text()


def test_a_range_below_zero_can_be_read(results_page):
    assert results_page.shown([-0.04, -0.001, 0.1]) == "0.00 (-0.04 to 0.10)"
    assert results_page.shown([None, float("nan")]) == "-"


def test_the_verdicts_in_words_are_those_of_the_table(results_page):
    """What the template says by hand must be written anew where other rows say otherwise."""
    lines = (ROOT / results_page.PAGE).read_text().splitlines()
    everywhere, whitened = list(results_page.CONTROL_LABEL), ("not whitened", "whitened")
    but_schwann = ["transfluor", "bbbc014_vitra", "bccd"]
    printed = "ICFL as printed above TopK SAE"
    # Which sets have a cell that begins like this.
    verdicts = [
        ("Selectivity: ICFL whitened above ICFL not whitened", "**yes**", but_schwann),
        ("Selectivity: ICFL above TopK SAE, not whitened", "**no**", but_schwann),
        ("Selectivity: ICFL above TopK SAE, whitened", "**yes**", ["bbbc014_vitra"]),
        ("Selectivity: ICFL whitened above TopK SAE not whitened", "**yes**", but_schwann),
        ("Not in the paper: ICFL above PCA axes, whitened", "**no**", ["transfluor", "bccd"]),
        *(
            (f"Reconstruction cosine at {k}: ICFL above TopK SAE, {words}", "**yes**", everywhere)
            for k in ("K", "K/4")
            for words in whitened
        ),
        *((f"Dead features: ICFL, TopK SAE, {words}", "0, ", everywhere) for words in whitened),
    ]
    for claim, begins, sets in verdicts:
        cells = zip(everywhere, line(lines, claim)[1:], strict=True)
        assert [name for name, cell in cells if cell.startswith(begins)] == sets, claim
    of_transfluor = [
        ("Selectivity, large M: ICFL above TopK SAE, whitened", "**yes**, 0.85 against 0.63"),
        (f"Selectivity: {printed}, not whitened", "**no**, 0.55 against"),
        (f"Selectivity: {printed}, whitened", "**no**, 0.59 against"),
        (f"Reconstruction cosine at K: {printed}, not whitened", "**no**, 0.94 against 0.95"),
        (f"Reconstruction cosine at K: {printed}, whitened", "**no**, 0.70 against 0.72"),
        ("Dead features: ICFL as printed, TopK SAE, not whitened", "211 (208-211), 0 of 256"),
        ("Dead features: ICFL as printed, TopK SAE, whitened", "0, 0 of 256"),
    ]
    for claim, begins in of_transfluor:
        assert line(lines, claim)[1 + everywhere.index("transfluor")].startswith(begins), claim


def test_the_figures_in_words_are_those_of_the_tables(results_page):
    lines = (ROOT / results_page.PAGE).read_text().splitlines()

    def medians(start, n_columns):
        """Of the one line of a table of so many columns that begins like this."""
        (found,) = [x for x in lines if x.startswith(start) and x.count("|") == n_columns + 1]
        return [cell.strip(" *").split(" (")[0] for cell in found.strip("|").split("|")][2:]

    def of_variant(name):
        """Selectivity on every set."""
        return medians(f"| {name} | no | **", 8)[::2]

    def dead(name, whitened="no"):
        return medians(f"| {name} | {whitened} |", 4)

    icfl, sae, positive = (of_variant(n) for n in ("ICFL", "TopK SAE", "ICFL, positive"))
    axes, mean, once = (
        of_variant(f"ICFL, {n}") for n in ("less 8 axes", "less the mean", "one round")
    )
    both, pursued = of_variant("ICFL, one round, less the mean"), of_variant("TopK SAE, pursuit")
    printed, started = "ICFL as printed", "ICFL as printed, started from samples"
    sparse, split, least = medians("| bccd | 3 |", 5)
    told = [
        f"falls to {axes[0]} on `transfluor`, {axes[1]} on `bbbc014_vitra` and {axes[2]} on",
        f"reaches {once[0]}, where it had {icfl[0]} and the autoencoder has {sae[0]}",
        f"reaches {mean[2]}, where it had {icfl[2]} and the autoencoder has {sae[2]}",
        f"to {mean[1]} and {once[1]} from {icfl[1]}",
        f"nor both ({both[1]}) reach the autoencoder's {sae[1]}",
        f"under ICFL's pursuit ({pursued[1]})",
        f"there ({', '.join(positive)})",
        "{} of 32 without whitening, {} of 256".format(*dead("TopK SAE")),
        "without it there are {} and {}".format(*dead("TopK SAE, no auxiliary loss")),
        "has {} of 32 and {} of 256, ".format(*dead(printed)),
        "{} and {} when it starts".format(*dead(started)),
        "(whitened it is {} and {}, ".format(*dead(printed, "yes")),
        "from samples {} and {})".format(*dead(started, "yes")),
        f"would have to pass {least} to be told from none",
        f"It is {sparse} with measurements made sparse",
        f"and {split} with the same measurements split at the median",
    ]
    page = " ".join(lines)
    assert [words for words in told if words not in page] == []
    assert dead("ICFL, no redraw") == dead("ICFL") == ["0", "0"]
