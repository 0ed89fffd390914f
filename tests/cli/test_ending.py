"""SIGTERM ends a command as Ctrl-C does, from its first line to its last: the way to go on, exit code 130, no lease."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import harness.cli.artifacts
import harness.cli.calibrate
import harness.cli.convert
import harness.cli.label
import harness.cli.leaderboard
import harness.cli.licences
import harness.cli.prefetch
import harness.cli.score
import harness.cli.submit
import harness.cli.verify
import harness.cli.wandb
import harness.lib.ending as ending
import harness.run
from harness.__main__ import main
from harness.lib.lease import Lease
from harness.pool import Lost
from tests.run.test_run import QUICK

SIGNALS = [signal.SIGINT, signal.SIGTERM]


def sends(number: signal.Signals) -> Callable[..., None]:
    """Return a function that stands in for a stage and is interrupted there."""

    def stage(*arguments: object, **named: object) -> None:
        os.kill(os.getpid(), number)
        raise AssertionError("the signal did nothing")

    return stage


def words(results: Path) -> list[str]:
    return [*QUICK, f"results={results}", "method=none", "limit=1", "batch_size=1", "evaluators=[]", "leaderboard=true"]


STAGES = {
    "composing": ("harness.cli.compose.Composer.jobs", 0),
    "planning": ("harness.run.make_plan", 0),
    "opening the tracker": ("harness.run.make_tracker", 0),
    "reporting": ("harness.report.write.read_scores", 1),
    "the board": ("harness.report.leaderboard.write_leaderboard", 1),
    "saying failures": ("harness.run._say_failures", 1),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("made")
    assert main(words(results)) == 0
    return results


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("stage", STAGES)
def test_signal_in_every_stage_ends_with_the_words_to_go_on(
    made: Path, stage: str, number: signal.Signals, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)
    monkeypatch.setattr(STAGES[stage][0], sends(number))
    assert main(words(made)) == 130
    said = capsys.readouterr().out
    assert "stopped; finished work is kept. To resume, run the same command again:" in said
    assert shlex.join(["python", "-m", "harness", *words(made)]) in said
    assert not (made / ".lease.json").exists()
    assert signal.getsignal(number) is before


COMMANDS = {
    "score": (harness.cli.score.main, "harness.cli.score._score", ["runs/x"]),
    "leaderboard": (harness.cli.leaderboard.main, "harness.cli.leaderboard.write_leaderboard", ["results"]),
    "calibrate": (harness.cli.calibrate.main, "harness.cli.calibrate.calibrate", ["evaluator=q16", "data=x"]),
    "prefetch": (harness.cli.prefetch.main, "harness.cli.prefetch.prefetch", ["model=micro"]),
    "artifacts": (harness.cli.artifacts.main, "harness.cli.artifacts.run", ["list"]),
    "licences": (harness.cli.licences.main, "harness.cli.licences.weight_licences", ["nudenet"]),
    "verify": (harness.cli.verify.main, "harness.cli.verify._checked", ["runs/x"]),
    "submit": (harness.cli.submit.main, "harness.cli.submit._submit", ["runs/x"]),
    "wandb": (harness.cli.wandb.main, "harness.cli.wandb._push", ["push", "results", "mode=offline"]),
    "convert": (harness.cli.convert.main, "harness.cli.convert._run", ["a.pt", "b.safetensors"]),
    "label": (harness.cli.label.main, "harness.cli.label._label", ["model=micro"]),
}


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("name", COMMANDS)
def test_signal_ends_every_command_with_its_own_words(
    name: str, number: signal.Signals, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command, stage, arguments = COMMANDS[name]
    monkeypatch.setattr(stage, sends(number))
    assert command(arguments) == 130
    said = capsys.readouterr().err
    assert said.startswith("stopped; ")
    assert shlex.join(["python", "-m", "harness", name, *arguments]) in said


def test_second_signal_ends_at_once_and_holds_no_folder(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys, threading\n"
        "from pathlib import Path\n"
        "from harness.lib.ending import stoppable\n"
        "from harness.lib.lease import Lease\n"
        "with stoppable(['python', 'x']), Lease(Path(sys.argv[1])):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        threading.Event().wait()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 130
    assert "Stopped at once. Finished work is kept. To resume, run the same command again:\n  python x" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_words_of_a_command_are_its_own_only_while_it_runs() -> None:
    with ending.stoppable(["python", "outer"]):
        with ending.stoppable(["python", "inner one"]):
            assert ending.resume_words().endswith("python 'inner one'")
        assert ending.resume_words().endswith("python outer")
    assert ending.resume_words().endswith("again.")


def test_a_run_whose_ray_has_died_says_so_and_how_to_go_on(
    made: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: object) -> None:
        raise Lost("Ray has died: the head (GCS) at 10.0.0.1:6379 does not answer any more.")

    monkeypatch.setattr("harness.run._carry_out", lost)
    assert main(words(made)) == 2
    said = capsys.readouterr().out
    assert "Ray has died: the head (GCS) at 10.0.0.1:6379 does not answer any more; finished work is kept." in said
    assert shlex.join(["python", "-m", "harness", *words(made)]) in said
    assert not (made / ".lease.json").exists()


def test_a_command_that_is_refused_a_folder_leaves_the_lease_of_the_other_one(tmp_path: Path) -> None:
    with Lease(tmp_path) as lease:
        assert main(words(tmp_path)) == 2
        assert lease.path.exists()
