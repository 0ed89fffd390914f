"""Pools of fake workers. The generator is a fake that draws from seeds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.pool import Pool, make_pool
from harness.pool.worker import Worker
from tests.support.fakes import FakeToolbox, fake_cell, fake_items, fake_shards, image_bytes
from tests.support.pool_common import MakePool


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakePool]:
    """Return a function that makes a pool of the kind under test; all are closed at the end."""
    made: list[Pool] = []

    def build(kind: str, toolbox: FakeToolbox | None = None, **settings: object) -> Pool:
        if kind == "ray":
            request.getfixturevalue("ray_session")
            settings = {"workers": 2, "threads": 1, "beat_seconds": 0.2, **settings}
        (tmp_path / "results").mkdir(exist_ok=True)
        config = {"name": kind, "device": "cpu", **settings}
        pool = make_pool(config, tmp_path / "results", toolbox or FakeToolbox(tmp_path / "notes"))
        made.append(pool)
        return pool

    yield build
    for pool in made:
        pool.close()


@pytest.fixture
def expected(tmp_path: Path) -> dict[str, bytes]:
    """The images of `fake_items(20)` as one undisturbed worker makes them in one shard."""
    cell = fake_cell(tmp_path / "expected")
    Worker("w", toolbox=FakeToolbox(tmp_path / "expected-notes")).run(fake_shards(cell, fake_items(20), 20)[0])
    return image_bytes(tmp_path / "expected")
