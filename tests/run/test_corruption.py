"""A finished results folder with one file damaged: every command goes on, or ends in words; none in a traceback."""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import __main__
from harness.cli import artifacts as artifact_tool
from harness.cli import calibrate, leaderboard, score
from harness.lib.lease import InUseError, Lease
from tests.conftest import FINISHED

KINDS = {
    "summary": "runs/*/uce/*/*/summary.json",
    "provenance": "runs/*/uce/*/*/provenance.json",
    "cell": "runs/*/uce/*/*/cell.yaml",
    "rows": "runs/*/uce/*/*/rows/*.parquet",
    "scores": "runs/*/uce/*/*/scores/hazard_judge/*.parquet",
    "features": "runs/*/uce/*/*/scores/*/features-*.npz",
    "verdicts": "runs/*/uce/*/*/verdicts.parquet",
    "set_metrics": "runs/*/uce/*/*/set_metrics.json",
    "image": "runs/*/uce/*/*/images/*/*.png",
    "references": "artifacts/references/*.npz",
    "meta": "artifacts/uce/*/meta.json",
    "tensors": "artifacts/uce/*/artifact.safetensors",
    "throughput": "throughput.json",
    "calibration": "calibrations/*/*.yaml",
    "leaderboard": "leaderboard.json",
}
TEXTS = ("summary", "provenance", "cell", "set_metrics", "meta", "throughput", "calibration")


def flipped(data: bytes) -> bytes:
    draw, changed = random.Random(len(data)), bytearray(data)
    for _ in range(3):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "torn": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "flipped": flipped,
    "noise": lambda data: random.Random(1).randbytes(len(data)),
}
TEXT_DAMAGE = {
    "list": b"[1, 2]", "scalar": b"5", "null": b"null", "text": b'"text"', "other": b'{"a": 1, "schema": 1}',
    "deep": b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}", "digits": b'{"a": ' + b"9" * 6000 + b"}",
    "not utf-8": b"\xff\xfe{}",
    "lists inside": b'{"schema": 1, "cell": [], "metrics": [], "training": [], "images": 1}',
    "not a number": b'{"micro|uce|2|64|16": "fast", "micro|none|2|64|16": NaN, "x": 1e999, "y": -1, "z": true}',
    "surrogate": b'{"schema": 1, "cell": {"id": "\\ud800"}}',
}


LEASES = {"list": b"[1]", "deep": b"[" * 3000, "bytes": b"\xff\xfe", "text": b'{"pid": "x", "token": 5}',
          "pid": json.dumps({"pid": 10**23, "host": socket.gethostname()}).encode()}


@pytest.mark.parametrize("content", LEASES.values(), ids=list(LEASES))
def test_a_lease_of_no_sense_is_refused_in_words_and_taken_over_when_it_is_old(tmp_path: Path, content: bytes) -> None:
    lease = tmp_path / ".lease.json"
    lease.write_bytes(content)
    with pytest.raises(InUseError, match="is in use by process") as error:
        Lease(tmp_path).acquire()
    assert "\n" not in str(error.value)
    os.utime(lease, (0, 0))
    with Lease(tmp_path):
        assert json.loads(lease.read_text())["pid"] == os.getpid()


def commands(results: Path) -> list[tuple[Callable[[list[str]], int], list[str]]]:
    run = next(iter(sorted(results.glob("runs/*/uce/*/*"))))
    words = ["evaluator=hazard_judge", f"data={results.parent / 'labelled'}", f"results={results}"]
    return [
        (leaderboard.main, [str(results)]),
        (score.main, [str(run), "evaluator=degenerate", "pool=inline"]),
        (artifact_tool.main, ["--root", str(results / "artifacts"), "list"]),
        (artifact_tool.main, ["--root", str(results / "artifacts"), "show", ""]),
        (__main__.main, [*FINISHED, f"results={results}"]),
        (leaderboard.main, [str(results)]),
        (calibrate.main, words),
    ]


def check(results: Path, capsys: pytest.CaptureFixture[str], mends: bool) -> None:
    """Run every command. `mends`: the run makes whole again what was damaged, and then the board has every cell."""
    for main, words in commands(results):
        code = main(words)
        said = capsys.readouterr()
        assert code == 0 if mends and main is __main__.main else code in (0, 1, 2), (words, said)
        assert code == 0 or said.err.strip() or "failed" in said.out or "incomplete" in said.out, (words, said)
        assert "Traceback" not in said.err
    if mends:
        board = json.loads((results / "leaderboard.json").read_text())
        assert {run["method"]: run["status"].split(" (")[0] for run in board["runs"]} == {
            "none": "complete", "uce": "complete"}


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished.parent, tmp_path / "copy")
    return tmp_path / "copy" / "results"


CASES = [(kind, name) for kind in KINDS for name in DAMAGE] + [(kind, name) for kind in TEXTS for name in TEXT_DAMAGE]
# By default each kind of file once, each damage in turn; and text that is no mapping where most is read from it.
SAMPLE = [(kind, [*DAMAGE][turn % len(DAMAGE)]) for turn, kind in enumerate(KINDS)]
SAMPLE += [(kind, [*TEXT_DAMAGE][turn]) for turn, kind in enumerate(("summary", "cell"))]


@pytest.mark.parametrize(("kind", "name"), [
    pytest.param(*case, marks=() if case in SAMPLE else pytest.mark.slow, id="-".join(case)) for case in CASES])
def test_no_damaged_file_ends_a_command_in_a_traceback(copied: Path, kind: str, name: str, capsys) -> None:
    file = next(iter(sorted(copied.glob(KINDS[kind]))))
    file.write_bytes(TEXT_DAMAGE[name] if name in TEXT_DAMAGE else DAMAGE[name](file.read_bytes()))
    check(copied, capsys, mends=True)


@pytest.mark.parametrize("kind", [
    pytest.param(kind, marks=() if kind in ("throughput", "references") else pytest.mark.slow) for kind in KINDS])
def test_a_folder_in_the_place_of_a_file_is_one_line(copied: Path, kind: str, capsys) -> None:
    file = next(iter(sorted(copied.glob(KINDS[kind]))))
    file.unlink()
    file.mkdir()
    check(copied, capsys, mends=False)
