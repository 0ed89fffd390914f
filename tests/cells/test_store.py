from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from harness.cells.store import CellStore, EvaluatorKey, FeatureBlock, StoredScore, encode_png
from harness.errors import InvalidValueError, StorageError
from harness.lib.atomic import check_writable, free_space, stray_files, write_atomic
from harness.lib.lease import Lease
from harness.records import ImageKey, ImageRow, ScoreRow, Status, Verdict
from tests.support.fakes import FakeJudge

TmpfsMaker = Callable[[str], Path]
JUDGE = EvaluatorKey("judge", "f1")


def picture(value: int = 0) -> np.ndarray:
    return np.random.default_rng(value).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def row(key: ImageKey, status: Status = Status.OK, **changes: object) -> ImageRow:
    base = ImageRow(
        key.prompt_id, key.repeat, "a <b>prompt</b> \U0001f3a8 \u05e9\u05dc\u05d5\u05dd\n", ("x", "y"), 2**64 - 1, 7.5,
        None, None, None, status, None, 0.25, 4, "w0", ("flag",),
    )  # fmt: skip
    return replace(base, **changes)


def add(store: CellStore, name: str, value: int = 0, attempt: str = "") -> ImageKey:
    """Store one image and its row, as a worker does."""
    key = ImageKey(name, 0)
    written = store.write_image(key, picture(value))
    record = row(key, file=written.file, sha256=written.sha256, bytes=written.size)
    store.append_images(attempt or f"attempt-{name}", [record])
    return key


@pytest.fixture
def store(tmp_path: Path) -> CellStore:
    return CellStore(tmp_path / "cell")


def test_rows_come_back_as_written(store: CellStore) -> None:
    rows = [
        row(ImageKey("a", 0), file="images/00/a_00.png", sha256="0" * 64, bytes=2**40),
        row(ImageKey("b", 3), Status.REFUSED, category=(), flags=()),
        row(ImageKey("c", 1), Status.ERROR, error="ValueError: no", seed=2**32 - 1),
    ]
    store.append_images("one", rows)
    assert store.images() == {one.key: one for one in rows}


def test_image_bytes_depend_on_pixels_only(store: CellStore) -> None:
    from PIL import Image

    first = store.write_image(ImageKey("a", 0), picture(1))
    second = store.write_image(ImageKey("b", 0), picture(1))
    assert first.sha256 == second.sha256
    assert np.array_equal(np.asarray(Image.open(store.folder / first.file)), picture(1))
    assert first.size == len(encode_png(picture(1)))


def test_ok_row_wins_over_a_later_error_and_the_latest_ok_row_over_older_ones(store: CellStore) -> None:
    key = ImageKey("a", 0)
    for index, one in enumerate([row(key, worker="first"), row(key, worker="second"), row(key, Status.ERROR)]):
        store.append_images(f"t{9 - index}", [one])
        path = store.folder / "rows" / f"t{9 - index}.parquet"
        os.utime(path, ns=(index * 10**9, index * 10**9))
    assert store.images()[key].worker == "second"


def test_done_needs_the_file_and_its_hash(store: CellStore) -> None:
    keys = [add(store, name, value) for value, name in enumerate("abcd")]
    assert store.done() == set(keys)
    paths = [store.folder / key.relative_path for key in keys]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    damaged = bytearray(paths[2].read_bytes())
    damaged[-30] ^= 1
    paths[2].write_bytes(bytes(damaged))
    again = CellStore(store.folder)
    assert again.done() == {keys[3]}
    assert set(again.problems) == {key.relative_path for key in keys[:3]}
    assert CellStore(store.folder).done(verify=False) == {keys[2], keys[3]}


def test_image_without_row_is_not_done_and_refused_row_is(store: CellStore) -> None:
    store.write_image(ImageKey("norow", 0), picture())
    store.append_images("t", [row(ImageKey("refused", 0), Status.REFUSED), row(ImageKey("bad", 0), Status.ERROR)])
    assert store.done() == {ImageKey("refused", 0)}


def test_truncated_row_file_is_left_out_and_named(store: CellStore) -> None:
    kept = add(store, "kept")
    add(store, "lost", attempt="broken")
    path = store.folder / "rows" / "broken.parquet"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"PAR1" + whole[4:-8], b"\0" * 500):
        path.write_bytes(damaged)
        again = CellStore(store.folder)
        assert set(again.images()) == {kept}
        assert list(again.problems) == ["rows/broken.parquet"]


def test_foreign_parquet_is_left_out_and_named(store: CellStore) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kept = add(store, "kept")
    pq.write_table(pa.table({"prompt_id": ["x"]}), store.folder / "rows" / "foreign.parquet")
    assert set(store.images()) == {kept}
    assert list(store.problems) == ["rows/foreign.parquet"]


def test_stray_temporary_files_are_not_counted(store: CellStore) -> None:
    kept = add(store, "kept")
    for folder in ("rows", "images/aa"):
        (store.folder / folder).mkdir(exist_ok=True)
        (store.folder / folder / ".half.parquet.0123456789ab.tmp").write_bytes(b"half")
    assert set(store.images()) == store.done() == {kept}
    assert len(store.strays()) == 2


def test_failed_write_leaves_the_old_content_and_no_stray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def broken(source: object, target: object) -> None:
        raise OSError(5, "input/output error")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="input/output"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert stray_files(tmp_path) == []


@pytest.mark.parametrize("name", ["a/b", "../up", ".hidden", "nul\0"])
def test_prompt_id_cannot_leave_the_folder(store: CellStore, name: str) -> None:
    with pytest.raises(InvalidValueError):
        store.write_image(ImageKey(name, 0), picture())


def test_scores_of_another_fingerprint_do_not_count(store: CellStore) -> None:
    key = add(store, "a")
    score = ScoreRow("a", 0, Verdict.UNSAFE, 0.5, "skull", {"skull": 0.5, "bomb": 0.1})
    store.append_scores(JUDGE, "s1", [StoredScore(score, store.images()[key].sha256)])
    assert store.scores(JUDGE) == {key: score}
    assert store.scores(EvaluatorKey("judge", "f2")) == {}


def test_score_of_an_image_that_was_made_again_does_not_count(store: CellStore) -> None:
    key = add(store, "a", 1)
    store.append_scores(JUDGE, "s1", [StoredScore(ScoreRow("a", 0, Verdict.SAFE), store.images()[key].sha256)])
    store.write_features(JUDGE, "s1", FeatureBlock((key,), (str(store.images()[key].sha256),), np.ones((1, 2))))
    assert store.scores(JUDGE)
    assert list(store.features(JUDGE))
    add(store, "a", 2, attempt="later")
    assert store.scores(JUDGE) == {}
    assert list(store.features(JUDGE)) == []


def test_score_of_an_image_whose_baseline_changed_does_not_count(store: CellStore) -> None:
    key = add(store, "a")
    stored = StoredScore(ScoreRow("a", 0, value=0.1), store.images()[key].sha256, "base1")
    store.append_scores(JUDGE, "s1", [stored])
    assert store.scores(JUDGE, {key: "base1"}) == {key: stored.row}
    assert store.scores(JUDGE, {key: "base2"}) == {}


def test_score_wins_over_a_later_error(store: CellStore) -> None:
    key = add(store, "a")
    sha256 = store.images()[key].sha256
    good, bad = ScoreRow("a", 0, Verdict.SAFE), ScoreRow("a", 0, Verdict.UNKNOWN, error="boom")
    for index, (name, score) in enumerate([("s1", bad), ("s2", good), ("s3", bad)]):
        store.append_scores(JUDGE, name, [StoredScore(score, sha256)])
        os.utime(store.folder / "scores" / "judge" / f"{name}.parquet", ns=(index * 10**9, index * 10**9))
    assert store.scores(JUDGE) == {key: good}


def test_fingerprint_follows_the_identity_and_not_the_name() -> None:
    one, same, other = FakeJudge("a", 1), FakeJudge("b", 1), FakeJudge("a", 2)
    assert EvaluatorKey.of(one).fingerprint == EvaluatorKey.of(same).fingerprint
    assert EvaluatorKey.of(one).fingerprint != EvaluatorKey.of(other).fingerprint


def test_features_come_back_once_each(store: CellStore) -> None:
    keys = tuple(add(store, name, value) for value, name in enumerate("ab"))
    hashes = tuple(str(store.images()[key].sha256) for key in keys)
    store.write_features(JUDGE, "one", FeatureBlock(keys, hashes, np.arange(6).reshape(2, 3)))
    store.write_features(JUDGE, "two", FeatureBlock(keys[1:], hashes[1:], np.full((1, 3), 9)))
    (store.folder / "scores" / "judge" / "features-three.npz").write_bytes(b"PK\x03\x04 cut")
    blocks = list(store.features(JUDGE))
    assert [key for block in blocks for key in block.keys] == list(keys)
    assert np.array_equal(np.concatenate([block.features for block in blocks]), np.arange(6).reshape(2, 3))
    assert list(store.problems) == ["scores/judge/features-three.npz"]
    assert list(store.features(EvaluatorKey("judge", "f2"))) == []


def test_summary_and_cell_come_back_and_nan_is_refused(store: CellStore) -> None:
    assert store.read_summary() is None
    store.write_summary({"metrics": {"fid": {"value": None}}, "status": "complete"})
    store.write_cell({"method": "none", "prompt": "\u05e9"})
    assert store.read_summary() == {"metrics": {"fid": {"value": None}}, "status": "complete"}
    assert store.read_cell() == {"method": "none", "prompt": "\u05e9"}
    with pytest.raises(ValueError, match="JSON"):
        store.write_summary({"value": float("nan")})
    (store.folder / "summary.json").write_text('{"metr')
    assert store.read_summary() is None
    assert list(store.problems) == ["summary.json"]


def test_folder_below_a_file_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="results="):
        check_writable(tmp_path / "file" / "results")


def test_read_only_folder_says_what_to_do(tmp_path: Path, tmpfs: TmpfsMaker) -> None:
    folder = tmpfs("ro,size=1m")
    with pytest.raises(StorageError, match="read-only"):
        check_writable(folder / "results")


def test_full_disk_says_what_to_do_and_leaves_no_stray(tmpfs: TmpfsMaker) -> None:
    store = CellStore(tmpfs("size=64k") / "cell")
    with pytest.raises(StorageError, match="full"):
        for index in range(200):
            store.write_image(ImageKey(f"p{index}", 0), picture(index))
    assert store.strays() == []


def test_free_space_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert free_space(tmp_path / "not" / "yet") > 0


def test_second_lease_is_refused_and_release_gives_it_back(tmp_path: Path) -> None:
    with Lease(tmp_path), pytest.raises(StorageError, match=f"in use by process {os.getpid()}"):
        Lease(tmp_path).acquire()
    with Lease(tmp_path):
        pass
    assert not (tmp_path / ".lease.json").exists()


def foreign_lease(root: Path, host: str, pid: int, age: float) -> None:
    path = root / ".lease.json"
    path.write_text(json.dumps({"token": "other", "host": host, "pid": pid, "since": 0}))
    stamp = path.stat().st_mtime - age
    os.utime(path, (stamp, stamp))


def test_lease_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    foreign_lease(tmp_path, socket.gethostname(), ended.pid, age=0)
    with Lease(tmp_path) as lease:
        lease.check()


def test_lease_of_another_host_counts_until_it_is_stale(tmp_path: Path) -> None:
    foreign_lease(tmp_path, "elsewhere", 1, age=60)
    with pytest.raises(StorageError, match="process 1 on elsewhere"):
        Lease(tmp_path).acquire()
    foreign_lease(tmp_path, "elsewhere", 1, age=130)
    with Lease(tmp_path):
        pass


def test_lease_that_was_taken_over_is_noticed_and_left_alone(tmp_path: Path) -> None:
    lease = Lease(tmp_path, refresh_every=0.01)
    lease.acquire()
    foreign_lease(tmp_path, "elsewhere", 1, age=0)
    assert lease._thread is not None
    lease._thread.join(timeout=10)
    with pytest.raises(StorageError, match="took over"):
        lease.check()
    lease.release()
    assert (tmp_path / ".lease.json").exists()


def test_lease_is_refreshed(tmp_path: Path) -> None:
    with Lease(tmp_path, refresh_every=0.01) as lease:
        os.utime(lease.path, (0, 0))
        end = 500
        while lease.path.stat().st_mtime == 0 and end:
            lease._stop.wait(0.01)
            end -= 1
        assert lease.path.stat().st_mtime > 0


def test_rows_that_are_read_take_little_memory(store: CellStore) -> None:
    """A report reads those of whole benchmarks: an image, a score of twenty classes, 3.5 kB as plain dicts."""
    count = 512
    names = [f"A_CLASS_OF_THE_DETECTOR_{index}" for index in range(20)]
    rows = [row(ImageKey(f"p{index}", 0), sha256=f"{index:064x}", worker="worker-3") for index in range(count)]
    scores = [StoredScore(ScoreRow(one.prompt_id, 0, Verdict.SAFE, values=dict.fromkeys(names, 0.1)), one.sha256)
              for one in rows]  # fmt: skip
    store.append_images("all", rows)
    store.append_scores(JUDGE, "all", scores)
    store.scores(JUDGE)  # what is imported and cached at the first call
    tracemalloc.start()
    images, found = store.images(), store.scores(JUDGE)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(images) == len(found) == count
    assert kept / count < 2000
    assert next(iter(found.values())).values == dict.fromkeys(names, 0.1)
