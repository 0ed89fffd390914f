"""Commands, modules and names from before the harness had rooms are found."""

from __future__ import annotations

import importlib.util
import runpy
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from harness.lib.old_names import COMMANDS, MODULES


@pytest.mark.parametrize("former", sorted(MODULES))
def test_a_former_module_has_the_public_names_of_what_took_its_place(former):
    module = import_module(former)
    for place in MODULES[former]:
        present = import_module(place)
        for name in (name for name in vars(present) if not name.startswith("_")):
            assert hasattr(module, name), f"{former}.{name}"


@pytest.mark.parametrize(("former", "names"), [
    ("harness.compose", "compose_jobs Job"), ("harness.settings", "check_number RunSettings BenchSettings"),
    ("harness.models", "LoadedModel load_model missing weights_fingerprint make_scheduler"),
    ("harness.training", "read_prompts derived_seed frozen_denoiser"), ("harness.families.base", "Family DenoiserCall"),
    ("harness.families", "Plugin family_of"), ("harness.interruption", "LoopMemory"),
    ("harness.cell", "make_cell Cell"),
    ("harness.tasks", "CellSpec GenerationSettings ScoreRequest GenerateTask"), ("harness.bench", "load_prompts"),
    ("harness.reporting", "summarise Scored report"), ("harness.leaderboard", "main write_leaderboard Selection"),
    ("harness.features", "EvaluatorKey evaluator_fingerprint FeatureBlock"), ("harness.generate", "attached"),
    ("harness.files", "user_path write_atomic"), ("harness.store", "CellStore"), ("harness.build", "build locate"),
    ("harness.embedding_direction", "SafeDirTraining in_window"), ("harness.inversion", "TokenTrainer TokenTraining"),
    ("harness.training.feedback", "read_feedback"), ("harness.latent_direction", "LatentDirectionTrainer"),
    ("harness.soft_token", "soft_tokens frozen_text_encoder"), ("harness.training.own_images", "own_images Wish"),
    ("harness.denoiser", "DenoiserHook to_epsilon predict_epsilon"), ("harness.progress", "Board duration size"),
])  # fmt: skip
def test_what_others_import_by_former_names_is_there(former, names):
    module = import_module(former)
    assert [name for name in names.split() if not hasattr(module, name)] == []


def test_a_former_class_is_the_present_one():
    assert import_module("harness.families").Plugin is import_module("harness.models.families").Plugin
    assert import_module("harness.models").LoadedModel is import_module("harness.models.loaded").LoadedModel


@pytest.mark.filterwarnings("ignore:.* found in sys.modules")
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_command_runs_under_its_former_name(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as end:
        runpy.run_module(command, run_name="__main__")
    assert end.value.code in (0, None) and command.replace(".", " ") in capsys.readouterr().out


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_process_of_a_former_command_has_a_program_name(command):
    """Libraries that it imports look at sys.argv[0]."""
    origin = importlib.util.find_spec(command).origin
    assert origin and Path(origin).name == f"{command.rpartition('.')[2]}.py" and Path(origin).is_file()


def test_a_former_command_answers_in_a_process_of_its_own(tmp_path):
    done = subprocess.run([sys.executable, "-m", "harness.score", str(tmp_path / "nowhere"), "evaluator=hazard_judge"],
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("name", ["harness.no_such_module", "harness.lib.no_such_module"])
def test_a_name_that_never_was_is_not_found(name):
    with pytest.raises(ModuleNotFoundError):
        import_module(name)


@pytest.mark.parametrize("room", ["harness.models", "harness.training"])
def test_a_room_has_no_name_that_it_never_had(room):
    assert not hasattr(import_module(room), "no_such_name")
