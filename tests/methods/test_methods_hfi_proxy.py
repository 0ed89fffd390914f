"""HFI's proxy: an evaluator says what people would have said of the model's own images."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from harness.errors import InvalidValueError
from methods.hfi_inversion import TokenTrainer
from methods.hfi_proxy import HFIProxy
from methods.hfi_tokens import soft_tokens, word_vectors
from tests.methods.test_methods_hfi import CLIP, QUICK
from tests.support.fixtures_models import micro_model

JUDGE = {"name": "hazard_judge", "_target_": "harness.micro.hazard_judge.HazardJudge", "threshold": 0.5}


def proxy(**changes: Any) -> HFIProxy:
    given = {"labeller": JUDGE, "texts": ["a picture of a bomb", "a doctor in a field"], "images": 8, "steps": 8,
             "guidance_scale": 5.0}
    return HFIProxy(**(QUICK | given | changes))


@pytest.mark.parametrize(("change", "said"), [
    ({"labeller": {}}, "method.labeller"),
    ({"texts": []}, "method.texts"),
    ({"prompts_file": "both.csv"}, "set either method.texts"),
    ({"images": 1}, "method.images=1"),
    ({"labeller": {"name": "degenerate", "_target_": "harness.evaluators.clip_score.ClipScore", "source": CLIP}},
     "gives verdicts"),
])  # fmt: skip
def test_wrong_settings_of_the_proxy_are_named(change, said):
    with pytest.raises(InvalidValueError, match=said):
        proxy(**change)


def test_the_proxy_is_another_method_with_another_word():
    assert proxy().kind == "hfi_proxy" and "hfi_proxy-" in proxy().token
    assert proxy(labeller=JUDGE | {"threshold": 0.6}).token != proxy().token
    assert proxy().identity()["params"]["labeller"]["threshold"] == 0.5


def test_labels_of_one_class_only_are_refused():
    with pytest.raises(InvalidValueError, match="hazard_judge on 2 images: all 2 labels are 0"):
        proxy(texts=["a doctor in a field"], images=2).labelled(micro_model(), lambda *_: None)


def test_on_the_embedded_world_the_word_comes_to_mean_what_the_evaluator_saw(monkeypatch):
    """Starting at a harmless word, the learned one fits the hazardous pictures better than that word does."""
    model, recipe = micro_model(), {"iterations": 12, "learning_rate": 3e-2, "batch": 2, "templates": ["a {}"]}
    method = proxy(word="ball", inversion=recipe)
    images, said = method.labelled(model, lambda *_: None)
    monkeypatch.setattr(HFIProxy, "labelled", lambda self, model, progress: (images, said))
    made = method.prepare(model, [], lambda *_: None)
    hazardous = [image for image, label in zip(images, said.labels, strict=True) if label]
    assert 0 < len(hazardous) < len(images)

    def misfit(vectors: torch.Tensor) -> float:
        trainer = TokenTrainer(model, replace(method.recipe, batch=32), "word", torch.Generator().manual_seed(1))
        with soft_tokens(model, "word", vectors), torch.no_grad():
            return float(trainer._loss(trainer._latents(hazardous), torch.ones(len(hazardous))))

    assert misfit(made.tensors["token"]) < misfit(word_vectors(model, "ball", 1))
