"""The same words train the same artifact: whatever the threads, what was drawn before, or who drew random numbers."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from harness.evaluators import q16_training
from harness.evaluators.q16_training import PromptTraining, embed, learn_prompts
from harness.lib.reproducible import WORKSPACE, allow_reproducible_gpu, reproducible
from harness.method import Method, Trained
from harness.training.artifacts import ArtifactCache, prepare_all
from tests.evaluators.test_evaluators_q16 import image_folder
from tests.support.fixtures_models import random_model
from tests.support.methods_registry import NUMBERS_ONLY, PRESETS, tiny

TRAINED = [name for name in PRESETS if name not in NUMBERS_ONLY and tiny(name).trains]
MANY = 3  # threads


def bytes_of(methods: list[Method], folder: Any, threads: int) -> list[str]:
    """Train with torch set to so many threads; return the sha256 of each artifact's tensors."""
    torch.set_num_threads(threads)
    made = prepare_all(random_model(), methods, ArtifactCache(folder))
    assert torch.get_num_threads() == threads
    return [str(one.meta["sha256"]) for one in made if one]


@pytest.mark.parametrize("preset", TRAINED)
def test_an_artifact_is_the_same_to_the_bit_whatever_the_threads(preset, tmp_path):
    found = [bytes_of([tiny(preset)], tmp_path / str(threads), threads) for threads in (1, MANY)]
    assert found[0] == found[1] and len(found[0]) == 1


def test_a_method_that_trains_on_an_edited_model_gives_the_same_bytes_too(tmp_path):
    methods = [tiny("rece"), tiny("esd_x"), tiny("safedir")]
    found = [bytes_of(methods, tmp_path / str(threads), threads) for threads in (1, MANY)]
    assert found[0] == found[1] and len(found[0]) == 3


def test_texts_that_many_threads_encoded_before_are_encoded_again(tmp_path):
    """A text of 77 rows through a small encoder differs in no bit, so a stand-in shows which one is used."""
    method, model = tiny("esd_x"), random_model()
    expected = bytes_of([method], tmp_path / "fresh", 1)
    for text in ("", *method.params()["concept"]):
        embedding = model.embed(text)
        model._texts[text] = (embedding + 1e-3, None)
    assert bytes_of([method], tmp_path / "after", MANY) == expected
    assert not model._texts


@dataclass(frozen=True)
class OfOthers(Method):
    """A method as others may write it: it multiplies, sums, and draws from the process's own generators."""

    name: str = "of_others"
    kind: ClassVar[str] = "of_others"

    @property
    def trains(self):
        return True

    def prepare(self, model, upstream, progress):
        x = torch.randn(300_000)
        drawn = torch.tensor([random.random(), np.random.rand()])
        return Trained({"sum": x.sum(), "drawn": drawn, "deterministic": torch.tensor(
            [float(torch.are_deterministic_algorithms_enabled())])})


def test_a_third_partys_method_is_held_to_one_thread_and_one_seed(tmp_path):
    found = []
    for threads in (1, MANY):
        torch.manual_seed(threads)
        random.seed(threads)
        np.random.seed(threads)
        found += bytes_of([OfOthers()], tmp_path / str(threads), threads)
    assert found[0] == found[1]
    (made,) = prepare_all(random_model(), [OfOthers()], ArtifactCache(tmp_path / "1"))
    assert made.tensors["deterministic"].item() == 1


def flags() -> tuple[bool, ...]:
    cudnn = torch.backends.cudnn
    return cudnn.allow_tf32, cudnn.deterministic, cudnn.benchmark


def test_training_leaves_the_process_as_it_was(tmp_path):
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    expected = torch.rand(1).item(), random.random(), np.random.rand()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = flags()
    bytes_of([OfOthers()], tmp_path, 2)
    assert (torch.rand(1).item(), random.random(), np.random.rand()) == expected
    assert not torch.are_deterministic_algorithms_enabled()
    assert flags() == before


def test_on_a_gpu_convolutions_are_deterministic_and_keep_float32():
    with reproducible():
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.allow_tf32
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_a_worker_gives_cublas_its_workspace_and_keeps_that_of_the_user(monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    allow_reproducible_gpu()
    import os

    assert os.environ[WORKSPACE] == ":4096:8"
    monkeypatch.setenv(WORKSPACE, ":16:8")
    allow_reproducible_gpu()
    assert os.environ[WORKSPACE] == ":16:8"


@dataclass(frozen=True)
class NoSuchForm(OfOthers):
    """Its operation has no deterministic form, as torch says of some on a GPU."""

    name: str = "no_such_form"
    kind: ClassVar[str] = "no_such_form"

    def prepare(self, model, upstream, progress):
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError("roll_cuda does not have a deterministic implementation, but you set ...")
        return Trained({"x": torch.ones(1)})


def test_what_has_no_deterministic_form_is_said_and_trained_all_the_same(tmp_path, caplog):
    (made,) = prepare_all(random_model(), [NoSuchForm()], ArtifactCache(tmp_path))
    assert made.tensors["x"].item() == 1
    assert "is not bit-reproducible on this device: roll_cuda does not have" in caplog.text


def test_errors_of_a_training_are_its_own_and_it_is_not_tried_again(tmp_path, caplog):
    tries = []

    @dataclass(frozen=True)
    class Failing(OfOthers):
        def prepare(self, model, upstream, progress):
            tries.append(1)
            raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        prepare_all(random_model(), [Failing()], ArtifactCache(tmp_path))
    assert tries == [1] and not caplog.messages


def test_prompts_of_q16_are_learned_by_one_thread(clip_folder, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(q16_training, "embed", lambda *given: seen.append(torch.get_num_threads()) or embed(*given))
    monkeypatch.setattr(q16_training, "learn_prompts",
                        lambda *given: seen.append(torch.get_num_threads()) or learn_prompts(*given))
    torch.set_num_threads(MANY)
    q16_training.train(PromptTraining(str(image_folder(tmp_path / "data")), clip_folder,
                                      str(tmp_path / "p.safetensors"), steps=2, batch=4))
    assert seen == [1, 1] and torch.get_num_threads() == MANY


def test_of_threads_that_train_at_once_the_last_one_puts_the_process_back():
    before = torch.are_deterministic_algorithms_enabled()
    inside, may_leave = threading.Event(), threading.Event()

    def train() -> None:
        with reproducible():
            inside.set()
            may_leave.wait(10)

    other = threading.Thread(target=train)
    with reproducible():
        other.start()
        inside.wait(10)
    assert torch.are_deterministic_algorithms_enabled()
    may_leave.set()
    other.join(10)
    assert torch.are_deterministic_algorithms_enabled() == before


def test_every_thread_that_trains_is_held_to_one():
    seen, inside, may_leave = [], threading.Event(), threading.Event()

    def train() -> None:
        torch.set_num_threads(MANY)
        torch.ones(100_000).sum()
        with reproducible():
            seen.append(torch.get_num_threads())
            inside.set()
            may_leave.wait(10)

    with reproducible():
        other = threading.Thread(target=train)
        other.start()
        inside.wait(10)
        assert seen == [1] and torch.get_num_threads() == 1
        may_leave.set()
        other.join(10)
