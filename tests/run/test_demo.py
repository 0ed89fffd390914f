"""The demo gives the numbers of the documentation, whatever the threads: its command, made small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.__main__ import main
from harness.cells.store import CellStore
from harness.lib.hashing import file_hash

SMALL = ["model.safedir.trajectories=2", "model.safedir.batch=2", "model.safedir.steps=8", "limit=2", "batch_size=2",
         "bench.num_inference_steps=4", "bench=micro_i2p", "evaluators=[hazard_judge]", "leaderboard=false",
         "tracker=disabled"]  # fmt: skip


@pytest.fixture(scope="module")
def demos(tmp_path_factory) -> dict[int, Path]:
    """Return the results of the demo by its number of threads."""
    found = {threads: tmp_path_factory.mktemp(f"threads{threads}") for threads in (1, 3)}
    for threads, results in found.items():
        words = ["-m", "experiment=demo", *SMALL, "pool=inline", f"pool.threads={threads}", f"results={results}"]
        assert main(words) == 0
    return found


def by_name(results: Path, pattern: str) -> dict[str, Path]:
    return {str(path.relative_to(results)): path for path in sorted(results.glob(pattern))}


def test_the_demo_trains_the_same_artifact_with_one_thread_and_with_three(demos):
    one, three = ({name: file_hash(path) for name, path in by_name(results, "artifacts/*/*/*.safetensors").items()}
                  for results in demos.values())
    assert one == three and len(one) == 1


def test_the_demo_has_the_same_cells_drawn_with_the_same_artifact(demos):
    told = [{folder: {row.artifact for row in CellStore(path, path.name).images().values()}
             for folder, path in by_name(results, "runs/*/*/*/*").items()} for results in demos.values()]
    assert told[0] == told[1] and len(told[0]) == 5
    assert sum(artifacts != {None} for artifacts in told[0].values()) == 1


def test_the_demos_images_differ_by_two_grey_levels_at_most(demos):
    one, three = (by_name(results, "runs/*/*/*/*/images/*/*.png") for results in demos.values())
    assert one.keys() == three.keys() and len(one) == 10
    for name, path in one.items():
        ours, theirs = (np.asarray(Image.open(file)).astype(int) for file in (path, three[name]))
        assert abs(ours - theirs).max() <= 2
