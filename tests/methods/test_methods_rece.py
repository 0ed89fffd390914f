"""RECE: the released epoch term by term, and what it does to the embeddings that undo UCE."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from harness.errors import IncompatibleError, InvalidValueError
from harness.training.closed_form import projections
from methods.rece import RECE, adversarial
from methods.uce import UCE
from tests.method_parity import agree
from tests.support.fixtures_models import random_model
from tests.support.methods_common import trained


def rece(**changes: Any) -> RECE:
    return RECE(**({"erase": ["a skull", "flame"]} | changes))


def kept(method: RECE) -> list[str]:
    """The release's retain_texts of artists and objects: "" and then the names to preserve."""
    return ["", *(text for text in method.preserve if text)]


def first_stage(method: RECE, W: torch.Tensor) -> torch.Tensor:
    """Edit one matrix as the release's train_uce.py does: from the last subject token on, "" preserved whole."""
    model, eye = random_model(), torch.eye(W.shape[1], dtype=torch.float64)
    left, right, (goal,) = method.uce_lam * W, method.uce_lam * eye, set(method.guides or ())
    for text in method.erase:
        last, own = (len(model.pipe.tokenizer(words).input_ids) - 2 for words in (text, goal))
        count = 77 - max(last, own)
        for c, g in zip(model.embed(text).double()[last : last + count],
                        model.embed(goal).double()[own : own + count], strict=True):
            left, right = left + torch.outer(W @ g, c), right + torch.outer(c, c)
    for p in torch.cat([model.embed(text).double() for text in kept(method)]):
        b = method.uce_preserve_scale
        left, right = left + b * torch.outer(W @ p, p), right + b * torch.outer(p, p)
    return left @ torch.inverse(right)


def released_epochs(method: RECE) -> dict[str, torch.Tensor]:
    """Run the release's epochs (close_regzero, then edit_model_adversarial) on matrices edited by UCE, in float64."""
    model = random_model()
    original = {name: W.double() for name, W in projections(model.denoiser).items()}
    edited = {name: first_stage(method, W) for name, W in original.items()}
    eye = torch.eye(len(model.embed("")[0]), dtype=torch.float64)
    (goal,) = set(method.guides or ())
    guide = model.embed(goal).double()
    for _ in range(method.epochs):
        mat1, mat2 = method.lam_r * eye, torch.zeros_like(eye)
        for name, W in edited.items():
            mat1, mat2 = mat1 + W.T @ W, mat2 + W.T @ original[name]
        found = [model.embed(text).double() @ (torch.inverse(mat1) @ mat2).T for text in method.erase]
        for name, W in edited.items():
            left, right = method.lam * W, method.lam * eye
            stay = [model.embed(text).double() for text in kept(method)]
            pairs = [(c, guide, 1.0) for c in found] + [(p, p, method.preserve_scale) for p in stay]
            for old, new, scale in pairs:
                for c, g in zip(old, new, strict=True):
                    left, right = left + scale * torch.outer(W @ g, c), right + scale * torch.outer(c, c)
            edited[name] = left @ torch.inverse(right)
    return {name: edited[name] - W for name, W in original.items()}


@pytest.mark.parametrize("change", [{"epochs": 1}, {"epochs": 2, "lam_r": 1e-3}, {"epochs": 1, "erase": ["a bomb"]},
                                    {"epochs": 1, "preserve": ["a tree", "house"]},
                                    {"epochs": 2, "preserve": ["", "a tree"], "guides": "art", "concept_type": "art",
                                     "uce_preserve_scale": 0.1, "lam_r": 1e-3}])
def test_its_epochs_are_those_of_the_release(change):
    method = rece(**change)
    ours = trained(method).tensors
    for name, theirs in released_epochs(method).items():
        agree("rece", (ours[name].double() - theirs).abs().max() / theirs.abs().max(), 1e-4)


def test_the_presets_are_the_released_recipes():
    """README and scripts of the release; UCE before it by train_uce.py, whose b is 0.1 where artists are preserved."""
    from harness.cli.compose import compose_jobs
    from harness.lib.targets import build

    names = ("rece", "rece_unsafe", "rece_style", "rece_object")
    jobs = compose_jobs([f"method={','.join(names)}", "model=sd14"], multirun=True)
    found = {name: build(job.methods[0]) for name, job in zip(names, jobs, strict=True)}
    for method in found.values():
        assert (method.lam, method.erase_scale, method.uce_lam, method.tokens) == (0.1, 1.0, 0.5, "tail")
        assert method.kept == ("",)
    said = {name: (set(m.guides), m.epochs, m.lam_r, m.uce_preserve_scale, round(m.preserve_scale / 0.1))
            for name, m in found.items()}
    assert said == {"rece": ({""}, 3, 0.1, 1.0, 1), "rece_unsafe": ({""}, 2, 0.1, 1.0, 11),
                    "rece_style": ({"art"}, 1, 1e-3, 0.1, 1), "rece_object": ({""}, 1, 1e-3, 1.0, 1)}
    assert len(found["rece_unsafe"].erase) == 11


def test_keeping_nothing_eleven_times_is_keeping_it_once_at_eleven_times_the_scale():
    """What the release's nudity script does with several concepts, by what rece_unsafe says instead."""
    from harness.training.closed_form import edit_matrix, kept_tokens

    model = random_model()
    C, G = model.embed("a skull"), model.embed("")
    often = edit_matrix(C, G, kept_tokens(model, [""] * 11, "all"), 1.0, 0.1, 0.1)
    assert torch.allclose(often, edit_matrix(C, G, kept_tokens(model, [""], "all"), 1.0, 1.1, 0.1), atol=1e-9)


def test_no_epoch_is_uce():
    alone = UCE(["a skull", "flame"], preserve=[""], preserve_scale=1.0, lam=0.5, tokens="tail")
    theirs = trained(alone).tensors
    assert all(torch.equal(value, theirs[name]) for name, value in trained(rece(epochs=0)).tensors.items())


def test_the_adversarial_embedding_answers_as_the_original_and_an_epoch_takes_that_away():
    model = random_model()
    weights = [W.double() for W in projections(model.denoiser).values()]
    S, eye, c = sum(W.T @ W for W in weights), torch.eye(32, dtype=torch.float64), model.embed("a skull").double()

    def gap(F: torch.Tensor, texts: torch.Tensor) -> float:
        return float(sum((texts @ (W @ F).T - c @ W.T).square().sum() for W in weights))

    uce_only = eye + rece(epochs=0).edit(model)
    found = adversarial(c, S, uce_only, 0.1)
    assert gap(uce_only, found) < 0.2 * gap(uce_only, c)
    more = eye + rece(epochs=1).edit(model)
    assert gap(more, found) > 5 * gap(uce_only, found)


def test_wrong_settings_are_named():
    with pytest.raises(InvalidValueError, match=r"method\.epochs=-1"):
        rece(epochs=-1)
    with pytest.raises(InvalidValueError, match=r"method\.lam_r=x"):
        rece(lam_r="x")
    with pytest.raises(InvalidValueError, match="expected a text, or a list of texts"):
        rece(erase=[""])
    with pytest.raises(InvalidValueError, match="singular"):
        trained(rece(erase=["a bomb"], lam=0, uce_lam=0, uce_preserve_scale=0))
    with pytest.raises(IncompatibleError, match="flux"):
        rece().check({"name": "flux", "family": "flux"}, 5.0)


def test_epochs_are_part_of_the_recipe():
    assert rece(epochs=2).training_identity() != rece(epochs=3).training_identity()
    assert rece(strength=0.2).training_identity() == rece().training_identity()
    assert rece().training_identity()["kind"] == "rece"
