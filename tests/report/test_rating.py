from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from napari_microdl.core.errors import MicrodlError
from napari_microdl.report.rating import agreement, units_to_rate
from report.test_card import activations, fields, run, with_codes  # noqa: F401 (fixtures)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=40))
def test_agreement_is_counted_and_corrected_for_chance(pairs):
    active, rated = (np.array(side) for side in zip(*pairs, strict=True))
    found = agreement(active.tolist(), rated.tolist())
    assert found.n == len(pairs)
    assert found.agreed == sum(a == r for a, r in pairs)
    if rated.all() or not rated.any():
        assert np.isnan(found.kappa)
        assert "one answer only" in found.sentence()
        return
    observed = found.agreed / found.n
    chance = active.mean() * rated.mean() + (1 - active.mean()) * (1 - rated.mean())
    assert found.kappa == pytest.approx((observed - chance) / (1 - chance))
    assert f"{found.agreed} of {found.n} cells" in found.sentence()


def test_half_of_what_is_rated_has_the_concept_and_the_order_says_nothing(activations):  # noqa: F811
    concept = activations.first_concept
    values = activations.activation(concept)
    rows = units_to_rate(activations, concept, 12)
    assert len(set(rows.tolist())) == len(rows)
    shown = values[rows] > 0
    assert shown.sum() == len(rows) / 2
    assert values[rows][shown].min() >= np.median(values[values > 0])
    assert 0 < shown[: len(rows) // 2].sum() < len(rows) // 2
    assert (units_to_rate(activations, concept, 12) == rows).all()
    assert (units_to_rate(activations, concept, 12, seed=1) != rows).any()
    nowhere = with_codes(activations, np.zeros(len(values)))
    with pytest.raises(MicrodlError, match="too few cells"):
        units_to_rate(nowhere, 0)
