"""The artifact cache: made once, whole or absent, and never used for another model."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from harness.errors import IncompatibleError, StorageError
from harness.method import Method, Trained
from harness.sampling.session import attached
from harness.summary import training_curves
from harness.training.artifacts import (
    ArtifactCache,
    StoredArtifact,
    artifact_keys,
    base_identity,
    lineages,
    prepare_all,
)
from methods.esd import ESD
from methods.hfi import HFI
from methods.interpret import Interpret
from methods.none import NoMethod
from methods.safedir import SafeDir
from methods.uce import UCE
from tests.support.fixtures_models import random_config, random_model

CLIP = "pkg://harness.micro/weights/clip"


@dataclass(frozen=True)
class Maker(Method):
    """Makes one number; counts how often."""

    name: str = "maker"
    number: float = 1.0
    made: Any = None
    seconds: float = 0.0
    fails: bool = False
    kind: ClassVar[str] = "maker"

    @property
    def trains(self):
        return True

    def params(self):
        return {"number": self.number}

    def prepare(self, model, upstream, progress):
        if self.made is not None:
            self.made.append([a.key for a in upstream])
        time.sleep(self.seconds)
        if self.fails:
            raise KeyboardInterrupt
        return Trained({"x": torch.tensor([self.number]), "w": model.denoiser.conv_in.bias.detach()[:2]},
                       {"note": "made"})


@dataclass(frozen=True)
class Doubler(Maker):
    """Doubles a bias while attached: methods to its right see the changed model."""

    name: str = "doubler"
    kind: ClassVar[str] = "doubler"
    edits_model: ClassVar[bool] = True

    @contextmanager
    def attach(self, model, artifact):
        bias = model.denoiser.conv_in.bias
        kept = bias.detach().clone()
        with torch.no_grad():
            bias.mul_(2)
        try:
            yield
        finally:
            with torch.no_grad():
                bias.copy_(kept)


@dataclass(frozen=True)
class BaseMaker(Maker):
    """Trains on the bare model, whatever is to its left."""

    kind: ClassVar[str] = "base_maker"

    @property
    def trains_on_base(self):
        return True


@pytest.fixture
def cache(tmp_path):
    return ArtifactCache(tmp_path, poll_seconds=0.02)


def test_a_second_run_loads_what_the_first_made(cache):
    made: list[Any] = []
    first, second = (prepare_all(random_model(), [Maker(made=made)], cache)[0] for _ in range(2))
    assert len(made) == 1
    assert torch.equal(first.tensors["x"], second.tensors["x"]) and first.meta == second.meta
    assert first.meta["training"] == {"note": "made"}


def test_methods_that_train_nothing_have_no_artifact(cache):
    assert prepare_all(random_model(), [NoMethod()], cache) == [None]


def test_layout_is_method_key_two_files(cache):
    prepare_all(random_model(), [Maker()], cache)
    (key,) = artifact_keys([Maker()], base_identity(random_config()))
    assert sorted(p.name for p in (cache.root / "maker" / key).iterdir()) == ["artifact.safetensors", "meta.json"]


def test_key_depends_on_recipe_base_and_upstream_but_not_on_names():
    base = base_identity(random_config())
    def key(method, *left, base=base):
        return artifact_keys([*left, method], base)[-1]
    assert key(Maker()) == key(Maker(name="other"))
    different = {key(Maker()), key(Maker(number=2.0)), key(Maker(), base=base | {"weights": "x"}),
                 key(Maker(), base=base | {"dtype": "bfloat16"}), key(Maker(), Doubler()),
                 key(Maker(), Doubler(number=3.0))}
    assert len(different) == 6
    assert key(Maker(), NoMethod()) == key(Maker())


@dataclass(frozen=True)
class Scaled(Doubler):
    """Its artifact serves every strength."""

    strength: float = 1.0

    def params(self):
        return {"number": self.number, "strength": self.strength}

    def training_identity(self):
        return {"kind": self.kind, "version": self.version, "params": {"number": self.number}}


def test_how_strongly_the_left_is_applied_names_what_is_trained_on_it():
    base = base_identity(random_config())
    full, half = (artifact_keys([Scaled(strength=strength), Maker()], base) for strength in (1.0, 0.5))
    assert full[0] == half[0] and full[1] != half[1]


def test_methods_to_the_right_train_on_the_edited_model(cache):
    bias = random_model().denoiser.conv_in.bias.detach().clone()[:2]
    doubler, maker = prepare_all(random_model(), [Doubler(), Maker()], cache)
    assert torch.equal(doubler.tensors["w"], bias) and torch.equal(maker.tensors["w"], 2 * bias)
    own = lineages([Doubler(), Maker()], base_identity(random_config()))[1]
    assert maker.key == own.key and tuple(maker.meta["upstream"]) == own.upstream and len(own.upstream) == 1
    assert maker.meta["upstream_classes"] == [f"{Doubler.__module__}.Doubler"]
    assert torch.equal(random_model().denoiser.conv_in.bias.detach()[:2], bias)


def test_a_method_that_trains_on_the_base_ignores_what_is_to_its_left(cache):
    _, maker = prepare_all(random_model(), [Doubler(), BaseMaker()], cache)
    (alone,) = prepare_all(random_model(), [BaseMaker()], cache)
    assert maker.key == alone.key and maker.meta["upstream"] == []
    assert torch.equal(maker.tensors["w"], random_model().denoiser.conv_in.bias.detach()[:2])


def test_several_makers_at_once_make_it_once(cache):
    made: list[Any] = []
    method, results = Maker(made=made, seconds=0.2), []
    threads = [threading.Thread(target=lambda: results.append(prepare_all(random_model(), [method], cache)[0]))
               for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1 and len({result.key for result in results}) == 1 and len(results) == 3


def enter(root, start, results, dies):
    """Ask for the artifact in a process of its own; say how often it was made here."""
    cache, made = ArtifactCache(root, poll_seconds=0.02), []

    def make():
        if dies:
            os._exit(9)
        made.append(1)
        time.sleep(0.2)
        return Trained({"x": torch.ones(1)}, {}), {"recipe": {}, "base": {}}

    start.wait(30)
    cache.get_or_make(Maker(), "key", make)
    results.put(len(made))


def processes(root, count, dies=False):
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(count), context.SimpleQueue()
    children = [context.Process(target=enter, args=(root, start, results, dies)) for _ in range(count)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    return [child.exitcode for child in children], results


def test_of_many_processes_that_ask_at_once_one_makes_it(tmp_path):
    codes, results = processes(tmp_path, 4)
    assert codes == [0] * 4 and sorted(results.get() for _ in codes) == [0, 0, 0, 1]


def test_a_process_killed_in_training_leaves_no_artifact_and_the_next_makes_it(tmp_path):
    assert processes(tmp_path, 1, dies=True)[0] == [9]
    assert (tmp_path / "maker" / "key" / ".lease.json").exists() and not ArtifactCache(tmp_path).has(Maker(), "key")
    codes, results = processes(tmp_path, 1)
    assert codes == [0] and results.get() == 1


def test_interrupted_training_leaves_nothing_and_restarts(cache):
    made: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        prepare_all(random_model(), [Maker(fails=True)], cache)
    (key,) = artifact_keys([Maker()], base_identity(random_config()))
    assert not cache.has(Maker(), key)
    prepare_all(random_model(), [Maker(made=made)], cache)
    assert len(made) == 1


def test_a_killed_trainer_is_taken_over(cache):
    (key,) = artifact_keys([Maker()], base_identity(random_config()))
    folder = cache.folder(Maker(), key)
    folder.mkdir(parents=True)
    import socket

    owner = {"token": "gone", "host": socket.gethostname(), "pid": 2**22 + 5, "since": 0}
    (folder / ".lease.json").write_text(json.dumps(owner))
    assert prepare_all(random_model(), [Maker()], cache)[0].key == key


@pytest.mark.parametrize("damage", ["cut", "no meta", "wrong bytes"])
def test_a_damaged_artifact_is_made_again(cache, damage):
    made: list[Any] = []
    (key,) = artifact_keys([Maker()], base_identity(random_config()))
    prepare_all(random_model(), [Maker(made=made)], cache)
    file = cache.folder(Maker(), key) / "artifact.safetensors"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-3])
    elif damage == "wrong bytes":
        file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    else:
        (file.parent / "meta.json").unlink()
    assert not cache.has(Maker(), key)
    prepare_all(random_model(), [Maker(made=made)], cache)
    assert len(made) == 2 and cache.has(Maker(), key)


def test_an_artifact_of_other_weights_is_refused(cache):
    (artifact,) = prepare_all(random_model(), [Maker()], cache)
    foreign = replace(artifact, meta=artifact.meta | {"base": {"weights": "0" * 64}})
    with pytest.raises(IncompatibleError, match="but the loaded ones are"), \
            attached(random_model(), [Maker()], [foreign]):
        pass
    with pytest.raises(IncompatibleError, match="needs its trained artifact"), \
            attached(random_model(), [Maker()], [None]):
        pass


KEYS = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"  # of the random-weight model


@pytest.mark.parametrize(("method", "tensors", "problem"), [
    (UCE(["a bomb"]), {"conv_in.bias": torch.zeros(3)}, r"changes conv_in\.bias, which does not exist"),
    (UCE(["a bomb"]), {f"{KEYS}.weight": torch.zeros(3)}, r"to_k\.weight has shape \(3,\), not \(32, 32\)"),
    (UCE(["a bomb"]), {}, f"has no {KEYS}"),
    (UCE(["a bomb"]), {"d.0": torch.zeros(3)}, "changes d.0, which does not exist"),
    (ESD(concept="a bomb"), {"conv_in.bias.delta": torch.zeros(3)}, "conv_in.bias, which this denoiser does not have"),
    (SafeDir("a bomb"), {"d.0": torch.zeros(77, 31)}, "77 x 31 numbers, but text .* have 77 x 32"),
    (SafeDir(["a bomb", "a ball"]), {"d.0": torch.zeros(77, 32)}, "has no b.1"),
    (SafeDir("a bomb"), {f"d.{n}": torch.zeros(77, 32) for n in (0, 1)}, "changes d.1, which does not exist"),
    (HFI(word="bomb", clip=CLIP), {"d.0": torch.zeros(77, 32)}, "no 1 learned token vectors"),
    (HFI(word="bomb", clip=CLIP), {"token": torch.zeros(1, 31)}, "31 features"),
    (Interpret([{"name": "bomb", "positive": "a bomb"}]), {"h.0": torch.zeros(7, 4, 4)}, r"shape \(7, 4, 4\)"),
    (Interpret([{"name": "bomb", "positive": "a bomb"}]), {"x": torch.zeros(1)}, "changes x, which does not exist"),
    (Interpret([{"name": "bomb", "positive": "a bomb"}]), {}, "has no h.0"),
])  # fmt: skip
def test_a_given_artifact_of_other_names_or_shapes_is_one_line(method, tensors, problem):
    artifact = StoredArtifact("key", tensors, {"base": {"weights": random_model().fingerprint}})
    with pytest.raises(IncompatibleError, match=problem) as told, attached(random_model(), [method], [artifact]):
        pass
    assert "\n" not in str(told.value)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        prepare_all(random_model(), [Maker()], ArtifactCache(tmp_path / "file" / "artifacts"))


def test_training_curves_are_lists_of_losses_one_for_each_concept():
    def curves(losses):
        found = training_curves("safedir", "k", {"seconds": 2.0, "training": {"losses": losses}})
        return {name: curve["losses"] for name, curve in found.items()}

    assert curves([3.0, 2.0]) == curves({"a bomb": [3.0, 2.0]}) == {"safedir": [3.0, 2.0]}
    assert curves({"a": [1.0], "b": [2.0]}) == {"safedir (a)": [1.0], "safedir (b)": [2.0]}
    assert curves(None) == {"safedir": []}
