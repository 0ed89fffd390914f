"""Interrupted training: it goes on to the same bits, starts again cleanly, keeps what it had on a NaN loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from harness.errors import HarnessError, StoppedError
from harness.method import Method, Trained
from harness.summary import training_curves
from harness.training.artifacts import ArtifactCache, artifact_keys, base_identity, prepare_all
from harness.training.fine_tuning import FineTuned, WorkingCopy, optimise, parameter_names
from harness.training.loop_memory import LoopMemory, adam_step
from methods.concept_ablation import ConceptAblation
from methods.esd import ESD
from methods.hfi import HFI
from methods.interpret import Interpret
from methods.safedir import SafeDir
from methods.sdd import SDD
from methods.uce import UCE
from tests.methods.test_methods_hfi import QUICK as HFI_QUICK
from tests.support.fixtures_models import random_config, random_model

TUNED: dict[str, Any] = {"steps": 3, "iterations": 4, "learning_rate": 1e-3, "parameters": "x_strict"}
INTERPRET: dict[str, Any] = {"images": 2, "steps": 1, "train_steps": 4, "batch": 1}
METHODS: dict[str, tuple[Method, str, int]] = {  # what to train, and the report at which it is stopped
    "esd": (ESD(concept="a bomb", max_grad_norm=1.0, **TUNED), "esd", 2),
    "sdd": (SDD(concept=["a bomb", "a ball"], order="random", ema_decay=0.5, **TUNED), "sdd", 3),
    "concept_ablation": (ConceptAblation(concept="bomb", anchor_prompts=["a ball", "a tree"], batch=2, images=3,
                                         **TUNED), "concept_ablation", 2),
    "safedir": (SafeDir(["a bomb", "a ball"], {"trajectories": 3, "steps": 3, "start": 1}), "direction a ball", 2),
    "interpret": (Interpret([{"name": name, "positive": f"a {name}"} for name in ("bomb", "ball")], INTERPRET),
                  "direction ball", 2),
    "uce": (UCE(["a bomb"]), "closed form", 0),
}  # fmt: skip


def stopper(at: str, step: int):
    """Return a report that ends the training, as a worker does that is asked to stop."""

    def report(what: str, done: int, total: int) -> None:
        if what == at and done == step:
            raise StoppedError

    return report


def interrupted(method: Method, at: str, step: int, cache: ArtifactCache) -> list[str]:
    """Train until the report; return the names of the files that are left."""
    with pytest.raises(StoppedError):
        prepare_all(random_model(), [method], cache, stopper(at, step))
    (key,) = artifact_keys([method], base_identity(random_config()))
    assert key and not cache.has(method, key)
    return sorted(file.name for file in cache.folder(method, key).iterdir())


def same(method: Method, whole: ArtifactCache, resumed: ArtifactCache) -> None:
    """Check that training goes on to what an uninterrupted one makes, and leaves no checkpoint."""
    (expected,), (made,) = (prepare_all(random_model(), [method], cache) for cache in (whole, resumed))
    assert made is not None and expected is not None
    assert made.meta["sha256"] == expected.meta["sha256"]
    assert made.meta["training"] == expected.meta["training"]
    (key,) = artifact_keys([method], base_identity(random_config()))
    curves = training_curves(method.name, str(key), made.meta).values()
    assert all(isinstance(value, float) for curve in curves for value in curve["losses"])
    files = [file.name for file in resumed.folder(method, str(key)).iterdir()]
    assert sorted(files) == ["artifact.safetensors", "meta.json"]


@pytest.mark.parametrize("name", METHODS)
def test_interrupted_training_goes_on_to_the_same_bits(name, tmp_path):
    method, at, step = METHODS[name]
    left = interrupted(method, at, step, ArtifactCache(tmp_path / "resumed"))
    assert left == {"uce": [], "safedir": ["checkpoint-0.safetensors", "checkpoint-1.safetensors"],
                    "interpret": ["checkpoint-0.safetensors", "checkpoint-1.safetensors"],
                    }.get(name, ["checkpoint.safetensors"])  # fmt: skip
    same(method, ArtifactCache(tmp_path / "whole"), ArtifactCache(tmp_path / "resumed"))


def test_an_interrupted_learned_word_goes_on_to_the_same_bits(tmp_path):
    for index in range(4):
        Image.fromarray(np.full((48, 48, 3), 30 + 60 * index, np.uint8)).save(tmp_path / f"{index}.png")
    (tmp_path / "f.csv").write_text("image,label\n" + "".join(f"{n}.png,{int(n < 2)}\n" for n in range(4)))
    method = HFI(**HFI_QUICK, feedback=str(tmp_path / "f.csv"))
    assert interrupted(method, "learned word", 2, ArtifactCache(tmp_path / "resumed")) == ["checkpoint.safetensors"]
    same(method, ArtifactCache(tmp_path / "whole"), ArtifactCache(tmp_path / "resumed"))


def test_training_killed_nine_times_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    """A killed process runs nothing on its way out: only what was saved between steps is there."""
    import harness.training.loop_memory

    monkeypatch.setattr(harness.training.loop_memory, "EVERY_SECONDS", 0.0)
    monkeypatch.setattr(harness.training.loop_memory, "SAVING_SHARE", float("inf"))
    monkeypatch.setattr(LoopMemory, "__exit__", lambda *_: None)
    method = ESD(concept="a bomb", max_grad_norm=1.0, **{**TUNED, "iterations": 10})
    cache = ArtifactCache(tmp_path / "resumed")
    steps = []
    for step in range(1, 10):
        interrupted(method, "esd", step, cache)
        (file,) = cache.root.rglob("checkpoint.safetensors")
        steps.append(len(safetensors.torch.load_file(file)["losses"]))
    assert steps == list(range(1, 10))
    same(method, ArtifactCache(tmp_path / "whole"), cache)


def test_steps_that_are_done_are_not_taken_again(tmp_path):
    method, cache, seen = METHODS["esd"][0], ArtifactCache(tmp_path), []
    interrupted(method, "esd", 3, cache)
    prepare_all(random_model(), [method], cache, lambda what, done, total: seen.append(done))
    assert seen == [4]


def test_a_cut_checkpoint_is_as_none(tmp_path):
    method, cache = METHODS["esd"][0], ArtifactCache(tmp_path / "resumed")
    interrupted(method, "esd", 2, cache)
    (file,) = cache.root.rglob("checkpoint.safetensors")
    file.write_bytes(file.read_bytes()[:-5])
    same(method, ArtifactCache(tmp_path / "whole"), cache)


def test_what_is_interrupted_in_the_middle_of_a_change_is_not_kept(tmp_path):
    """An optimiser that was stopped half-way has moved some tensors and not others."""
    value = torch.zeros(2, requires_grad=True)
    adam = torch.optim.Adam([value])
    value.sum().backward()
    with pytest.raises(KeyboardInterrupt), LoopMemory(tmp_path, adam, {"v": value}) as memory:
        adam_step(memory, adam, 1.0)
        memory.save()
        kept = value.detach().clone()
        adam_step(memory, adam, 2.0)
        adam_step(memory, adam, 3.0, after=lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    other = torch.zeros(2, requires_grad=True)
    memory = LoopMemory(tmp_path, torch.optim.Adam([other]), {"v": other})
    assert list(memory.remaining(3)) == [1, 2] and memory.losses == [1.0]
    assert torch.equal(other.detach(), kept) and not torch.equal(value.detach(), kept)


@dataclass(frozen=True, kw_only=True)
class Diverging(FineTuned):
    """Its third loss is no number."""

    name: str = "diverging"
    kind: ClassVar[str] = "diverging"

    def prepare(self, model, upstream, progress):
        copy = WorkingCopy(model, parameter_names(model.denoiser, "x_strict"))
        value = next(iter(copy.parameters.values()))
        losses = optimise(copy, self, lambda i: value.square().sum() * (float("nan") if i == 2 else 1), progress)
        return Trained(copy.deltas(), {"losses": losses})


def test_a_loss_that_is_no_number_stops_at_its_step_and_keeps_the_last_good_state(tmp_path):
    cache, method = ArtifactCache(tmp_path), Diverging(iterations=5, learning_rate=1e-2)
    with pytest.raises(HarnessError, match=r"diverging diverged at step 3: .* is nan\. Try a lower method\."
                                           r"learning_rate\. The state after "
                                           r"step 2 is saved in .*checkpoint\.safetensors") as told:
        prepare_all(random_model(), [method], cache)
    assert "\n" not in str(told.value)
    (file,) = tmp_path.rglob("checkpoint.safetensors")
    assert str(file) in str(told.value) and not list(tmp_path.rglob("meta.json"))
    from safetensors.torch import load_file

    kept = load_file(file)
    assert len(kept["losses"]) == 2 and all(value.isfinite().all() for value in kept.values())
    moved = next(name for name in kept if name.startswith("learned."))
    assert not torch.equal(kept[moved], dict(random_model().denoiser.named_parameters())[moved[8:]].detach())


@pytest.mark.parametrize("name", ["safedir", "interpret"])
def test_directions_keep_the_last_good_state_too(name, tmp_path, monkeypatch):
    method, model = METHODS[name][0], random_model()
    report = stopper("", 0)
    import methods.interpret_direction
    import methods.safedir_direction

    calls = iter([1.0, float("nan")])
    monkeypatch.setattr(methods.safedir_direction.DirectionTrainer, "trajectory", lambda *_: next(calls))
    monkeypatch.setattr(methods.interpret_direction.LatentDirectionTrainer, "loss", lambda *_: next(calls))
    with pytest.raises(HarnessError, match=r"nan.*The state after step 1 is saved in .*checkpoint-0\.safetensors"):
        prepare_all(model, [method], ArtifactCache(tmp_path), report)
