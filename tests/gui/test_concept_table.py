"""The table of concepts as a model, without a window."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from qtpy.QtCore import QModelIndex, Qt
from qtpy.QtTest import QAbstractItemModelTester

from napari_microdl.gui.explorer.concept_table import COLUMNS, HEADINGS, NAME, ConceptTable
from napari_microdl.gui.session.session import Session

N = 300
NAMES = [f"concept {i}" for i in range(N)]


def ranking() -> pd.DataFrame:
    random = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "name": NAMES,
            "activation_rate": random.random(N),
            "selectivity": np.where(random.random(N) < 0.1, np.nan, random.normal(size=N)),
            "label": random.choice(["puncta", "toxic"], N),
            "max_selectivity": random.normal(size=N),
            "auc": random.random(N),
            "rate_label": random.random(N),
            "rate_controls": np.where(random.random(N) < 0.1, np.nan, random.random(N)),
            "effect": random.uniform(-1, 1, N),
            "q_cells": 10 ** random.uniform(-300, 0, N),
            "q_wells": random.random(N),
            "group": "any",
            "dead": random.random(N) < 0.05,
            "duplicate_of": np.where(random.random(N) < 0.05, 7, -1),
            "place": random.choice(["", "cells", "field"], N, p=[0.1, 0.8, 0.1]),
            **{
                name: np.where(random.random(N) < 0.1, np.nan, random.random(N))
                for name in ("auc_left", "in_cells", "background_auc", "within_wells")
            },
        },
        index=pd.Index(range(N), name="concept"),
    )
    return table.sample(frac=1, random_state=1)


@pytest.fixture
def table(qtbot) -> ConceptTable:
    session = Session()
    activations = SimpleNamespace(ranking=ranking())
    dictionary = SimpleNamespace(names=list(NAMES), notes=[""] * N, tags=[""] * N)
    result: Any = SimpleNamespace(activations=activations, dictionary=dictionary)
    session.run.current = SimpleNamespace(result=result)
    made = ConceptTable(session)
    qtbot.addWidget(made)
    made.reload()
    return made


def column(table: ConceptTable, heading: str, role: Any = Qt.ItemDataRole.EditRole) -> list[Any]:
    number = HEADINGS.index(heading)
    proxy = table.proxy
    return [proxy.index(row, number).data(role) for row in range(proxy.rowCount())]


def test_the_models_keep_qts_rules(table, qtbot):
    for model in (table.concepts, table.proxy):
        QAbstractItemModelTester(model, QAbstractItemModelTester.FailureReportingMode.Fatal, table)
    table.sortByColumn(2, Qt.SortOrder.DescendingOrder)
    table.proxy.search("toxic")
    table.reload()


@pytest.mark.parametrize("order", list(Qt.SortOrder))
@pytest.mark.parametrize("heading", HEADINGS)
def test_every_column_is_sorted_with_gaps_at_one_end(table, heading, order):
    table.sortByColumn(HEADINGS.index(heading), order)
    values = [-np.inf if v != v else v for v in column(table, heading)]
    assert values == sorted(values, reverse=order == Qt.SortOrder.DescendingOrder)
    assert sorted(column(table, "#")) == list(range(1, N + 1))
    # Rows stay whole.
    whole = ranking()
    row = dict(zip(column(table, "Name"), column(table, "q cells"), strict=True))
    assert row == dict(zip(whole["name"], whole["q_cells"], strict=True))


def test_the_current_concept_stays_when_rows_move(table):
    chosen: list[int] = []
    table.concept_chosen.connect(chosen.append)
    table.select(77)
    assert chosen == [77]
    table.sortByColumn(HEADINGS.index("Effect"), Qt.SortOrder.DescendingOrder)
    assert table.selected_concepts() == [77]
    assert table.currentIndex().siblingAtColumn(NAME).data() == "concept 77"
    assert table.concepts.concept(table.concepts.row_of(77)) == 77


def test_a_search_finds_all_words_in_any_column(table):
    table.proxy.search("CONCEPT 12 puncta")
    whole = ranking()
    expected = whole[whole["name"].str.contains("12") & (whole["label"] == "puncta")]
    # "12" may also stand in what a duplicate is like, which is always concept 7 here.
    assert set(column(table, "Name")) == set(expected["name"])
    table.proxy.search("")
    assert table.proxy.rowCount() == N


def test_flagged_concepts_are_named_and_can_be_hidden(table):
    whole = ranking().set_index("name")
    flags = dict(zip(column(table, "Name"), column(table, "Flag"), strict=True))
    for name, row in whole.iterrows():
        where = "whole field" if row["place"] == "field" else ""
        like = "like concept 7" if row["duplicate_of"] >= 0 else where
        assert flags[name] == ("dead" if row["dead"] else like)
    table.proxy.hide_flagged(True)
    plain = ~whole["dead"] & (whole["duplicate_of"] < 0) & (whole["place"] != "field")
    assert table.proxy.rowCount() == int(plain.sum())


def test_words_change_in_place_after_sorting(table):
    table.sortByColumn(HEADINGS.index("AUC"), Qt.SortOrder.DescendingOrder)
    dictionary = table.concepts._session.run.current.result.dictionary
    dictionary.tags[5] = "perturbed"
    table.concepts.refresh_texts()
    tags = dict(zip(column(table, "Name"), column(table, "Tag"), strict=True))
    assert {name for name, tag in tags.items() if tag} == {"concept 5"}
    table.proxy.search("perturbed")
    assert column(table, "Name") == ["concept 5"]


def test_every_heading_says_what_it_means(table):
    for number, heading in enumerate(HEADINGS):
        show = [
            table.concepts.headerData(number, Qt.Orientation.Horizontal, role)
            for role in (Qt.ItemDataRole.DisplayRole, Qt.ItemDataRole.ToolTipRole)
        ]
        assert show == [heading, COLUMNS[number].tip]
        assert len(show[1]) > 20
    assert table.concepts.rowCount(table.concepts.index(0, 0)) == 0
    assert table.concepts.data(QModelIndex()) is None


def test_technical_columns_are_shown_on_demand_and_stay_so(table):
    def shown() -> list[str]:
        return [h for number, h in enumerate(HEADINGS) if not table.isColumnHidden(number)]

    plain = ["#", "Name", "For", "Treated %", "Controls %", "Where", "Flag", "Tag"]
    assert shown() == plain
    table._session.view.advanced = True
    table.reload()
    assert shown() == [heading for heading in HEADINGS if heading != "Group"]
    table._session.view.advanced = False
    table.show_advanced()
    assert shown() == plain


@pytest.mark.parametrize(
    ("heading", "value", "text"),
    [
        ("Treated %", 0.584, "58"),
        ("Treated %", 0.004, "<1"),
        ("Controls %", 0.0, "0"),
        ("Controls %", float("nan"), "-"),
        ("Average", float("nan"), "-"),
        ("Average", 0.456, "0.46"),
        ("Effect", 0.5, "+0.50"),
        ("Effect", -0.001, "+0.00"),
        ("Effect", float("nan"), "-"),
        ("q wells", 0.04321, "0.043"),
        ("q wells", 3e-7, "3e-07"),
        ("q wells", float("nan"), "-"),
        ("Active", 0.123, "12.3%"),
        ("Group", "any", ""),
        ("Group", "control", "control"),
    ],
)
def test_numbers_are_short(heading, value, text):
    assert COLUMNS[HEADINGS.index(heading)].text(value) == text
