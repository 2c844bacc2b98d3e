from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors.torch import load, save

from core.processes import python
from core.refusals import refusal
from models.comparison import refused
from models.transformers_cases import BY_NAME
from napari_microdl.core.errors import MicrodlError
from napari_microdl.models.registry import load_model, model_spec, recipes, weights_pin
from napari_microdl.models.weights import hub
from napari_microdl.models.weights.hub import HubSource

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REFERENCE = f"hf://lab/vit@{COMMIT}"


def cached_repository(
    cache: Path, repository: str, files: dict[str, bytes], commit: str = COMMIT
) -> None:
    """The layout of huggingface_hub's cache: blobs by digest, snapshots of links to them."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (folder / "blobs").mkdir()
    for name, content in files.items():
        blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and no network; nothing on this machine answers at port 9."""
    cache = tmp_path / "hub"
    cache.mkdir()
    monkeypatch.setenv("HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    return cache


@pytest.fixture
def files(tmp_path: Path) -> dict[str, bytes]:
    """A small ViT as transformers writes it."""
    folder = BY_NAME["ViT"].write(tmp_path / "source")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def cached(offline: Path, files: dict[str, bytes]) -> dict[str, bytes]:
    """The same, in the cache."""
    cached_repository(offline, "lab/vit", files)
    return files


def digest_of(files: dict[str, bytes]) -> str:
    return hashlib.sha256(files["model.safetensors"]).hexdigest()


def test_a_cached_commit_is_loaded_without_the_network(cached: dict[str, bytes]):
    model = load_model(REFERENCE, device="cpu")
    assert model.spec.source == REFERENCE
    assert model_spec(REFERENCE) == model.spec
    assert model.spec.non_commercial is None
    assert model.spec.weights_sha256 == digest_of(cached)
    tokens = model.tokens(np.zeros((1, 2, 28, 42), np.float32), 2, "residual")
    assert tokens.shape == (1, 2, 2, 3, 48)
    assert "is not the file that was pinned" in refused(REFERENCE, sha256="0" * 64)


def test_a_damaged_file_of_the_cache_is_noticed(cached: dict[str, bytes], offline: Path):
    blob = (offline / "models--lab--vit/snapshots" / COMMIT / "model.safetensors").resolve()
    blob.write_bytes(cached["model.safetensors"][:-4] + b"\0\0\0\1")
    assert "in the hub's cache is damaged; delete" in refused(REFERENCE)


def test_a_spec_needs_the_configuration_alone(offline: Path, files: dict[str, bytes]):
    cached_repository(offline, "lab/vit", {"config.json": files["config.json"]})
    assert model_spec(REFERENCE).depth == 3
    reference = f"hf://recursionpharma/OpenPhenom@{COMMIT}"
    assert model_spec(reference) == replace(recipes()["openphenom"].spec, source=reference)


@pytest.mark.parametrize("there", [(), ("config.json",)], ids=["nothing", "the configuration"])
def test_what_is_not_cached_is_not_fetched_while_offline(
    offline: Path, files: dict[str, bytes], there: tuple[str, ...]
):
    cached_repository(offline, "lab/vit", {name: files[name] for name in there})
    told = refused(REFERENCE)
    assert "lab/vit is not in the cache, and HF_HUB_OFFLINE forbids the network" in told


class ClientTimeoutError(Exception):
    """As HTTP libraries have it: no OSError."""


@pytest.mark.parametrize("kind", [OSError, ValueError, RuntimeError, ClientTimeoutError])
def test_no_token_and_no_request_shows_in_an_error(
    offline: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")

    def fail(*_: object, **__: object) -> None:
        raise kind("GET https://hub/lab/vit with authorization: Bearer hf_secret")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(MicrodlError) as caught:
        load_model(REFERENCE, device="cpu")
    assert f"lab/vit could not be fetched ({kind.__name__})" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.fixture
def proxy() -> Iterator[str]:
    """Address of a proxy that asks for a password, as those of institutes do."""

    class Refuse(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self.send_error(407)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refuse) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_error_of_the_http_library_gives_one_sentence(tmp_path: Path, proxy: str):
    """A refusing proxy: what recent libraries raise for it is no OSError and not the hub's own."""
    code = (
        "from napari_microdl.models.registry import load_model\n"
        "from napari_microdl.core.errors import MicrodlError\n"
        f"try: load_model('{REFERENCE}')\n"
        "except MicrodlError as error: print(error)"
    )
    environment = {
        k: v for k, v in os.environ.items() if not k.upper().endswith(("PROXY", "OFFLINE"))
    }
    own = {"HTTPS_PROXY": proxy, "HF_HUB_CACHE": str(tmp_path), "HF_TOKEN": "hf_secret"}
    done = python(code, env={**environment, **own})
    assert done.stdout.startswith("lab/vit could not be fetched (ProxyError)")
    assert "hf_secret" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (GatedRepoError, "asks to accept its licence on its page and to log in (hf auth login)"),
        (RepositoryNotFoundError, "does not exist, or not for you"),
    ],
)
def test_a_repository_that_is_closed_says_so(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], reason: str
):
    def refuse(*_: object, **__: object) -> None:
        raise error.__new__(error)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    assert reason in refused(f"hf://recursionpharma/OpenPhenom@{COMMIT}")


@pytest.mark.parametrize(
    "reference", ["hf://lab/vit", "hf://lab/vit@main", f"hf://lab/vit@{COMMIT[:7]}"]
)
def test_only_a_commit_pins_weights(reference: str):
    assert "Name the commit of lab/vit by its 40 hex digits" in refusal(load_model, reference)
    assert "40 hex digits" in refusal(hub.fetch, HubSource("lab/vit"))


@pytest.mark.parametrize("reference", ["hf://", "hf://vit", "hf://a/b/c", "hf://lab/vi t@x"])
def test_a_reference_of_another_form_is_refused(reference: str):
    assert "write hf://organisation/name@commit" in refusal(load_model, reference)


def test_a_published_model_comes_from_its_pinned_commit(offline: Path):
    assert "facebook/dinov2-small is not in the cache" in refused("dinov2-small")
    assert "are not on the hub; get them from Bayer" in refused("unidino")


def test_every_model_of_the_hub_has_a_commit_and_all_but_one_a_digest():
    sources = {name: recipe.hub for name, recipe in recipes().items() if recipe.hub is not None}
    for name, source in sources.items():
        assert hub._pinned(source) is source
        if name != "openphenom":
            assert len(bytes.fromhex(source.sha256)) == 32
    pins = [value for s in sources.values() for value in (s.revision, s.sha256) if value]
    assert len(set(pins)) == len(pins), "copied from another model"


def test_the_digest_of_the_first_download_is_kept_shown_and_asked_for(
    offline: Path, own_cache: Path, cached: dict[str, bytes]
):
    digest = digest_of(cached)
    # Before the first use nothing is known, and looking at the configuration is no use of weights.
    assert model_spec(REFERENCE).weights_sha256 == ""
    assert "the sha256 of the first download will be kept" in weights_pin(REFERENCE)
    assert not (own_cache / "first-use").exists()
    load_model(REFERENCE, device="cpu")
    record = own_cache / "first-use" / f"lab--vit@{COMMIT}.sha256"
    assert record.read_text() == f"{digest}  model.safetensors\n"
    assert model_spec(REFERENCE).weights_sha256 == digest
    assert f"Commit 0123456789ab, sha256 {digest[:12]} at" in weights_pin(REFERENCE)
    load_model(REFERENCE, device="cpu")

    # The hub gives another file, whole and under its own digest, for the same commit.
    shutil.rmtree(offline / "models--lab--vit")
    state = load(cached["model.safetensors"])
    other = {name: tensor + 1 for name, tensor in state.items()}
    cached_repository(offline, "lab/vit", {**cached, "model.safetensors": save(other)})
    assert "is not the file that was used first: its sha256 is" in refused(REFERENCE)
    assert record.read_text().startswith(digest)
    record.unlink()
    assert load_model(REFERENCE, device="cpu").spec.weights_sha256 != digest


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("content", [b"", b"no digest", b"\xff\xfe"])
def test_a_damaged_record_stops_the_weights_but_not_the_list(own_cache: Path, content: bytes):
    record = own_cache / "first-use" / f"lab--vit@{COMMIT}.sha256"
    record.parent.mkdir()
    record.write_bytes(content)
    assert model_spec(REFERENCE).weights_sha256 == ""
    assert "delete it." in refused(REFERENCE)
    assert record.read_bytes() == content


@pytest.mark.usefixtures("cached")
def test_where_no_record_can_be_written_weights_are_used_without_one(own_cache: Path):
    (own_cache / "first-use").write_text("a file where the folder would be")
    load_model(REFERENCE, device="cpu")
    load_model(REFERENCE, device="cpu")


def test_a_pinned_digest_is_asked_for_by_name_and_by_commit(offline: Path, files: dict[str, bytes]):
    source = recipes()["dinov2-small"].hub
    assert source is not None
    cached_repository(offline, source.repository, files, source.revision)
    reference = f"hf://{source.repository}@{source.revision}"
    assert weights_pin("dinov2-small") == "Commit ed25f3a31f01, sha256 ae1e99fcefd5."
    for name in ("dinov2-small", reference):
        assert model_spec(name).weights_sha256 == source.sha256
        assert weights_pin(name) == weights_pin("dinov2-small")
        assert "is not the file that was pinned" in refused(name)
    # Of another commit, or of a file of one's own, nothing is known.
    for name in ("dinov2-small@weights.pth", "unidino", "builtin", "weights.pth"):
        assert weights_pin(name) == ""
    assert model_spec("dinov2-small@weights.pth").weights_sha256 == ""
    other = f"hf://{source.repository}@{COMMIT}"
    assert model_spec(other).weights_sha256 == ""


def test_without_the_extra_one_sentence_says_what_to_install():
    code = (
        "import sys\nsys.modules['huggingface_hub'] = None\n"
        "from napari_microdl.models.registry import load_model\n"
        f"load_model('{REFERENCE}')"
    )
    done = python(code, check=False)
    assert "install napari-microdl[hub], or give" in done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("yes", True), ("0", False)])
def test_the_hubs_own_switch_is_honoured(
    monkeypatch: pytest.MonkeyPatch, value: str, expected: bool
):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert hub.is_offline() is expected


def test_one_commit_is_asked_for_and_nobody_where_the_network_is_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    asked = []

    def record(repository: str, name: str, **options: object) -> str:
        asked.append((repository, name, options))
        return str(tmp_path / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", record)
    assert hub.fetch(HubSource("lab/vit", COMMIT)) == tmp_path / "model.safetensors"
    names = [name for _, name, _ in asked]
    sides = ["config.json", "preprocessor_config.json", "processor_config.json"]
    assert names == [*sides, "model.safetensors"]
    options = {"revision": COMMIT, "cache_dir": str(tmp_path)}
    assert all(call == ("lab/vit", call[1], options) for call in asked)
    with hub.offline():
        assert "HF_HUB_OFFLINE forbids the network" in refusal(
            hub.fetch, HubSource("lab/vit", COMMIT)
        )
    assert len(asked) == len(names)
