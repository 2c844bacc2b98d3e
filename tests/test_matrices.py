from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import matrices


@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_every_two_values_meet(sizes):
    rows = matrices.cover(sizes)
    assert len(rows) == len(set(rows))
    assert {row[0] for row in rows} == set(range(sizes[0]))
    for (i, first), (j, second) in itertools.combinations(enumerate(sizes), 2):
        everything = set(itertools.product(range(first), range(second)))
        assert {(row[i], row[j]) for row in rows} == everything


def test_they_are_few_and_always_the_same():
    sizes = [2, 3, 2, 3, 2, 2]
    assert len(matrices.cover(sizes)) <= 12
    assert matrices.cover(sizes) == matrices.cover(sizes)


def test_two_parameters_are_tried_in_full():
    assert matrices.cover([2, 3]) == list(itertools.product(range(2), range(3)))


class Cases:
    """Takes the cases of a test, as pytest's own `Metafunc` does."""

    def __init__(self, *marks):
        self.definition = SimpleNamespace(iter_markers=lambda name: iter(m.mark for m in marks))

    def parametrize(self, names, rows):
        self.names, self.rows = names, rows


@pytest.mark.parametrize("full", [False, True])
def test_a_test_gets_its_combinations(full):
    parameters = {
        "letter": ["a", "b", "c"],
        "flag": [True, False],
        ("number", "name"): [(1, "one"), (2, "two")],
        "sign": [1, -1],
    }
    cases = Cases(matrices.pairwise(parameters))
    matrices.parametrize(cases, full=full)
    assert cases.names == ["letter", "flag", "number", "name", "sign"]
    everything = {(a, b, *c, d) for a, b, c, d in itertools.product(*parameters.values())}
    tried = {tuple(row) for row in cases.rows}
    assert len(tried) == len(cases.rows)
    assert tried <= everything
    if full:
        assert tried == everything
    else:
        assert len(tried) < 10
        for i, j in itertools.combinations(range(5), 2):
            assert {(c[i], c[j]) for c in tried} == {(c[i], c[j]) for c in everything}


@matrices.pairwise({"first": [1, 2, 3], "second": "abc", "third": [None, False, True]})
def test_it_marks_a_test(first, second, third, request):
    tests = [item for item in request.session.items if item.function is request.function]
    assert request.config.getoption("full") == (len(tests) == 27) or len(tests) == 1
