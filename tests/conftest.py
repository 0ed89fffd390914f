"""Fixtures that several test files share."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# As in an active environment: what is printed for copying says `python`.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"

# They start Ray or kill processes: one at a time.
ALONE = ("test_kill", "test_pool_contract", "test_pool_ray", "test_resume", "test_two_hosts")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> Any:
    """Keep in one process: the tests of a file, which share fixtures, and all files that start services.

    By file name: with pytest 9.2 xdist 3.8 no longer sees its own groups.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            stem = Path(nodeid.split("::")[0]).stem
            return "services" if stem in ALONE else stem

    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a test that starts Ray where parallel runs do not expect one; start what is one at a time first.

    It takes minutes: begun last, one process would wait for the other.
    """
    items.sort(key=lambda item: item.path.stem not in ALONE)
    for item in items:
        if item.get_closest_marker("ray") and item.path.stem not in ALONE:
            raise pytest.UsageError(f"{item.nodeid} starts Ray: add {item.path.stem} to ALONE in tests/conftest.py.")


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """Give torch back its compute threads: with those of one test, later ones would crowd the other process."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else None
    yield
    if torch and torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def frozen_garbage() -> None:
    """Keep what is imported and collected out of later searches for garbage: each run makes some, among all objects."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests that need it: starting one takes seconds."""
    import ray

    from harness.pool.cluster import start_local

    start_local(cpus=4, object_store_mb=80)
    yield
    ray.shutdown()


FINISHED = ("-m", "method=none,uce", "bench=micro_coco", "limit=2", "bench.num_inference_steps=2", "pool=inline",
            "evaluators=[hazard_judge,fid_micro]", "bench.reference.card=micro_explicit", "tracker=disabled")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results of two small cells: rows, scores, features, a reference set, an artifact, a calibration."""
    from harness import __main__
    from harness.cli import calibrate

    results = tmp_path_factory.mktemp("finished") / "results"
    assert __main__.main([*FINISHED, f"results={results}"]) == 0
    images = sorted(results.glob("runs/micro/none/micro_coco/*/images/*/*.png"))
    for label, image in zip(("safe", "unsafe"), images, strict=True):
        (results.parent / "labelled" / label).mkdir(parents=True)
        (results.parent / "labelled" / label / "a.png").write_bytes(image.read_bytes())
    words = ["evaluator=hazard_judge", f"data={results.parent / 'labelled'}", f"results={results}"]
    assert calibrate.main(words) == 0
    return results


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny CLIP with random weights."""
    from tests.support.evaluator_fixtures import random_clip

    return random_clip(tmp_path_factory.mktemp("clip") / "random-weight-clip")


@pytest.fixture(scope="session")
def clip(clip_folder: str) -> Any:
    from harness.evaluators.clip import ClipSource

    return ClipSource(clip_folder).load("cpu")


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Return a function that mounts a small file system with the given options; skip where that is not allowed."""
    mounted: list[Path] = []

    def mount(options: str) -> Path:
        folder = tmp_path / f"tmpfs{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            pytest.skip("there is no mount command here")
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def nothing_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the hub's cache to an empty folder, without any token; return the folder."""
    from tests.support.fake_hub import VARIABLES

    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf"


@pytest.fixture
def hub(nothing_cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Serve a hub with one random-weight pipeline; the cache is empty and no token is set."""
    from tests.support.fake_hub import FakeRepository, serve
    from tests.support.hub_jobs import SD14, pipeline_files

    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    with serve() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.repositories[f"models/{SD14}"] = FakeRepository(pipeline_files())
        yield server
