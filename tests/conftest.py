"""Fixtures that every test may use, and what keeps a run the same on every machine."""

from __future__ import annotations

import ipaddress
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Read when torch and the BLAS libraries load, here and in processes that tests start: more threads
# than cores are slower than one, and the order of a parallel sum changes its last digits.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Empty means that napari neither reads nor writes the settings of the person who runs the tests.
os.environ["NAPARI_CONFIG"] = ""

import numba
import pytest
import torch
from hypothesis import HealthCheck, settings
from threadpoolctl import threadpool_limits

import matrices
from napari_microdl.fields.field import Field
from napari_microdl.fields.samples import transfluor

# Plugins of pytest have loaded numpy and numba by now, with as many threads as there are cores. The
# threads of numba begin before torch is told: when napari draws labels, torch would get as many.
threadpool_limits(1, user_api="blas")
numba.set_num_threads(1)
torch.set_num_threads(1)
# A slow machine is no failure, and the same examples are drawn in every run.
settings.register_profile(
    "napari-microdl", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("napari-microdl")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="try every combination of the parameters of which every two are tried otherwise",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "pairwise(parameters): as many cases as it takes for every two values to meet"
    )
    config.addinivalue_line(
        "markers", "own_window: the test opens and closes a napari window of its own"
    )
    # Of two windows on one screen one takes the keys of the other.
    if hasattr(config, "workerinput") and sys.platform == "linux" and shutil.which("Xvfb"):
        own_screen(config)


def own_screen(config: pytest.Config) -> None:
    """Give a process of a parallel run a virtual screen of its own."""
    reads, writes = os.pipe()
    screen = subprocess.Popen(
        ["Xvfb", "-displayfd", str(writes), "-screen", "0", "1920x1080x24", "-nolisten", "tcp"],
        stderr=subprocess.DEVNULL,
        pass_fds=[writes],
    )
    config.add_cleanup(screen.wait)
    config.add_cleanup(screen.terminate)
    os.close(writes)
    with os.fdopen(reads) as number:
        os.environ["DISPLAY"] = ":" + number.readline().strip()
    os.environ.pop("WAYLAND_DISPLAY", None)
    os.environ.update(QT_QPA_PLATFORM="xcb", LIBGL_ALWAYS_SOFTWARE="1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long modules first, so that in the end no process waits for another for long."""
    rooms = ("tests", "tokens", "report", "pipeline", "models", "metrics", "fields")
    first = {name: number for number, name in enumerate(("gui", *rooms))}
    items.sort(key=lambda item: first.get(item.path.parent.name, len(first)))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    matrices.parametrize(metafunc, full=metafunc.config.getoption("full"))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the public image sets; the test is skipped where there is none."""
    beside_the_repository = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MICRODL_DATA") or beside_the_repository)
    if not folder.is_dir():
        pytest.skip("the public image sets are not here; name their folder in MICRODL_DATA")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _cache_of_wider_fixtures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is made for many tests goes into no cache of a person either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAPARI_MICRODL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that is empty when a test begins, never that of a person."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("NAPARI_MICRODL_CACHE", str(folder))
    return folder


def is_of_this_machine(host: str) -> bool:
    """Whether an address is one of ours, as that of a cluster that is started here."""
    try:
        ipaddress.IPv4Address(host)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.bind((host, 0))
    except (OSError, ValueError):
        return False
    return True


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Nothing asks another machine for anything; whatever is asked for all the same is told."""
    asked: list[str] = []
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def here(host: object) -> bool:
        text = host.decode() if isinstance(host, bytes) else str(host)
        own = {"", "None", "localhost", "::1", "0.0.0.0", "::", socket.gethostname()}
        return text in own or text.startswith("127.") or is_of_this_machine(text)

    def only_here(one: socket.socket, address: Any) -> None:
        # Datagrams are sent by nobody; programs ask for a way in the network so.
        outside = one.family in (socket.AF_INET, socket.AF_INET6) and not here(address[0])
        if outside and one.type == socket.SOCK_STREAM:
            asked.append(str(address))
            raise ConnectionRefusedError(f"tests may not connect to {address}")
        connect(one, address)

    def look_up_here(host: Any, *arguments: Any, **options: Any) -> Any:
        if not here(host) and not str(host)[:1].isdigit():
            asked.append(str(host))
            raise socket.gaierror(f"tests may not look up {host}")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", only_here)
    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    yield asked
    assert asked == []


@pytest.fixture
def sample_fields() -> list[Field]:
    """The bundled sample, fresh for every test."""
    return transfluor()
