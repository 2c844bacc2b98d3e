from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pickle
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from core.refusals import Payload, refusal
from napari_microdl.concepts.dictionary import ConceptDictionary, DictionarySpec
from napari_microdl.core.errors import MicrodlError
from napari_microdl.core.safetensors_files import write_record
from napari_microdl.core.task import current_task
from napari_microdl.estimators.icfl import ICFL
from napari_microdl.estimators.whitening import ControlWhitening
from napari_microdl.models.base import terms_of
from napari_microdl.models.registry import known_spec
from napari_microdl.tokens.positions import PositionComponent

WIDTH, ATOMS, PLACES = 10, 16, 16
KEY = "napari_microdl"
SPEC = DictionarySpec(
    model={"id": "builtin", "weights_sha256": "ab" * 32, "licence": "BSD", "patch_size": 8},
    tokens={
        "layer": 5,
        "channels": ("DNA", "Actin"),
        "channel_tokens": "mean",
        "scaling": "plate",
        "tile_size": 32,
        "halo": 1,
    },
    units={"kind": "crop", "crop_stride": 16},
)


def samples(n: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, WIDTH)) * np.linspace(0.5, 5, WIDTH) + 2
    return x.astype(np.float32)


def make(
    *, whiten: bool = True, position: bool = True, n_components: int | None = 7, **icfl: Any
) -> ConceptDictionary:
    x = samples(300, 0)
    whitening = None
    if whiten:
        whitening = ControlWhitening(n_components, shrinkage=0.2).fit(x[:150])
        x = whitening.transform(x)
    sizes = {"n_atoms": ATOMS, "n_iterations": 2, "atoms_per_iteration": 3}
    fitted = ICFL(**{**sizes, **icfl}, max_steps=4, random_state=0).fit(x)
    offsets = np.random.default_rng(1).normal(size=(PLACES, WIDTH)).astype(np.float32)
    basis = np.linalg.svd(offsets)[2][:2]
    return ConceptDictionary(
        SPEC,
        fitted,
        whitening,
        PositionComponent(offsets, basis, np.exp(offsets)) if position else None,
        names=[f"name {i}" for i in range(ATOMS - 1)] + ["Körnchen µ"],
        notes=["bright spots"] + [""] * (ATOMS - 1),
        provenance={"config": {"layer": 5}, "fields": [{"name": "O01"}]},
        figures={"r2": 0.5, "n_samples": 300},
    )


@pytest.fixture(scope="module")
def dictionary() -> ConceptDictionary:
    return make()


@pytest.fixture(scope="module")
def saved(dictionary: ConceptDictionary, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return dictionary.save(tmp_path_factory.mktemp("dictionary") / "whole")


def header_of(path: Path) -> dict[str, Any]:
    with safe_open(path, "numpy") as file:
        return json.loads(file.metadata()[KEY])


def of_schema_1(header: dict[str, Any]) -> dict[str, Any]:
    """A header as version 0.1 wrote it, whose spec had no groups."""
    model, tokens, units = (dict(header["spec"][name]) for name in ("model", "tokens", "units"))
    del tokens["remove_position"], tokens["orientations"], units["pooling"]
    spec = {"model_id": model.pop("id"), "channel_names": tokens.pop("channels")}
    spec |= {f"weights_{n}": model.pop(n) for n in ("licence", "source", "non_commercial")}
    spec |= {"unit": units.pop("kind"), **model, **tokens, **units}
    return {**header, "schema_version": 1, "spec": spec}


def older(path: Path, model: str, licence: str, provenance: dict[str, Any]) -> ConceptDictionary:
    """A dictionary as files held it before their spec said what its weights may be used for."""
    header = of_schema_1(header_of(path))
    for name in ("weights_non_commercial", "weights_source"):
        del header["spec"][name]
    header["spec"] |= {"model_id": model, "weights_licence": licence}
    header["provenance"] = provenance
    old = path.with_name("old.microdl.safetensors")
    write_record(old, KEY, load_file(path), header)
    return ConceptDictionary.load(old)


def test_a_file_of_schema_1_says_the_same(saved, tmp_path):
    def written(**changes: Any) -> Path:
        old = of_schema_1(header_of(saved))
        spec = {name: value for name, value in (old["spec"] | changes).items() if value != "gone"}
        return tampered(saved, tmp_path, lambda _, header: header.update(old, spec=spec))

    found, expected = ConceptDictionary.load(written()), ConceptDictionary.load(saved)
    assert found.spec == expected.spec
    assert found.save(tmp_path / "y").read_bytes() == saved.read_bytes()
    assert "hold 'unknown'" in one_sentence(written(unknown=3))
    assert "do not fit together" in one_sentence(written(unit="gone"))


@pytest.mark.parametrize(
    ("model", "licence", "written", "read"),
    [
        ("unidino", "CC-BY-NC-4.0", True, True),
        ("dinov2-small", "Apache-2.0", False, False),
        ("channelvit-jump-cp[DNA,ER]", "CC-BY-NC-4.0", True, True),
        # Of these nobody had stated it, but the files said that it is not forbidden.
        ("our-vit", "not stated, see its source", False, None),
        ("our-vit", "CC-BY-4.0", False, None),
        ("dinov2-small", "not stated, see its source", False, None),
        # Stated in a description.
        ("our-vit", "ours", True, True),
    ],
)
def test_older_files_are_believed_only_where_the_licence_is_known(
    saved, model, licence, written, read
):
    stated = {"weights_source": "our lab", "weights_non_commercial": written}
    dictionary = older(saved, model, licence, stated)
    assert dictionary.spec.model.non_commercial is read
    assert dictionary.spec.model.source == dictionary.model.source == "our lab"
    assert dictionary.provenance == stated | {"weights_non_commercial": read}


def test_files_without_any_terms_have_those_of_a_known_model_or_none(saved):
    spec = older(saved, "unidino", "CC-BY-NC-4.0", {}).spec
    known = known_spec("unidino")
    assert (spec.model.non_commercial, spec.model.source) == (True, known.source)
    for model in ("our-vit", "unidino[DNA]"):
        dictionary = older(saved, model, "ours", {})
        assert dictionary.spec.model.non_commercial is None
        assert dictionary.provenance == {}
        told = terms_of(dictionary.model)
        assert "ours (whether commercial use is allowed is not stated)" in told


@pytest.mark.parametrize("non_commercial", [True, False, None])
def test_what_the_weights_may_be_used_for_is_kept(dictionary, tmp_path, non_commercial):
    # Also where the model is no known one, so that nothing but the file can tell.
    terms = {"non_commercial": non_commercial, "source": "y"}
    spec = SPEC.replace(model=SPEC.model.replace(id="x", **terms))
    path = dataclasses.replace(dictionary, spec=spec).save(tmp_path / "terms")
    assert ConceptDictionary.load(path).spec == spec


def one_sentence(path: Path) -> str:
    message = refusal(ConceptDictionary.load, path)
    assert path.name in message
    return message


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"whiten": False},
        {"position": False, "n_components": None},
        {"update": "adam", "init": "linear", "selection": "absolute"},
        {"refit": "full"},
        {"refit": "block", "allow_repeats": True},
        {"positive_code": True},
        {"atoms_per_iteration": None, "n_iterations": None},
    ],
)
def test_a_file_brings_everything_back(tmp_path, options):
    original = make(**options)
    path = original.save(tmp_path / "a.microdl.safetensors")
    loaded = ConceptDictionary.load(path)
    fresh = samples(50, 9)
    np.testing.assert_array_equal(loaded.whiten(fresh), original.whiten(fresh))
    codes, expected = loaded.encode(fresh), original.encode(fresh)
    assert codes.nnz > 0
    for part in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(codes, part), getattr(expected, part))
    assert loaded.spec == original.spec
    for name in ("update", "selection", "refit", "allow_repeats", "positive_code"):
        assert getattr(loaded.icfl, name) == getattr(original.icfl, name)
    for name in ("names", "notes", "tags", "provenance", "figures"):
        assert getattr(loaded, name) == getattr(original, name)
    np.testing.assert_array_equal(loaded.icfl.dead_, original.icfl.dead_)
    assert (loaded.position is None) == (original.position is None)
    if loaded.position is not None:
        for name in ("offsets", "basis", "scales"):
            parts = [getattr(d.position, name) for d in (loaded, original)]
            np.testing.assert_array_equal(*parts)
    # Bit for bit: saving what was loaded writes the same file.
    again = loaded.save(tmp_path / "b.microdl.safetensors")
    assert again.read_bytes() == path.read_bytes()


def test_the_group_of_each_atom_is_kept(tmp_path):
    original = make()
    groups = ["seen in controls"] * 3 + ["only in treated"] * (ATOMS - 3)
    original.icfl = ICFL.from_arrays(
        original.icfl.components_, groups=groups, n_iterations=2, atoms_per_iteration=3
    )
    path = original.save(tmp_path / "a")
    assert ConceptDictionary.load(path).icfl.groups_.tolist() == groups
    tensors = load_file(path)
    numbers = tensors.pop("icfl.groups")
    assert numbers.tolist() == [1] * 3 + [2] * (ATOMS - 3)
    # Without them, as files of plain fits may be, nothing is stated apart.
    header = header_of(path)
    write_record(path, KEY, tensors, header)
    assert set(ConceptDictionary.load(path).icfl.groups_) == {"any"}
    write_record(path, KEY, {**tensors, "icfl.groups": numbers + 7}, header)
    assert "do not fit together" in one_sentence(path)


def test_the_file_is_plain_safetensors_with_a_readable_header(saved):
    header = header_of(saved)
    assert header["schema_version"] == 2
    assert header["spec"]["tokens"]["channels"] == ["DNA", "Actin"]
    assert header["names"][-1] == "Körnchen µ"
    tensors = load_file(saved)
    assert tensors["icfl.components"].dtype == np.float32
    assert tensors["whitening.mean"].dtype == np.float64
    names = ("icfl.components", *(f"position.{n}" for n in ("offsets", "basis", "scales")))
    places = (PLACES, WIDTH)
    assert [tensors[n].shape for n in names] == [(ATOMS, 7), places, (2, WIDTH), places]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("x", "x.microdl.safetensors"),
        ("x.safetensors", "x.microdl.safetensors"),
        ("x.microdl.safetensors", "x.microdl.safetensors"),
        ("x.microdl", "x.microdl.safetensors"),
        ("plate 1.5", "plate 1.5.microdl.safetensors"),
    ],
)
def test_the_suffix_is_completed(tmp_path, dictionary, name, written):
    for path in (tmp_path / name, str(tmp_path / name)):
        assert dictionary.save(path) == tmp_path / written
    assert [p.name for p in tmp_path.iterdir()] == [written]


def test_a_failing_write_leaves_the_old_file(tmp_path, dictionary, monkeypatch):
    path = dictionary.save(tmp_path / "x")
    before = path.read_bytes()
    changed = make(position=False)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for module, step in ((os, "fsync"), (Path, "replace")):
        with monkeypatch.context() as patch:
            patch.setattr(module, step, fail)
            with pytest.raises(OSError, match="No space left"):
                changed.save(path)
        assert path.read_bytes() == before
    changed.figures = {"r2": float("nan")}
    with pytest.raises(ValueError, match="JSON"):
        changed.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "a part was left behind"


def test_truncated_foreign_and_missing_files_give_one_sentence(tmp_path, saved):
    path = tmp_path / "x.microdl.safetensors"
    content = saved.read_bytes()
    for kept in (0, 5, 9, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        assert "is not a readable safetensors file" in one_sentence(path)
    assert "cannot be read" in one_sentence(tmp_path / "none")
    save_file({"a": np.ones(3)}, path, metadata={"other": "x"})
    assert "not a concept dictionary" in one_sentence(path)


def test_a_pickled_dictionary_is_never_opened(tmp_path):
    path = tmp_path / "x.microdl.safetensors"
    path.write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    assert "it is a pickle, which may hold code" in one_sentence(path)
    torch.save({"icfl.components": torch.ones(2, 2), "x": Payload(tmp_path / "executed")}, path)
    assert "PyTorch checkpoints" in one_sentence(path)
    assert not (tmp_path / "executed").exists()


def tampered(saved: Path, folder: Path, change: Callable[[dict, dict], None]) -> Path:
    tensors, header = load_file(saved), header_of(saved)
    change(tensors, header)
    path = folder / "x.microdl.safetensors"
    write_record(path, KEY, tensors, header, allow_nan=True)
    return path


def put(part: str, *place: Any) -> Callable[[dict, dict], None]:
    """Write a value into a part of the header: the keys that lead to it come before it."""
    *groups, key, value = place

    def change(_: dict, header: dict) -> None:
        group = header[part]
        for name in groups:
            group = group[name]
        group[key] = value

    return change


def tensor(name: str, value: np.ndarray) -> Callable[[dict, dict], None]:
    return lambda tensors, _: tensors.update({name: value})


def missing(name: str) -> Callable[[dict, dict], None]:
    return lambda tensors, _: tensors.pop(name)


@pytest.mark.parametrize("version", [0, 3, "1", None])
def test_another_schema_is_refused(tmp_path, saved, version):
    path = tampered(saved, tmp_path, lambda _, h: h.update(schema_version=version))
    assert f"has schema version {version} but this version" in one_sentence(path)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", '"text"', "{}", "[" * 100_000 + "]" * 100_000]
)
def test_a_damaged_header_is_refused(tmp_path, saved, text):
    path = tmp_path / "x.microdl.safetensors"
    save_file(load_file(saved), path, metadata={KEY: text})
    assert "header of 'x.microdl.safetensors' is damaged" in one_sentence(path)


@pytest.mark.parametrize(
    ("part", "value"),
    [
        (part, value)
        for part in ("spec", "icfl", "whitening", "names", "notes", "provenance", "figures")
        for value in ("missing", 3, "text", [1, 2, 3], {"a": 1})
        # Any words may stand in these two.
        if not (part in ("provenance", "figures") and isinstance(value, dict))
    ],
)
def test_a_part_of_the_wrong_kind_is_refused(tmp_path, saved, part, value):
    def change(_: dict, header: dict) -> None:
        header[part] = value
        if value == "missing":
            del header[part]

    one_sentence(tampered(saved, tmp_path, change))


@settings(max_examples=40)
@given(data=st.data())
def test_tensors_of_other_shapes_are_refused(saved, tmp_path_factory, data):
    shapes = {name: t.shape for name, t in load_file(saved).items()}
    name = data.draw(st.sampled_from(sorted(shapes)))
    shape = data.draw(
        st.lists(st.integers(0, 20), max_size=3).map(tuple).filter(lambda s: s != shapes[name])
    )
    # A dictionary of another width fits where the whitening is also of another width, and so on:
    # one tensor alone never does.
    one_sentence(tampered(saved, tmp_path_factory.getbasetemp(), tensor(name, np.ones(shape))))


@pytest.mark.parametrize(
    "change",
    [
        *(put("spec", "tokens", "layer", value) for value in (0, 2.5, "5", None)),
        *(put("spec", "tokens", "tile_size", value) for value in (0, 40)),
        *(put("spec", "model", "patch_size", value) for value in (-8, 3)),
        *(put("spec", "tokens", "halo", value) for value in (-1, 2, "1")),
        put("spec", "tokens", "site", "mlp"),
        put("spec", "units", "kind", "well"),
        put("spec", "tokens", "scaling", "tile"),
        put("spec", "units", "crop_size", 0),
        *(put("spec", "tokens", "channels", value) for value in ([], 3, [3])),
        *(put("spec", "model", "non_commercial", value) for value in ("no", 0)),
        put("spec", "model", "source", None),
        put("spec", "model", "unknown", 3),
        put("spec", "unknown", 3),
        put("icfl", "selection", "best"),
        put("icfl", "update", "sgd"),
        put("icfl", "refit", "none"),
        *(put("icfl", "n_iterations", value) for value in (0, "2", 2.5, None)),
        put("icfl", "atoms_per_iteration", -1),
        put("icfl", "allow_repeats", "yes"),
        put("icfl", "unknown", 3),
        *(put("icfl", "n_iterations", value) for value in (True, 10**9)),
        *(put("icfl", "positive_code", value) for value in (1, "true", None)),
        *(put("whitening", "n_samples_seen", value) for value in ("many", float("inf"), 0)),
        *(put("whitening", "shrinkage", value) for value in (-0.1, float("nan"), 1e999)),
        *(put("whitening", "eigenvalue_floor", value) for value in (-1.0, 1.0, float("nan"))),
        put("whitening", "unit_norm", 1),
        put("spec", "tokens", "channels", ["DNA", "DNA"]),
        tensor("icfl.dead", np.full(ATOMS, 2, np.uint8)),
        tensor("whitening.scale", np.full(7, -1.0)),
        tensor("whitening.explained_variance", np.full(7, -1.0)),
        put("whitening", "unknown", 3),
        lambda _, header: header["names"].pop(),
        lambda _, header: header["notes"].append("one more"),
        lambda _, header: header["tags"].append("perturbed"),
        lambda _, header: header["tags"].__setitem__(0, "odd"),
        *(missing(f"whitening.{name}") for name in ("mean", "components", "scale")),
        *(missing(name) for name in ("whitening.explained_variance", "icfl.components")),
        *(tensor(f"{part}.unknown", np.ones(3)) for part in ("icfl", "whitening")),
        tensor("whitening.mean", np.full(WIDTH, np.nan)),
        tensor("icfl.components", np.full((ATOMS, 7), np.inf, np.float32)),
    ],
)
def test_tampering_is_refused(tmp_path, saved, change):
    one_sentence(tampered(saved, tmp_path, change))


@settings(max_examples=150)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), in_header=st.booleans())
def test_a_flipped_bit_is_noticed(saved, tmp_path_factory, place, bit, in_header):
    content = bytearray(saved.read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    content[int(place * (length + 8 if in_header else len(content)))] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.microdl.safetensors"
    path.write_bytes(content)
    # Anything but an error of the package fails the test; a letter that JSON writes in two ways,
    # or a space between its parts, may change.
    with contextlib.suppress(MicrodlError):
        loaded = ConceptDictionary.load(path)
        assert loaded.save(path).read_bytes() == saved.read_bytes()


def test_numbers_that_are_none_of_those_written_are_refused(saved, tmp_path):
    path = tmp_path / "x.microdl.safetensors"
    with safe_open(saved, "numpy") as file:
        metadata = file.metadata()
    for name, values in load_file(saved).items():
        changed = values.copy()
        flat = changed.reshape(-1)
        flat[:1] = ~flat[:1] if values.dtype == bool else flat[:1] + 1
        save_file({**load_file(saved), name: changed}, path, metadata)
        assert "is not what was written" in one_sentence(path)
    # As if no digest had been written.
    for name in ("digezt", "Digest"):
        renamed = metadata[KEY].replace('"digest"', f'"{name}"')
        save_file(load_file(saved), path, {KEY: renamed})
        one_sentence(path)


def test_a_file_of_an_earlier_version_has_no_digest_and_that_is_said(saved, tmp_path):
    path = tmp_path / "x.microdl.safetensors"
    header = header_of(saved)
    del header["digest"]
    save_file(load_file(saved), path, {KEY: json.dumps(header)})
    with current_task().taking_notes() as notes:
        loaded = ConceptDictionary.load(path)
    assert len(notes) == 1
    assert "'x.microdl.safetensors' is of an earlier version and holds no digest" in notes[0]
    # Saved again it is as any other.
    assert loaded.save(path).read_bytes() == saved.read_bytes()
    assert ConceptDictionary.load(path).names == loaded.names


def test_only_the_model_of_the_dictionary_is_accepted():
    model = dataclasses.replace(known_spec("builtin"), weights_sha256="ab" * 32)
    SPEC.check_model(model)
    other = dataclasses.replace(model, model_id="random-init")
    told = refusal(SPEC.check_model, other)
    assert "made with the model 'builtin' but 'random-init' is chosen" in told
    retrained = dataclasses.replace(model, weights_sha256="cd" * 32)
    told = refusal(SPEC.check_model, retrained)
    assert "other weights of 'builtin' (sha256 abababababab, here cdcdcdcdcdcd)" in told


def test_the_curve_of_the_intensities_is_kept_and_old_files_have_the_logarithm(tmp_path, saved):
    linear = SPEC.replace(model=SPEC.model.replace(intensity="linear"))
    made = dataclasses.replace(make(), spec=linear)
    assert ConceptDictionary.load(made.save(tmp_path / "linear")).model.intensity == "linear"
    old = tampered(saved, tmp_path, lambda _, header: header["spec"]["model"].pop("intensity"))
    assert ConceptDictionary.load(old).model.intensity == "log"
    unknown = tampered(saved, tmp_path, put("spec", "model", "intensity", "gamma"))
    assert "intensity is 'gamma', which is not known" in one_sentence(unknown)


@pytest.mark.parametrize(
    ("group", "name"),
    [("tokens", n) for n in ("layer", "tile_size")]
    + [("model", "patch_size"), ("units", "crop_size"), ("units", "crop_stride")],
)
def test_geometry_must_be_whole_numbers_above_zero(group, name):
    for value in (0, -1, 2.0, None, "8"):
        with pytest.raises(MicrodlError, match=f"{name} is .* but must be (1 or more|a whole)"):
            getattr(SPEC, group).replace(**{name: value})


def test_names_and_notes_have_defaults_and_must_fit(dictionary):
    plain = ConceptDictionary(SPEC, dictionary.icfl)
    assert plain.names == [f"concept {i}" for i in range(ATOMS)]
    assert plain.notes == [""] * ATOMS
    assert plain.n_concepts == ATOMS
    with pytest.raises(MicrodlError, match="has 16 concepts but 2 names, 16 notes and 16 tags"):
        ConceptDictionary(SPEC, dictionary.icfl, names=["a", "b"])


def test_tags_are_optional_in_a_file_and_one_of_two_words(dictionary, tmp_path):
    tags = ["perturbed", "", "control-like"] + [""] * (ATOMS - 3)
    tagged = dataclasses.replace(dictionary, tags=tags)
    assert ConceptDictionary.load(tagged.save(tmp_path / "new")).tags == tags
    path = tampered(tagged.save(tmp_path / "old"), tmp_path, lambda _, header: header.pop("tags"))
    assert ConceptDictionary.load(path).tags == [""] * ATOMS
    with pytest.raises(MicrodlError, match="The tag 'odd' is not known"):
        dataclasses.replace(dictionary, tags=["odd"] + [""] * (ATOMS - 1))


def test_cosines_are_those_of_the_atoms(dictionary):
    vectors = dictionary.whiten(samples(20, 3)) * np.float32(7)
    vectors[4] = 0
    for concept in (0, ATOMS - 1):
        atom = dictionary.icfl.components_[concept].astype(float)
        cosines = dictionary.cosine(vectors, concept)
        for vector, cosine in zip(vectors.astype(float), cosines, strict=True):
            length = np.linalg.norm(vector) * np.linalg.norm(atom)
            expected = vector @ atom / length if length else 0
            assert cosine == pytest.approx(expected, abs=1e-6)
    np.testing.assert_allclose(np.linalg.norm(dictionary.directions, axis=1), 1, atol=1e-6)


def test_the_id_of_a_concept_outlives_its_name_and_a_file(saved, tmp_path):
    first, other = ConceptDictionary.load(saved), make(n_components=6)
    ids = [first.concept_id(number) for number in range(first.n_concepts)]
    assert len(set(ids)) == first.n_concepts
    assert re.fullmatch(r"[0-9a-f]{8}-3", ids[3])
    first.names[2:4] = ["concept 2", " many  spots"]
    again = ConceptDictionary.load(first.save(tmp_path / "again"))
    assert [again.concept_id(number) for number in range(again.n_concepts)] == ids
    assert [again.column_of(2), again.column_of(3)] == ["2", "3_many_spots"]
    # Those of another fit are others.
    assert other.fingerprint != first.fingerprint


@pytest.mark.parametrize("size", [None, 0.65])
def test_the_pixel_size_is_kept(tmp_path, size):
    dictionary = dataclasses.replace(make(), pixel_size=size)
    assert ConceptDictionary.load(dictionary.save(tmp_path / "d")).pixel_size == size


@pytest.mark.parametrize("size", [0, -1, "large", float("inf")])
def test_a_pixel_size_that_is_none_is_refused(saved, tmp_path, size):
    header = {**header_of(saved), "pixel_size": size}
    path = tmp_path / "d.microdl.safetensors"
    write_record(path, KEY, load_file(saved), header, allow_nan=True)
    with pytest.raises(MicrodlError, match="pixel_size"):
        ConceptDictionary.load(path)
