from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.processes import python
from napari_microdl.models.base import ChannelRule
from napari_microdl.models.channels import SYNONYMS, match_channels
from napari_microdl.models.registry import list_models

CELL_PAINTING = ("DNA", "RNA", "ER", "AGP", "Mito")
DYES = ("Hoechst 33342", "SYTO14", "ConA", "Phalloidin/WGA", "MitoTracker Deep Red")
ORIGINALS = tuple(f"Orig{name}" for name in CELL_PAINTING)
HPA = ("microtubules", "protein", "nucleus", "ER")


def rule(*names: str) -> ChannelRule:
    return ChannelRule(names=names, joint=True, least=len(names), most=len(names))


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        (CELL_PAINTING, CELL_PAINTING[::-1], CELL_PAINTING),
        (CELL_PAINTING, DYES, DYES),
        (CELL_PAINTING, ORIGINALS, ORIGINALS),
        (
            HPA,
            ("DAPI", "a-tubulin", "Endoplasmic reticulum"),
            ("a-tubulin", None, "DAPI", "Endoplasmic reticulum"),
        ),
        (("R", "G", "B"), ("red", "green", "blue"), ("red", "green", "blue")),
        # Colours of dyes say nothing of what was stained.
        (HPA, ("red", "green", "blue", "yellow"), (None,) * 4),
        (CELL_PAINTING, ("channel 0", "channel 1", "w3", "w4", "w5"), (None,) * 5),
        # Two that mean the same, and one that means two things, are for a person to decide.
        (("nucleus",), ("DAPI", "Hoechst"), (None,)),
        (("RNA", "ER"), ("ER + RNA",), (None, None)),
        # The same name counts for more than a synonym.
        (("DNA",), ("DAPI", "dna"), ("dna",)),
        (("nucleus", "DNA"), ("DNA",), (None, "DNA")),
        (("nucleus", "DNA"), ("Hoechst",), (None, None)),
        (("DNA",), ("DNA", "DNA"), (None,)),
        # No word is found inside another.
        (("ER", "RNA"), ("Golgi marker", "mCherry", "eternal"), (None, None)),
        ((), ("DAPI",), ()),
        (("DNA",), (), (None,)),
    ],
)
def test_known_names_are_matched_and_others_left(
    wanted: tuple[str, ...], there: tuple[str, ...], expected: tuple[str | None, ...]
):
    assert match_channels(rule(*wanted), there) == expected


NAMES = st.sampled_from([*sorted(w for group in SYNONYMS for w in group), "c0", "DNA ER", "X-DAPI"])


@given(wanted=st.lists(NAMES, max_size=6, unique=True), there=st.lists(NAMES, max_size=6))
def test_no_channel_is_given_out_twice_and_order_does_not_matter(
    wanted: list[str], there: list[str]
):
    matches = match_channels(rule(*wanted), there)
    given_out = [m for m in matches if m is not None]
    assert len(matches) == len(wanted)
    assert set(given_out) <= set(there)
    assert len(set(given_out)) == len(given_out)
    assert match_channels(rule(*wanted), there[::-1]) == matches


def test_every_published_name_is_known():
    for spec in list_models():
        names = spec.channels.names
        assert match_channels(spec.channels, names[::-1]) == names


def test_models_are_listed_and_channels_matched_without_torch():
    code = (
        "import sys\n"
        "from napari_microdl.models.channels import match_channels\n"
        "from napari_microdl.models.registry import list_models, model_spec\n"
        "match_channels(model_spec('subcell-bg').channels, ['DAPI'])\n"
        "print(*(spec.model_id for spec in list_models()))\nassert 'torch' not in sys.modules"
    )
    assert python(code).stdout.split() == [spec.model_id for spec in list_models()]
