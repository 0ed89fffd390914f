"""Fixtures that several test files share."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ALONE = ("test_kill", "test_pool_contract", "test_resume")  # start Ray, kill processes: one at a time


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say what parallel runs keep in one process: each file, which shares fixtures, and all that start services."""
    for item in items:
        is_alone = item.path.stem in ALONE or item.get_closest_marker("ray") is not None
        item.add_marker(pytest.mark.xdist_group("services" if is_alone else item.path.stem))


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests that need it: starting one takes seconds."""
    ray = pytest.importorskip("ray")
    from harness.pool.cluster import start_local

    start_local(cpus=4, object_store_mb=80)
    yield
    ray.shutdown()


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
