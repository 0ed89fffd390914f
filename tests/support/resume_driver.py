"""A driver in a process of its own, to be killed: makes what is missing of one cell, with the fake generator.

python -m tests.support.resume_driver RESULTS KIND NOTES COUNT '{"3": "gate"}' [HOST:PORT]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness.cells.store import CellStore, Lease
from harness.errors import HarnessError
from harness.pool import make_pool
from tests.support.fakes import FakeToolbox, fake_cell, fake_items, fake_shards

SHARD = 8


def main(results: Path, kind: str, notes: Path, count: int, trouble: dict[int, str], address: str | None = None) -> int:
    cell = fake_cell(results / "cell")
    with Lease(results):
        done = CellStore(results / "cell").done()
        missing = [item for item in fake_items(count, trouble) if item.key not in done]
        settings = {"name": kind, "device": "cpu", "threads": 1, "beat_seconds": 0.5}
        settings |= ({"address": address} if address else {"workers": 2}) if kind == "ray" else {}
        with make_pool(settings, results, FakeToolbox(notes)) as pool:
            for outcome in pool.run(fake_shards(cell, missing, SHARD)):
                print(outcome.task_id, flush=True)
    return 0


if __name__ == "__main__":
    folder, pool_kind, note_folder, number, troubles, *cluster = sys.argv[1:]
    try:
        words = {int(index): word for index, word in json.loads(troubles).items()}
        sys.exit(main(Path(folder), pool_kind, Path(note_folder), int(number), words, *cluster))
    except HarnessError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
