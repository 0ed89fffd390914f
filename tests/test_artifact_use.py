"""Artifacts outside of the run that made them: named on the command line, listed and shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.artifacts import main as artifacts_main
from tests.fixtures_models import random_config
from tests.test_run import QUICK, images

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
    assert "made by safedir, which sld_max does not use" in error
    assert "no whole artifact" in refused(capsys, tmp_path, *SAFEDIR, f"artifact={tmp_path / 'nowhere'}")
    meta = json.loads((given / "meta.json").read_text())
    other = tmp_path / "other"
    other.mkdir()
    (other / "artifact.safetensors").write_bytes((given / "artifact.safetensors").read_bytes())
    (other / "meta.json").write_text(json.dumps({**meta, "base": {**meta["base"], "weights": "0" * 64}}))
    error = refused(capsys, tmp_path, *SAFEDIR, f"artifact={other}")
    assert "made for weights 000000000000, and model micro has" in error
    (other / "artifact.safetensors").write_bytes(b"cut")
    assert "no whole artifact" in refused(capsys, tmp_path, *SAFEDIR, f"artifact={other}")


def test_artifacts_are_exported_for_their_own_model_only(trained, tmp_path, capsys):
    export = ["--root", str(trained / "artifacts"), "export", folder_of(trained).name[:6]]
    assert artifacts_main([*export, str(tmp_path / "out")]) == 0
    files = capsys.readouterr().out.split()
    assert [Path(file).name for file in files] == ["safe_direction.safetensors", "how_to_use.txt"]
    assert all(Path(file).is_file() for file in files)
    source = f"model.source={random_config()['source']}"
    assert artifacts_main([*export, str(tmp_path / "other"), "model=micro", source]) == 2
    assert "of micro, and model micro has" in capsys.readouterr().err and not (tmp_path / "other").exists()


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
