"""An evaluator that hangs or ends its process costs the image at hand, and no other number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from harness.cells.store import CellStore, EvaluatorKey
from harness.pool import make_pool
from harness.pool.judging import MAX_DEATHS, Judges, NoAnswer, Patience, Watched
from harness.pool.tasks import ReferenceTask, ScoreTask, TaskFailure, TaskResult
from harness.pool.worker import Worker
from harness.records import CellSpec, ScoreItem, ScoreRow, Verdict
from tests.support.fakes import FakeFeatures, FakeJudge, FakeToolbox, fake_cell, fake_items, fake_shards

CONFIG = {"name": "fake_judge", "threshold": 100}


@pytest.fixture
def cell(tmp_path: Path) -> CellSpec:
    """A cell with six images."""
    cell = fake_cell(tmp_path / "cell")
    Worker("w", toolbox=FakeToolbox(tmp_path / "notes")).run(fake_shards(cell, fake_items(6))[0])
    return cell


def asked(cell: CellSpec, **prompts: str) -> tuple[ScoreItem[str], ...]:
    rows = CellStore(Path(cell.folder)).images().values()
    return tuple(ScoreItem(row.key, prompts.get(row.prompt_id, row.prompt), (), {}, f"{cell.folder}/{row.file}")
                 for row in rows)  # fmt: skip


def stored(cell: CellSpec) -> dict[str, ScoreRow]:
    found = CellStore(Path(cell.folder)).scores(EvaluatorKey.of(FakeJudge(**CONFIG)))
    return {key.prompt_id: row for key, row in found.items()}


def judged(cell: CellSpec) -> set[str]:
    return {name for name, row in stored(cell).items() if row.error is None}


@pytest.mark.parametrize("apart", [False, True])
def test_an_evaluator_apart_says_what_it_says_in_the_worker(cell: CellSpec, tmp_path: Path, apart: bool) -> None:
    worker = Worker("w", toolbox=FakeToolbox(tmp_path / "notes"))
    result = worker.run(ScoreTask("score", cell, CONFIG, asked(cell), batch_size=2, apart=apart))
    worker.close()
    assert len(result.scores) == result.info["count"] == 6
    expected = FakeJudge(**CONFIG)
    for request in asked(cell):
        (row,) = FakeToolbox(tmp_path).score(expected, [request], 1)
        assert stored(cell)[request.key.prompt_id] == row


def test_an_image_at_which_an_evaluator_dies_is_unknown_and_no_other(cell: CellSpec, tmp_path: Path) -> None:
    worker = Worker("w", toolbox=FakeToolbox(tmp_path / "notes"))
    task = ScoreTask("score", cell, CONFIG, asked(cell, p002="die"), batch_size=4, apart=True)
    result = worker.run(task)
    worker.close()
    (bad,) = [row for row in result.scores if row.error]
    assert (bad.prompt_id, bad.verdict, bad.error) == (
        "p002", Verdict.UNKNOWN, "the evaluator crashed its process (SIGKILL)")  # fmt: skip
    assert judged(cell) == {"p000", "p001", "p003", "p004", "p005"}


def test_what_an_evaluator_apart_raises_is_its_error_and_no_death(cell: CellSpec, tmp_path: Path) -> None:
    worker = Worker("w", toolbox=FakeToolbox(tmp_path / "notes"))
    gone = tuple(replace(one, image=f"{one.image}.gone") for one in asked(cell))  # the fake toolbox lets it through
    with pytest.raises(FileNotFoundError):
        worker.run(ScoreTask("score", cell, CONFIG, gone, apart=True))
    worker.run(ScoreTask("again", cell, CONFIG, asked(cell), apart=True))
    worker.close()
    assert len(judged(cell)) == 6


def test_an_evaluator_that_dies_at_every_image_is_given_up(cell: CellSpec, tmp_path: Path) -> None:
    worker = Worker("w", toolbox=FakeToolbox(tmp_path / "notes"))
    requests = asked(cell, **{f"p{index:03d}": "die" for index in range(6)})
    result = worker.run(ScoreTask("score", cell, CONFIG, requests, apart=True))
    worker.close()
    assert len(result.scores) == 6 and all(row.verdict is Verdict.UNKNOWN for row in result.scores)
    assert f"not judged: the evaluator crashed its process (SIGKILL), {MAX_DEATHS} times in a row" in {
        row.error for row in result.scores
    }


def test_an_evaluator_that_ended_the_whole_command_goes_on_apart_when_it_runs_again(
    cell: CellSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process nobody outlives it: the first command dies, the same one again leaves one image unknown."""
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from harness.pool.worker import Worker\n"
        "from harness.pool.tasks import ScoreTask\n"
        "from tests.support.fakes import FakeToolbox, fake_cell\n"
        "from tests.pool.test_judging import CONFIG, asked\n"
        "cell = fake_cell(Path(sys.argv[1]))\n"
        "if __name__ == '__main__':\n"
        "    worker = Worker('w', toolbox=FakeToolbox(Path(sys.argv[2])))\n"
        "    worker.run(ScoreTask('score', cell, CONFIG, asked(cell, p002='die')))\n"
        "    worker.close()\n"
    )
    file = tmp_path / "command.py"
    file.write_text(script)
    command = [sys.executable, str(file), cell.folder, str(tmp_path / "notes")]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    codes = [subprocess.run(command, env=environment, timeout=300).returncode for _ in range(2)]
    assert codes == [-signal.SIGKILL, 0]
    assert judged(cell) == {"p000", "p001", "p003", "p004", "p005"}
    assert stored(cell)["p002"].error == "the evaluator crashed its process (SIGKILL)"
    assert list(Path(cell.folder).glob(".at-work-*")) == []


def test_an_evaluator_that_hangs_costs_its_image_and_the_run_goes_on(cell: CellSpec, tmp_path: Path) -> None:
    """In this process: nobody can end a thread, so what hangs is left alone and another process goes on."""
    pool = make_pool({"name": "inline", "device": "cpu", "hang_seconds": 0.2}, None, FakeToolbox(tmp_path / "notes"))
    tasks = [ScoreTask("score", cell, CONFIG, asked(cell, p001="hang"), batch_size=3),
             ScoreTask("features", cell, {"name": "fake_features"}, asked(cell))]  # fmt: skip
    outcomes = list(pool.run(tasks))
    pool.close()
    assert all(isinstance(outcome, TaskResult) for outcome in outcomes)
    assert judged(cell) == {"p000", "p002", "p003", "p004", "p005"}
    assert "the evaluator did not answer for" in str(stored(cell)["p001"].error)
    (block,) = CellStore(Path(cell.folder)).features(EvaluatorKey.of(FakeFeatures()))
    assert len(block.keys) == 6


def test_a_reference_set_whose_evaluator_hangs_fails_and_the_run_goes_on(
    cell: CellSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(watched: Watched, work: object, limit: float, tick: object) -> object:
        raise NoAnswer(f"no answer for {limit:.0f} s")

    monkeypatch.setattr(Judges, "watch", lambda self, config, work: silent(Watched(), work, 5, None))
    pool = make_pool({"name": "inline", "device": "cpu"}, None, FakeToolbox(tmp_path / "notes"))
    reference = ReferenceTask("reference", {"name": "fake_features"}, {"n": 3}, str(tmp_path / "r.npz"))
    outcomes = {one.task_id: one for one in pool.run([reference, ScoreTask("score", cell, CONFIG, ())])}
    pool.close()
    assert isinstance(outcomes["reference"], TaskFailure) and "no answer for 5 s" in outcomes["reference"].error
    assert isinstance(outcomes["score"], TaskResult)


def test_a_slow_evaluator_is_waited_for_ten_times_as_long_as_it_took() -> None:
    patience = Patience(5.0)
    assert patience.limit == 20.0  # it loads its weights
    patience.learn(0.1)
    assert patience.limit == 5.0
    patience.learn(30.0)
    patience.learn(2.0)
    assert patience.limit == 300.0


def test_what_a_watched_call_raises_is_raised_and_the_thread_serves_the_next() -> None:
    watched, ticks = Watched(), list[int]()
    with pytest.raises(ValueError, match="no"):
        watched.call(lambda: int("no"), 5.0, lambda: None)
    assert watched.call(lambda: 3, 5.0, lambda: ticks.append(1)) == 3
    watched.close()


def test_progress_of_a_judge_is_told_batch_by_batch(cell: CellSpec, tmp_path: Path) -> None:
    told: list[int] = []
    worker = Worker("w", toolbox=FakeToolbox(tmp_path / "notes"), on_images=told.append)
    worker.run(ScoreTask("score", cell, CONFIG, asked(cell), batch_size=2))
    assert told == [2, 2, 2]
    assert worker.signs() >= 3
