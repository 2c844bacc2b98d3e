from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from core.refusals import refusal
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.query import select

TABLE = pd.DataFrame(
    {
        "Metadata_condition": ["DMSO", "drug", "DMSO"],
        "Metadata_Well": ["A01", "B01", "C01"],
        "Metadata_dose": ["0.5", "", "10"],
        "Metadata_n": [3, 40, 5],
        "Metadata_control": [True, False, True],
        "time (h)": ["1", "2", "3"],
    }
)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Metadata_condition == 'DMSO'", [1, 0, 1]),
        (' Metadata_condition != "DMSO"\n', [0, 1, 0]),
        ("Metadata_Well in ['A01', 'B01'] and Metadata_condition == 'DMSO'", [1, 0, 0]),
        ("Metadata_condition == 'f(x)' or Metadata_condition == '\\''", [0, 0, 0]),
        ("not (Metadata_Well in ('A01', 'B01'))", [0, 0, 1]),
        ("(Metadata_Well not in ['A01']) & ~(Metadata_Well == 'B01')", [0, 0, 1]),
        ("Metadata_control and 'B' < Metadata_Well < 'D'", [0, 0, 1]),
        ("Metadata_control == False", [0, 1, 0]),
        # As numbers: as text, '10' is less than '5'.
        ("Metadata_dose > 5 or Metadata_dose in [0.5]", [1, 0, 1]),
        ("Metadata_n > Metadata_dose", [1, 0, 0]),
        ("-1 < Metadata_n <= 5", [1, 0, 1]),
        ("`time (h)` >= 2 and Metadata_condition != 'a`b'", [0, 1, 1]),
    ],
)
def test_a_query_picks_rows(query: str, expected: list[int]):
    assert select(TABLE, query).tolist() == list(map(bool, expected))


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("Metadata_other == '1'", "the columns are Metadata_condition"),
        ("Metadata_condition", "not a yes-or-no question"),
        ("Metadata_condition ==", "cannot be read"),
        ("", "cannot be read"),
        ("1 == 1", "name a column"),
        ("Metadata_Well in Metadata_condition", "in no list"),
        ("Metadata_Well not in ['A01'] & ~Metadata_control", "in no list"),
        ("Metadata_n == '3'", "compares 'Metadata_n', which is a number, with '3', which is text"),
        ("Metadata_Well == 1", "which is text, with 1, which is a number"),
        ("Metadata_control == 'True'", "which is yes or no, with 'True', which is text"),
        ("Metadata_Well == f'{1}'", "does more than compare"),
        ("[x for x in Metadata_Well] == 1", "does more than compare"),
        ("Metadata_Well is None", "does more than compare"),
        ("@pd.io.common.os.system('x')", "cannot be read"),
        ("Metadata_Well.__class__ == 'A01'", "does more than compare"),
        ("not " * 2000 + "Metadata_control", "cannot be read"),
        ("Metadata_n == 1" + "0" * 5000, "cannot be read"),
        ("Metadata_control or " * 1000 + "Metadata_control", "up to 10000 are read"),
    ],
)
def test_a_query_that_is_no_comparison_is_refused(query: str, sentence: str):
    told = refusal(select, TABLE, query)
    assert sentence in told
    assert told.startswith("The query ")
    assert len(told) < 400


@pytest.mark.parametrize(
    "call",
    [
        "Metadata_condition.to_csv('{}')",
        "Metadata_condition.__class__.__init__.__globals__['sys'].modules['os'].mkdir('{}')",
        "__import__('os').mkdir('{}')",
        "open('{}', 'w')",
    ],
)
@pytest.mark.parametrize("around", ["{}", r"Metadata_Well != '\'' and {} != '\''", "`a` == {}"])
def test_a_query_runs_nothing(tmp_path: Path, call: str, around: str):
    mark = tmp_path / "mark"
    refusal(select, TABLE, around.format(call.format(mark)))
    assert not mark.exists()


COMPARISONS = st.one_of(
    st.tuples(
        st.just("Metadata_Well"),
        st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
        st.sampled_from(["'A01'", "'B01'", "'b'"]),
    ),
    st.tuples(
        st.just("Metadata_n"),
        st.sampled_from(["==", "!=", "<", "<=", ">", ">="]),
        st.integers(-2, 50).map(str),
    ),
    st.tuples(
        st.just("Metadata_Well"),
        st.sampled_from(["in", "not in"]),
        st.lists(st.sampled_from(["A01", "C01", "x"]), min_size=1).map(str),
    ),
).map(" ".join)
QUERIES = st.recursive(
    COMPARISONS,
    lambda part: st.one_of(
        part.map("not ({})".format),
        st.tuples(part, part).map(lambda pair: "({}) and ({})".format(*pair)),
        st.tuples(part, part).map(lambda pair: "({}) or ({})".format(*pair)),
    ),
    max_leaves=6,
)


@given(QUERIES)
def test_queries_are_answered_as_pandas_answers_them(query: str):
    np.testing.assert_array_equal(select(TABLE, query), TABLE.eval(query, engine="python"))


@given(st.text(st.sampled_from("Metadata_Wellcontrol '\"\\`()[]{},.:=<>!&|~@-+*/%^ \n\x00λ01eE")))
@example("``")
@example("'\ud800' == Metadata_Well")
def test_any_text_is_answered_or_refused(text: str):
    try:
        answers = select(TABLE, text)
    except MicrodlError:
        return
    assert answers.dtype == bool
    assert answers.shape == (3,)
