"""Nothing is built or read twice in one run, and nothing that others write meanwhile is missed for it."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import harness
from harness.cells import row_files
from harness.cells import store as stores
from harness.cells.row_files import Memory
from harness.cells.store import CellStore, EvaluatorKey, StoredScore
from harness.cli.compose import compose_jobs
from harness.lib.once import Once
from harness.lib.reading import UnreadableFileError
from harness.records import ImageKey, ImageRow, ScoreRow, Status
from harness.run import make_cells
from tests.speed.calls import calls_of_run, told

JUDGE = EvaluatorKey("judge", "f1")
# Three cells of four images and six evaluators, made in one shard a cell by one worker: calls at most, and why.
MADE = {
    "build": 22,  # 3 methods and 6 evaluators here, and in the worker; the judges that were asked apart of both
    "files of image rows read": 6,  # each of the 3 files by the run, and by the leaderboard
    "files of score rows read": 18,  # each of the 18 files, by the run
    "check_known": 2,  # of one model: here, and where the worker loads it
    "missing weights looked for": 2,  # before the run, and with what could be downloaded
    "weights_fingerprint": 2,  # here and in the worker
    "find_card": 2,  # of the cells, and with their prompts
}
AGAIN = {**MADE, "build": 12}  # nothing is left for the worker


def row(name: str, repeat: int = 0, **changes: object) -> ImageRow:
    base = ImageRow(name, repeat, f"prompt of {name}", (), 1, 7.5, None, None, None, Status.REFUSED, None, 0.1, 1, "w")
    return replace(base, **changes)


def key(name: str) -> ImageKey:
    return ImageKey(name, 0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the files of rows that are read."""
    found: Counter[str] = Counter()

    def counting(name: str, decode: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            found[name] += 1
            return decode(*arguments)

        return call

    for name in ("decode_images", "decode_scores"):
        monkeypatch.setattr(stores, name, counting(name, getattr(stores, name)))
    return found


def test_a_run_builds_and_reads_everything_once_and_so_does_the_same_command_again(tmp_path: Path) -> None:
    first, again = (told(calls_of_run(tmp_path)) for _ in range(2))
    assert all(first[name] for name in MADE), "a function that is counted has another name"
    for found, most in ((first, MADE), (again, AGAIN)):
        assert {name: found[name] for name, count in most.items() if found[name] > count} == {}


def test_rows_are_read_once_and_new_files_only(tmp_path: Path, reads: Counter[str]) -> None:
    store, other = CellStore(tmp_path), CellStore(tmp_path)
    other.append_images("one", [row("a")])
    assert set(store.images()) == set(store.images()) == store.done() == {key("a")}
    assert reads["decode_images"] == 1
    other.append_images("two", [row("b")])
    assert set(store.images()) == {key("a"), key("b")}
    assert reads["decode_images"] == 2


def test_scores_are_read_once_and_follow_todays_images(tmp_path: Path, reads: Counter[str]) -> None:
    store, other = CellStore(tmp_path), CellStore(tmp_path)
    other.append_images("one", [row("a", sha256="old")])
    other.append_scores(JUDGE, "one", [StoredScore(ScoreRow("a", 0, value=1.0), "old")])
    assert store.scores(JUDGE) == store.scores(JUDGE) == {key("a"): ScoreRow("a", 0, value=1.0)}
    assert reads["decode_scores"] == 1
    other.append_images("two", [row("a", sha256="new")])
    assert store.scores(JUDGE) == {}
    assert reads["decode_scores"] == 1


def test_a_file_that_is_gone_or_another_one_does_not_count_any_more(tmp_path: Path) -> None:
    store, other = CellStore(tmp_path), CellStore(tmp_path)
    for name in "ab":
        other.append_images(name, [row(name, worker="first")])
    assert len(store.images()) == 2
    (tmp_path / "rows" / "a.parquet").unlink()
    assert set(store.images()) == {key("b")}
    file = tmp_path / "rows" / "b.parquet"
    before = file.stat()
    other.append_images("b", [row("b", worker="later")])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert store.images()[key("b")].worker == "later"


def test_a_file_that_could_not_be_read_is_read_when_it_is_whole(tmp_path: Path) -> None:
    store = CellStore(tmp_path)
    store.append_images("a", [row("a")])
    file = tmp_path / "rows" / "a.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:-20])
    assert store.images() == {} and list(store.problems) == ["rows/a.parquet"]
    file.write_bytes(whole)
    assert set(store.images()) == {key("a")}


def test_a_file_that_could_not_be_read_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of network file systems above all: the same read may succeed a moment later."""
    store, failing = CellStore(tmp_path), [1]
    for name in "ab":
        store.append_images(name, [row(name)])

    def read(path: Path, *limit: int) -> bytes:
        if failing and path.name == "a.parquet":
            raise UnreadableFileError(path, "stale file handle")
        return path.read_bytes()

    monkeypatch.setattr(row_files, "read_bytes", read)
    assert set(store.images()) == {key("b")}
    failing.clear()
    assert set(store.images()) == {key("a"), key("b")}


def test_a_file_that_became_a_link_out_of_the_folder_is_not_read(tmp_path: Path) -> None:
    store, elsewhere = CellStore(tmp_path / "cell"), CellStore(tmp_path / "elsewhere")
    store.append_images("a", [row("a")])
    elsewhere.append_images("b", [row("b")])
    assert set(store.images()) == {key("a")}
    file = tmp_path / "cell" / "rows" / "a.parquet"
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere" / "rows" / "b.parquet")
    assert store.images() == {}
    assert "link out of" in store.problems["rows/a.parquet"]


def test_rows_of_another_training_that_come_meanwhile_are_not_mixed_in(tmp_path: Path) -> None:
    store, other = CellStore(tmp_path), CellStore(tmp_path)
    other.append_images("one", [row("a", artifact="first"), row("b", artifact="first")])
    assert store.artifact() == "first" and len(store.images()) == 2
    other.append_images("two", [row(name, artifact="second") for name in "cde"])
    assert store.artifact() == "second"
    assert set(store.images()) == {key(name) for name in "cde"}


WRITER = """
import sys
from pathlib import Path
from harness.cells.store import CellStore
from harness.run import make_cells
from harness.cli.compose import compose_jobs
from harness.sampling.batches import Outcome
from harness.records import Origin, Status
cell = make_cells(compose_jobs(sys.argv[1:], multirun=False)).cells[0]
rows = [Outcome(item, None, Status.REFUSED).row(None, Origin(cell.cell_id, "other")) for item in cell.items()[:3]]
cell.store.append_images("other", rows)
"""


def test_a_cell_sees_what_another_process_wrote_since_it_was_planned(tmp_path: Path) -> None:
    words = ["method=none", "bench=micro_i2p", "limit=4", "baseline=null", f"results={tmp_path}"]
    (cell,) = make_cells(compose_jobs(words, multirun=False)).cells
    assert len(cell.store.missing(cell.items())) == 4
    subprocess.run([sys.executable, "-c", WRITER, *words], check=True)
    assert cell.store.missing(cell.items()) == cell.items()[3:]
    assert [one.worker for one in cell.images().values()] == ["other"] * 3


def test_the_stores_of_a_command_keep_no_more_than_memory_allows(tmp_path: Path, reads: Counter[str]) -> None:
    memory = Memory(limit=40 * stores.ROW_BYTES)
    known = [CellStore(tmp_path / name, memory=memory) for name in "abc"]
    for one in known:
        for attempt in ("one", "two"):
            one.append_images(attempt, [row(f"{attempt}-{number}") for number in range(8)])
    for one in known:  # 16 rows each: the first is forgotten for the third
        assert len(one.images()) == 16
    assert reads["decode_images"] == 6
    assert [len(one.images()) for one in reversed(known)] == [16] * 3
    assert reads["decode_images"] == 8
    small = CellStore(tmp_path / "a", memory=Memory(limit=0))
    assert small.images() == known[0].images()


def test_a_pickled_cell_carries_nothing_that_was_built_or_read(tmp_path: Path) -> None:
    words = ["method=sld_medium", "limit=2", "baseline=null", f"results={tmp_path}"]
    (cell,) = make_cells(compose_jobs(words, multirun=False)).cells
    cell.store.append_images("a", [row("x", cell_id=cell.cell_id)])
    fresh = len(pickle.dumps(replace(cell, shared=type(cell.shared)())))
    assert cell.methods and cell.items() and cell.store.images()
    assert [cell.key_of(config) for config in cell.evaluators]
    data = pickle.dumps(cell)
    assert len(data) == fresh and len(pickle.dumps(cell.spec)) < 8000
    copy = pickle.loads(data)
    assert copy == cell and copy.store.images() == cell.store.images() and copy.methods == cell.methods
    assert len(pickle.dumps(cell.store)) < 1000


def test_cells_of_one_command_share_what_they_are_made_of() -> None:
    jobs = compose_jobs(["method=none,sld_medium", "bench=micro_i2p", "limit=3"], multirun=True)
    none, sld = make_cells(jobs).cells
    assert none.spec.model is sld.spec.model and none.items() is sld.items()
    assert none.evaluator(none.evaluators[0]) is sld.evaluator(sld.evaluators[0])


def test_a_question_is_asked_once_and_again_where_it_was_refused() -> None:
    asked = []

    def ask(config):
        asked.append(config)
        if config["refuse"]:
            raise ValueError("no")
        return len(asked)

    once = Once(ask)
    assert once({"refuse": False}) == once({"refuse": False}) == 1
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            once({"refuse": True})
    assert len(asked) == 3


def test_a_row_of_an_image_is_built_in_one_place_besides_the_reader() -> None:
    root = Path(harness.__file__).parent
    files = [path for path in root.rglob("*.py") if re.search(r"\bImageRow\(", path.read_text())]
    assert sorted(str(path.relative_to(root)) for path in files) == ["cells/tables.py", "sampling/batches.py"]
