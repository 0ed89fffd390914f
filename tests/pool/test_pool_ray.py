"""What only a pool on Ray promises: workers that die, hang, join late or do not fit, clusters that are not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.cells.store import CellStore, EvaluatorKey
from harness.errors import IncompatibleError, MissingResourceError, StorageError
from harness.pool import Interrupted, Pool
from harness.pool.tasks import PrepareTask, ScoreTask, TaskFailure, TaskResult
from harness.records import ScoreItem, Status
from tests.support.fakes import (
    FakeJudge,
    fake_cell,
    fake_items,
    fake_shards,
    image_bytes,
    wait_for,
    wait_until,
)
from tests.support.pool_common import MakePool, at_gate

pytest_plugins = ["tests.support.pool_fixtures"]


@pytest.mark.ray
def test_killed_worker_costs_no_image_and_changes_no_byte(
    make: MakePool, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    cell = fake_cell(tmp_path / "cell")
    outcomes = list(make("ray").run(fake_shards(cell, fake_items(20, {13: "kill-once"}), 8)))
    assert all(isinstance(outcome, TaskResult) for outcome in outcomes)
    assert (tmp_path / "notes" / "killed").exists()
    assert len(CellStore(tmp_path / "cell").done()) == 20
    assert image_bytes(tmp_path / "cell") == expected


@pytest.mark.ray
def test_prompt_that_kills_its_worker_is_an_error_row(
    make: MakePool, tmp_path: Path, expected: dict[str, bytes]
) -> None:
    cell = fake_cell(tmp_path / "cell")
    shards = fake_shards(cell, fake_items(20, {2: "kill"}), 8)
    outcomes = {outcome.task_id: outcome for outcome in make("ray", attempts=1).run(shards)}
    assert set(outcomes) == {shard.task_id for shard in shards}
    result = outcomes[shards[0].task_id]
    assert isinstance(result, TaskResult)
    assert len(result.images) == 8
    (bad,) = [row for row in result.images if row.status is Status.ERROR]
    assert (bad.prompt_id, "ActorDiedError" in str(bad.error)) == ("p002", True)
    assert CellStore(tmp_path / "cell").images()[bad.key] == bad
    del expected["p002_00.png"]
    assert image_bytes(tmp_path / "cell") == expected


@pytest.mark.ray
def test_hung_worker_is_replaced(make: MakePool, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    pool = make("ray", workers=1, hang_seconds=0.5, attempts=1)
    shards = fake_shards(fake_cell(tmp_path / "cell"), fake_items(1, {0: "gate"}))
    (result,) = pool.run(shards)
    assert isinstance(result, TaskResult)
    assert "no progress for" in str(result.images[0].error)
    assert (notes / "reached").exists()


@pytest.mark.ray
def test_hung_training_is_noticed(make: MakePool, tmp_path: Path) -> None:
    pool = make("ray", workers=1, hang_seconds=0.3, attempts=1)
    (outcome,) = pool.run([PrepareTask("train", fake_cell(tmp_path / "cell", "gate"))])
    assert isinstance(outcome, TaskFailure)
    assert "no progress for" in outcome.error


@pytest.mark.ray
def test_stopped_worker_is_not_waited_for_when_the_pool_stops(make: MakePool, tmp_path: Path) -> None:
    """Nor does its process stay: a stopped one does not do what Ray asks of it."""
    pool, stopped = make("ray", workers=1, hang_seconds=1.0), list[int]()

    def freeze() -> None:
        stopped.extend(int(worker["pid"]) for worker in pool.workers())
        os.kill(stopped[0], signal.SIGSTOP)

    thread = at_gate(tmp_path / "notes", freeze, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        list(pool.run(fake_shards(fake_cell(tmp_path / "cell"), fake_items(8, {1: "gate"}))))
    thread.join()
    wait_until(lambda: is_gone(stopped[0]), 60)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.ray
def test_evaluator_that_kills_its_worker_costs_its_image_and_no_worker(make: MakePool, tmp_path: Path) -> None:
    pool, cell = make("ray", workers=1), fake_cell(tmp_path / "cell")
    list(pool.run(fake_shards(cell, fake_items(8))))
    rows = CellStore(tmp_path / "cell").images().values()
    asked = tuple(ScoreItem(row.key, "die" if row.prompt_id == "p002" else "", (), {}, f"{cell.folder}/{row.file}")
                  for row in rows)  # fmt: skip
    judge = {"name": "fake_judge", "threshold": 9}
    outcomes = list(pool.run([ScoreTask("one", cell, judge, asked), ScoreTask("two", cell, judge, asked[4:])]))
    assert [type(outcome) for outcome in outcomes] == [TaskResult, TaskResult]
    found = CellStore(tmp_path / "cell").scores(EvaluatorKey.of(FakeJudge(threshold=9)))
    assert {key.prompt_id: row.error for key, row in found.items() if row.error} == {
        "p002": "the evaluator crashed its process (SIGKILL)"
    }
    assert len(found) == 8
    assert len(pool.workers()) == 1


@pytest.mark.ray
def test_node_that_joins_late_and_cannot_work_is_left_out(
    make: MakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes]
) -> None:
    import harness.pool.ray as ray_pool

    pool = make("ray", workers=2)
    welcome, met = ray_pool.RayPool._welcome, list[str]()

    def welcome_the_first(self: Pool, member: object, greeting: dict[str, object]) -> None:
        met.append(str(greeting["name"]))
        if len(met) > 1:
            raise IncompatibleError("the worker on node-7 has torch 0.1 (here 2.9).")
        welcome(self, member, greeting)

    monkeypatch.setattr("harness.pool.cluster.alive_nodes", set)
    monkeypatch.setattr(ray_pool.RayPool, "_welcome", welcome_the_first)
    cell, notes = fake_cell(tmp_path / "cell"), tmp_path / "notes"
    thread = at_gate(notes, lambda: wait_until(lambda: len(met) > 1), (notes / "open").touch)
    assert all(isinstance(one, TaskResult) for one in pool.run(fake_shards(cell, fake_items(20, {0: "gate"}), 4)))
    thread.join()
    assert [worker["name"] for worker in pool.workers()] == met[:1]
    assert image_bytes(tmp_path / "cell") == expected


@pytest.mark.ray
def test_worker_that_cannot_be_placed_is_said_with_what_there_is(make: MakePool, tmp_path: Path) -> None:
    pool = make("ray", workers=1, threads=64, start_timeout_seconds=0.5)
    with pytest.raises(MissingResourceError, match=r"one needs 64 CPU; the cluster has 4 CPU and 0 GPU, of which"):
        list(pool.run(fake_shards(fake_cell(tmp_path / "cell"), fake_items(1))))


@pytest.mark.ray
def test_missing_gpu_is_said(make: MakePool, tmp_path: Path) -> None:
    pool = make("ray", workers=1, device="cuda", judges=0, start_timeout_seconds=0.5)
    with pytest.raises(MissingResourceError, match="one needs 1 CPU, 1 GPU; the cluster has 4 CPU and 0 GPU"):
        list(pool.run(fake_shards(fake_cell(tmp_path / "cell"), fake_items(1))))


@pytest.mark.ray
def test_worker_joins_when_capacity_appears(make: MakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import harness.pool.ray as ray_pool

    monkeypatch.setattr(ray_pool, "SCALE_SECONDS", 0.1)
    notes, capacity = tmp_path / "notes", [1]
    pool = make("ray")
    monkeypatch.setattr(pool._actors, "slots", lambda: capacity[0])
    tasks = fake_shards(fake_cell(tmp_path / "cell"), fake_items(12, {0: "gate"}), 4)
    names = set()

    def grow() -> None:
        wait_for(notes / "reached")
        capacity[0] = 2

    thread = threading.Thread(target=grow)
    thread.start()
    for outcome in pool.run(tasks):
        assert isinstance(outcome, TaskResult)
        names.add(outcome.worker)
        if "worker-1" in names:
            (notes / "open").touch()
    thread.join()
    assert names == {"worker-0", "worker-1"}


@pytest.mark.ray
def test_token_reaches_the_workers_and_no_log_file(
    make: MakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    secret = "hf_not-a-real-token-0123456789"
    monkeypatch.setenv("HF_TOKEN", secret)
    list(make("ray", workers=1).run(fake_shards(fake_cell(tmp_path / "cell"), fake_items(1))))
    assert (tmp_path / "notes" / "token").read_text() == secret
    logs = Path(ray._private.worker.global_worker.node.get_logs_dir_path())
    files = [path for path in logs.rglob("*") if path.is_file()]
    assert files
    assert [path.name for path in files if secret.encode() in path.read_bytes()] == []


@pytest.mark.ray
def test_worker_of_other_versions_is_refused(make: MakePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import harness.pool.ray as ray_pool

    monkeypatch.setattr(ray_pool, "versions", lambda: {"torch": "0.1"})
    with pytest.raises(IncompatibleError, match=r"has torch .* \(here 0\.1\)"):
        list(make("ray").run(fake_shards(fake_cell(tmp_path / "cell"), fake_items(1))))


@pytest.mark.ray
def test_results_folder_that_is_not_shared_is_refused(make: MakePool, tmp_path: Path) -> None:
    from harness.pool.cluster import check_shared

    with pytest.raises(StorageError, match=r"node-7 writes to .* are not visible here"):
        check_shared(tmp_path / ".probe-1", "node-7")


@pytest.mark.ray  # no Ray is started, but Ray's files are read
def test_what_a_failed_start_of_ray_left_is_ended_before_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.pool import cluster

    left: list[subprocess.Popen[bytes]] = []
    ended: list[bool] = []

    def init(**settings: object) -> None:
        ended.extend(process.poll() is not None for process in left)
        if not left:
            left.append(subprocess.Popen(["sleep", "600"]))
            raise Exception("The current node timed out during startup.")

    monkeypatch.setattr(cluster, "_local", [])
    monkeypatch.setattr(cluster.ray, "init", init)
    cluster.start_local(1, 80)
    cluster.end(is_lost=True)
    assert ended == [True]


@pytest.mark.ray
def test_cluster_that_is_not_there_is_said(tmp_path: Path) -> None:
    script = (
        "from harness.pool import make_pool\n"
        "from harness.pool.tasks import PrepareTask\n"
        "from tests.support.fakes import fake_cell\n"
        "from pathlib import Path\n"
        "list(make_pool({'address': '127.0.0.1:1'}).run([PrepareTask('t', fake_cell(Path('.')))]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert "cannot connect to a Ray cluster at 127.0.0.1:1" in done.stderr
    assert "ray start --head" in done.stderr


@pytest.mark.ray  # no Ray is started, but Ray's files are read
@pytest.mark.parametrize("code", ["UNAUTHENTICATED", "UNIMPLEMENTED"])
def test_cluster_that_asks_for_a_token_is_told_from_one_that_is_not_there(
    code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray only says that it could not connect."""
    from concurrent.futures import ThreadPoolExecutor

    import grpc

    from harness.pool import cluster

    class Refuse(grpc.GenericRpcHandler):
        def service(self, details: object) -> object:
            return grpc.unary_unary_rpc_method_handler(
                lambda request, context: context.abort(getattr(grpc.StatusCode, code), "no")
            )

    def fail(**settings: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster")

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Refuse()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setattr(cluster.ray, "init", fail)
    with pytest.raises(MissingResourceError) as told:
        cluster.join(f"127.0.0.1:{port}", False)
    server.stop(None)
    assert ("RAY_AUTH_MODE=token" in str(told.value)) == (code == "UNAUTHENTICATED")
    assert "ray start --head" in str(told.value) or code == "UNAUTHENTICATED"


def test_driver_of_a_ray_pool_loads_neither_torch_nor_diffusers() -> None:
    script = (
        "import sys, harness.run, harness.pool.ray\n"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.split("\n")[0] == "[]"
