"""Artifacts outside of the run that made them: named on the command line, listed and shown."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import harness
from harness.__main__ import main
from harness.cli.artifacts import main as artifacts_main
from harness.models.text_encoder_identity import encoder_hash
from tests.run.test_run import QUICK, images
from tests.support.fixtures_models import random_config

PIPELINE = Path(harness.__file__).parent / "micro" / "weights" / "pipeline"
SAFEDIR = ["method=safedir", "method.training.trajectories=2", "method.training.batch=2", "method.training.steps=4",
           "limit=2", "baseline=null", "batch_size=2", "evaluators=[hazard_judge]"]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Return the results of a run that trained a direction."""
    results = tmp_path_factory.mktemp("trained")
    assert main([*QUICK, f"results={results}", *SAFEDIR]) == 0
    return results


def folder_of(results: Path) -> Path:
    (meta,) = results.glob("artifacts/safedir/*/meta.json")
    return meta.parent


def test_given_artifact_is_used_and_nothing_is_trained(trained, tmp_path):
    given = folder_of(trained)
    assert main([*QUICK, f"results={tmp_path}", *SAFEDIR, f"artifact={given}"]) == 0
    assert not list(tmp_path.glob("artifacts/safedir/*"))
    assert sorted(images(tmp_path).values()) == sorted(images(trained).values())
    (summary,) = tmp_path.glob("runs/*/*/*/*/summary.json")
    key = json.loads(summary.read_text())["training"]["safedir"]["hash"]
    assert key == f"given-{json.loads((given / 'meta.json').read_text())['sha256'][:16]}"


def refused(capsys, tmp_path: Path, *words: str) -> str:
    assert main([*QUICK, f"results={tmp_path / 'out'}", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    return error


def test_artifact_that_does_not_fit_is_refused_in_one_line(trained, tmp_path, capsys):
    given = folder_of(trained)
    error = refused(capsys, tmp_path, "method=sld_max", f"artifact={given}")
    assert "trained by safedir, which sld_max cannot use" in error
    assert "no complete artifact" in refused(capsys, tmp_path, *SAFEDIR, f"artifact={tmp_path / 'nowhere'}")
    meta = json.loads((given / "meta.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "artifact.safetensors").write_bytes((given / "artifact.safetensors").read_bytes())
    (other / "meta.json").write_text(json.dumps({**meta, "base": {**meta["base"], "weights": "0" * 64}}))
    error = refused(capsys, tmp_path, *SAFEDIR, f"artifact={other}")
    assert "trained on weights 000000000000, but model micro has" in error
    (other / "artifact.safetensors").write_bytes(b"cut")
    assert "no complete artifact" in refused(capsys, tmp_path, *SAFEDIR, f"artifact={other}")


def test_artifacts_are_exported_for_their_own_model_only(trained, tmp_path, capsys):
    export = ["--root", str(trained / "artifacts"), "export", folder_of(trained).name[:6]]
    assert artifacts_main([*export, str(tmp_path / "out")]) == 0
    files = capsys.readouterr().out.split()
    assert [Path(file).name for file in files] == ["safe_direction.safetensors", "how_to_use.txt"]
    assert all(Path(file).is_file() for file in files)
    source = f"model.source={random_config()['source']}"
    assert artifacts_main([*export, str(tmp_path / "other"), "model=micro", source]) == 2
    assert "of micro, and model micro has" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_export_takes_other_settings_than_those_of_the_first_use(trained, tmp_path, capsys):
    export = ["--root", str(trained / "artifacts"), "export", folder_of(trained).name[:6]]
    assert artifacts_main([*export, str(tmp_path / "out"), "method.strength=[0.25]", "method.start=20"]) == 0
    told = (tmp_path / "out" / "how_to_use.txt").read_text()
    assert "steps, start, end = 50, 20, None" in told and "strengths = [0.25]" in told
    assert artifacts_main([*export, str(tmp_path / "other"), "method.start=-1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def fine_tuned(folder: Path, part: str, file: str, values: float) -> str:
    """Return a copy of the embedded model in which every tensor of a part has been moved a little."""
    shutil.copytree(PIPELINE, folder)
    weights = folder / part / file
    moved = {name: value + values if value.is_floating_point() else value for name, value in load_file(weights).items()}
    save_file(moved, weights, metadata={"format": "pt"})
    return str(folder)


def test_a_direction_transfers_to_models_of_the_same_text_encoder_only(trained, tmp_path, capsys):
    given = [*SAFEDIR, f"artifact={folder_of(trained)}", "model=local", "model.dtype=float32",
             "model.size=64", "mode=plan"]
    local = ["method.training.prompts=null", "method.concept=skull"]
    unet = fine_tuned(tmp_path / "unet", "unet", "diffusion_pytorch_model.safetensors", 1e-3)
    text = fine_tuned(tmp_path / "text", "text_encoder", "model.safetensors", 1e-2)
    words = [*given, *local, f"results={tmp_path / 'out'}"]
    assert main([*QUICK, *words, f"model.path={unet}", "method.on_model=transfer"]) == 0
    capsys.readouterr()
    assert main([*QUICK, *words, f"model.path={unet}"]) == 2
    assert "was trained on weights" in capsys.readouterr().err
    assert main([*QUICK, *words, f"model.path={text}", "method.on_model=transfer"]) == 2
    error = capsys.readouterr().err
    assert "was trained with text encoder" in error and error.count("\n") == 1


def test_an_encoder_is_known_in_either_precision_and_under_older_names():
    weights = load_file(PIPELINE / "text_encoder" / "model.safetensors")
    stored = encoder_hash(weights.items())
    older = {f"text_model.{name.removeprefix('text_model.')}": value.float() for name, value in weights.items()}
    assert encoder_hash(older.items()) == stored
    assert encoder_hash({**weights, "embeddings.position_ids": torch.arange(77)}.items()) == stored
    name = next(iter(weights))
    assert encoder_hash({**weights, name: weights[name] + 1}.items()) != stored


def test_artifacts_are_listed_and_shown(trained, capsys):
    key = folder_of(trained).name
    root = ["--root", str(trained / "artifacts")]
    assert artifacts_main([*root, "list"]) == 0
    assert key in capsys.readouterr().out
    assert artifacts_main([*root, "show", key[:6]]) == 0
    shown = capsys.readouterr().out
    assert '"eta"' in shown and "b.0" in shown
    assert artifacts_main([*root, "show", "zz"]) == 2
    assert "no artifact below" in capsys.readouterr().err
