"""A short run of what `scripts/fuzz.py` does at length."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("resource", reason="memory is counted on Linux and macOS alone")

import fuzzed


@pytest.fixture(scope="module")
def loaders(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("fuzzing")
        patch.setenv("NAPARI_MICRODL_CACHE", str(folder / "cache"))
        yield fuzzed.all_loaders(folder)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", fuzzed.LOADERS)
def test_damaged_files_are_refused_with_a_sentence_or_read_as_they_are(loaders, name):
    loader = loaders[name]()
    found = [fuzzed.try_input(loader, data) for data in fuzzed.random_inputs(60, seed=1)]
    assert "refused" in found or name == "token cache"


def test_what_no_loader_may_do_is_noticed(tmp_path: Path):
    """The watch itself: each fault is found where a loader has it."""
    path = tmp_path / "file"
    path.write_bytes(b"whole")

    def tried(load, *, sealed: bool = False) -> str:
        loader = fuzzed.Loader("mine", [path], load, sealed=sealed)
        with pytest.raises(fuzzed.FaultError) as caught:
            any(fuzzed.try_input(loader, data) == "" for data in fuzzed.random_inputs(20))
        return str(caught.value)

    assert "UnicodeDecodeError" in tried(lambda: (path.read_bytes() + b"").decode("ascii"))
    assert "other numbers" in tried(path.read_bytes, sealed=True)
