from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.preprocessing import StandardScaler

from core.refusals import refusal
from napari_microdl.core.errors import MicrodlError
from napari_microdl.fields.field import Field
from napari_microdl.models.registry import load_model
from napari_microdl.pipeline import layer_choice
from napari_microdl.pipeline.layer_choice import best_layer, field_folds, layer_scores
from napari_microdl.tokens import embed
from napari_microdl.tokens.units import pool, units_of
from pipeline.small_run import small
from tasks import cancelling, recorded

CONFIG = small(unit="crop", crop_stride=32, tile_size=64, halo=1, batch_size=4, random_state=2)


def field(name: str, *, control: bool, well: str = "", plate: str = "", **options: Any) -> Field:
    """Noise, coarser where it is treated."""
    rng = np.random.default_rng(sum(map(ord, name)))
    image = rng.gamma(2, 20, (1, 96, 96))
    if not control:
        image = (image + np.roll(image, 1, 1) + np.roll(image, 1, 2)) / 3
    return Field(
        data=image,
        channel_names=("a",),
        name=name,
        is_control=control,
        well=well,
        plate=plate,
        **options,
    )


def fields(n_control: int = 3, n_treated: int = 2) -> list[Field]:
    return [field(f"c{i}", control=True) for i in range(n_control)] + [
        field(f"t{i}", control=False) for i in range(n_treated)
    ]


def test_the_table_is_that_of_scikit_learn_by_hand():
    some = fields()
    with recorded() as seen:
        table = layer_scores(some, CONFIG, layers=(5, 1))
    assert list(table["layer"]) == [1, 5]
    assert seen[-1].done == seen[-1].total == 2
    stages = list(dict.fromkeys(step.stage for step in seen))
    assert stages == ["fields", "tokens", "dictionary"]
    shares = [s.share for s in seen if s.message.startswith("Reading 2 layers of")]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    # Three controls and two treated fields: the third control goes with the first.
    groups = np.repeat([0, 1, 0, 0, 1], 9)
    treated = np.repeat([False, False, False, True, True], 9)
    for row in table.itertuples():
        grids = embed(
            some, load_model("random-init", seed=2), layer=row.layer, tile_size=64, halo=1
        )
        units = units_of(grids[0], "crop", crop_size=32, crop_stride=32)
        x = np.concatenate([pool(grid, units) for grid in grids])
        scores = []
        for inside, outside in LeaveOneGroupOut().split(x, treated, groups):
            scaler = StandardScaler().fit(x[inside])
            probe = LogisticRegression(C=0.01, class_weight="balanced", max_iter=2000)
            probe.fit(scaler.transform(x[inside]), treated[inside])
            left_out = scaler.transform(x[outside])
            scores.append(
                [
                    roc_auc_score(treated[outside], probe.predict_proba(left_out)[:, 1]),
                    balanced_accuracy_score(treated[outside], probe.predict(left_out)),
                ]
            )
        assert len(scores) == row.n_folds == 2
        assert row.n_units == 45
        np.testing.assert_allclose(
            [row.auc, row.balanced_accuracy], np.mean(scores, axis=0), atol=1e-6
        )
        np.testing.assert_allclose(
            [row.auc_spread, row.balanced_accuracy_spread], np.std(scores, axis=0), atol=1e-6
        )
    assert table["auc"].min() > 0.8


def test_every_layer_is_scored_where_none_is_named_and_the_best_is_the_first_of_the_best():
    table = layer_scores(fields(2, 2), CONFIG)
    assert list(table["layer"]) == list(range(1, 9))
    table["auc"] = [0.5, 0.7, 0.9, 0.9, 0.1, 0.2, 0.3, 0.4]
    assert best_layer(table) == 3


def test_every_part_has_both_kinds_and_wells_stay_together():
    some = [
        *(field(f"c{i}", control=True, well=f"A{i // 2}", plate="p") for i in range(6)),
        *(field(f"t{i}", control=False, well=f"B{i // 2}", plate="p") for i in range(8)),
        field("alone", control=False),
        # The same well of another plate is another well.
        field("other", control=False, well="B0", plate="q"),
    ]
    folds = field_folds(some)
    assert set(folds) == {0, 1, 2}
    for number in range(3):
        assert {f.is_control for f, n in zip(some, folds, strict=True) if n == number} == {
            True,
            False,
        }
    wells = {(f.plate, f.well): set() for f in some if f.well}
    for f, number in zip(some, folds, strict=True):
        if f.well:
            wells[f.plate, f.well].add(number)
    assert all(len(numbers) == 1 for numbers in wells.values())
    assert set(field_folds(fields(9, 7))) == set(range(5))


@pytest.mark.parametrize(
    ("some", "counts"),
    [
        (fields(1, 5), "1 and 5"),
        (fields(3, 1), "3 and 1"),
        ([field(f"c{i}", control=True, well="A1") for i in range(2)] + fields(0, 2), "1 and 2"),
    ],
    ids=["controls", "treated", "one well"],
)
def test_too_few_fields_give_one_sentence_before_a_model_is_loaded(some, counts, monkeypatch):
    monkeypatch.setattr(layer_choice, "load_model_of", None)
    assert refusal(layer_scores, some, CONFIG) == (
        "Layers are compared on fields that the probe has not seen, which takes control fields of "
        f"at least two wells and treated fields of two others; there are {counts}. Add fields, or "
        "mark more of them as control."
    )


def test_a_layer_that_does_not_exist_is_refused():
    with pytest.raises(MicrodlError, match="Layer 9 does not exist: this model has layers 1 to 8"):
        layer_scores(fields(), CONFIG, layers=(2, 9))


def test_of_very_many_units_some_are_drawn():
    table = layer_scores(fields(), CONFIG, layers=(1,), most_units=30)
    same = layer_scores(fields(), CONFIG, layers=(1,), most_units=30)
    assert table["n_units"].item() == 30
    assert table.equals(same)


def test_cells_are_units_too_and_it_can_be_cancelled():
    labels = np.zeros((96, 96), int)
    labels[10:40, 10:40], labels[50:80, 50:90] = 1, 2
    some = [
        field(name, control=name < "t", labels=labels) for name in ("c0", "c1", "t0", "t1", "t2")
    ]
    config = CONFIG.with_settings(unit="cell")
    table = layer_scores(some, config, layers=(2,))
    assert table["n_units"].item() == 10
    with cancelling(40):
        layer_scores(some, config)
