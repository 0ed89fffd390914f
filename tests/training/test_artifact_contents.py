"""Artifacts that are sound files with wrong contents: made again where a run makes them, and said; else one line."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import HarnessError
from harness.method import Method, Trained
from harness.sampling.session import attached
from harness.training.artifacts import ArtifactCache, artifact_keys, base_identity, prepare_all, read_given
from methods.esd import ESD
from methods.hfi import HFI
from methods.interpret import Interpret
from methods.safedir import SafeDir
from methods.uce import UCE
from tests.methods.test_methods_hfi import QUICK as HFI_QUICK
from tests.support.fixtures_models import random_config, random_model
from tests.training.test_artifacts import Maker

TUNED: dict[str, Any] = {"steps": 3, "iterations": 2, "learning_rate": 1e-3, "parameters": "x_strict"}
METHODS: dict[str, Method] = {
    "uce": UCE(["a bomb"]), "esd": ESD(concept="a bomb", **TUNED),
    "safedir": SafeDir(["a bomb"], {"trajectories": 1, "steps": 2, "start": 1}),
}  # fmt: skip


def change(folder: Path, edit, signs: bool = True) -> dict[str, Any]:
    """Edit the tensors of an artifact; `signs`: meta.json gets the hash of the new file."""
    file = folder / "artifact.safetensors"
    save_file(edit(load_file(file)), file)
    meta = json.loads((folder / "meta.json").read_text())
    if signs:
        meta["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
        (folder / "meta.json").write_text(json.dumps(meta))
    return meta


def first(state):
    return sorted(state)[0]


CHANGES = {
    "nan": lambda s: s | {first(s): torch.full_like(s[first(s)], torch.nan)},
    "infinity": lambda s: s | {first(s): torch.full_like(s[first(s)], torch.inf)},
    "other shape": lambda s: s | {first(s): torch.zeros(3)},
    "a shape that broadcasts": lambda s: s | {first(s): torch.zeros([1] * s[first(s)].dim())},
    "other type": lambda s: s | {first(s): s[first(s)].double()},
    "integers": lambda s: s | {first(s): torch.ones_like(s[first(s)], dtype=torch.int64)},
    "missing": lambda s: {name: value for name, value in s.items() if name != first(s)},
    "too many": lambda s: s | {"more": torch.ones(1)},
    "other names": lambda s: {f"x{name}": value for name, value in s.items()},
    "nothing": lambda s: {},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict[str, Path]:
    """Return by method a folder of artifacts that it was trained into."""
    found = {}
    for name, method in METHODS.items():
        found[name] = tmp_path_factory.mktemp(name)
        prepare_all(random_model(), [method], ArtifactCache(found[name]))
    return found


def folder_of(root: Path) -> Path:
    (meta,) = root.rglob("meta.json")
    return meta.parent


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("name", METHODS)
def test_a_stored_artifact_with_wrong_contents_is_made_again_and_said(trained, tmp_path, caplog, name, kind) -> None:
    shutil.copytree(trained[name], tmp_path / "again")
    folder, seen = folder_of(tmp_path / "again"), []
    before = json.loads((folder / "meta.json").read_text())
    change(folder, CHANGES[kind])
    with caplog.at_level(logging.WARNING):
        (made,) = prepare_all(random_model(), [METHODS[name]], ArtifactCache(tmp_path / "again"),
                              lambda what, done, total: seen.append(done))
    assert seen and made is not None and made.meta["sha256"] == before["sha256"]
    said = [line for line in caplog.messages if "is ignored" in line]
    assert len(said) == 1 and str(folder) in said[0] and "\n" not in said[0]


def test_an_artifact_of_another_training_under_this_key_is_made_again(trained, tmp_path, caplog) -> None:
    other = UCE(["a ball"])
    (key,) = artifact_keys([other], base_identity(random_config()))
    shutil.copytree(folder_of(trained["uce"]), tmp_path / "uce" / str(key))
    (made,) = prepare_all(random_model(), [other], ArtifactCache(tmp_path))
    assert made is not None and made.meta["key"] == key
    assert "belongs to another training" in caplog.text


@pytest.mark.parametrize("kind", CHANGES)
@pytest.mark.parametrize("name", METHODS)
def test_a_given_artifact_with_wrong_contents_is_one_line(trained, tmp_path, name, kind) -> None:
    shutil.copytree(trained[name], tmp_path / "again")
    folder = folder_of(tmp_path / "again")
    change(folder, CHANGES[kind])
    with pytest.raises(HarnessError) as refused:
        read_given(str(folder), [METHODS[name]], random_config())
    assert "\n" not in str(refused.value) and str(folder) in str(refused.value)


@pytest.mark.parametrize("kind", [kind for kind in CHANGES if kind not in ("missing", "other type", "integers")])
@pytest.mark.parametrize("name", METHODS)
def test_one_of_a_former_version_that_does_not_say_its_shapes_is_one_line_too(trained, tmp_path, name, kind) -> None:
    shutil.copytree(trained[name], tmp_path / "again")
    folder, method, model = folder_of(tmp_path / "again"), METHODS[name], random_model()
    meta = change(folder, CHANGES[kind])
    del meta["tensors"]
    (folder / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(HarnessError) as refused:
        given = read_given(str(folder), [method], random_config())
        with attached(model, [method], [given.load()]):
            pass
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("method", "tensors"), [
    (HFI(**HFI_QUICK), {"v": torch.ones(1)}),
    (HFI(**HFI_QUICK), {}),
    (HFI(**HFI_QUICK), {"token": torch.tensor(1.0)}),
    (HFI(**HFI_QUICK), {"token": torch.ones(1, 3)}),
    (Interpret([{"name": "a", "positive": "b"}], {"images": 2}), {"h.0": torch.tensor(1.0)}),
    (Interpret([{"name": "a", "positive": "b"}], {"images": 2}), {"h.0": torch.ones(3)}),
    (Interpret([{"name": "a", "positive": "b"}], {"images": 2}), {}),
])  # fmt: skip
def test_learned_words_and_directions_of_other_shapes_are_one_line(method, tensors) -> None:
    model = random_model()
    meta = {"base": {"weights": model.fingerprint}, "sha256": "0" * 64}

    @dataclass
    class Given:
        key = "k"
        tensors: Any
        meta: Any

    with pytest.raises(HarnessError), method.attach(model, Given(tensors, meta)):
        pass


@dataclass(frozen=True)
class Broken(Maker):
    """Learns what is no number."""

    kind: ClassVar[str] = "broken"

    def prepare(self, model, upstream, progress):
        return Trained({"number": torch.tensor(torch.nan)})


def test_what_is_learned_and_no_number_is_not_stored(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="non-finite"):
        prepare_all(random_model(), [Broken()], ArtifactCache(tmp_path))
    assert not list(tmp_path.rglob("meta.json"))
