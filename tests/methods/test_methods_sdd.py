"""SDD: the teacher, the roles of the concepts, the mended faults of the script, and the artifact it leaves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import IncompatibleError, InvalidValueError, UnknownNameError
from harness.training.fine_tuning import PartialDenoising, Stop, applied_deltas
from methods import sdd
from methods.sdd import SDD, ConceptPair
from tests.sampling.test_denoiser import checksum
from tests.support.fixtures_models import micro_model, random_model

QUICK: dict[str, Any] = {"concept": "a bomb", "iterations": 3, "learning_rate": 1e-3, "steps": 4, "ema_decay": 0.5}
JOINED = "a, b, c"


def quick(**changes: Any) -> SDD:
    return SDD(**(QUICK | changes))


def trained(method: SDD, model: Any = None) -> dict[str, torch.Tensor]:
    return dict(method.prepare(model or random_model(), [], lambda *_: None).tensors)


def no_draw(count: int) -> int:
    raise AssertionError("nothing is drawn")


@pytest.mark.parametrize(("roles", "expected"), [
    ("script", [ConceptPair(one, JOINED) for one in "abcabc"]),
    ("pseudo_code", [ConceptPair(JOINED, one) for one in "abcabc"]),
])  # fmt: skip
def test_both_readings_of_the_concept_roles(roles, expected):
    method = quick(concept=["a", "b", "c"], roles=roles, iterations=6)
    assert [method.pair(step, no_draw) for step in range(6)] == expected


def test_orders_of_several_concepts():
    def removed(order: str, draw: Any = no_draw) -> str:
        method = quick(concept=["a", "b", "c"], order=order, iterations=6)
        return "|".join(method.pair(step, draw).removed for step in range(6))

    assert removed("sequential") == "a|a|b|b|c|c"  # the script stays at a
    assert removed("random", lambda count: count - 1) == "c|c|c|c|c|c"
    assert quick(concept=["a", "b"], order="composite").pair(0, no_draw) == ConceptPair("a, b", "a, b")


@pytest.mark.parametrize("roles", ["script", "pseudo_code"])
def test_for_one_concept_the_readings_coincide(roles):
    assert quick(roles=roles).pair(7, no_draw) == ConceptPair("a bomb", "a bomb")


def test_no_step_trains_on_the_noise_and_not_on_a_finished_latent(monkeypatch):
    """The script's loop never breaks at k = 0."""
    seen = []
    run = PartialDenoising.run
    monkeypatch.setattr(PartialDenoising, "run", lambda self, denoise, noise, *a: (seen.append((noise, run(
        self, denoise, noise, *a))), seen[-1][1])[1])
    monkeypatch.setattr(sdd, "draw_stop", lambda *a: Stop(0, 990))
    trained(quick(iterations=1))
    ((noise, z),) = seen
    assert torch.equal(noise, z)


def test_the_teacher_draws_and_is_the_result(monkeypatch):
    drawn_by, followed = [], []
    run, follow = PartialDenoising.run, sdd.WorkingCopy.follow
    monkeypatch.setattr(PartialDenoising, "run", lambda self, denoise, *a: (drawn_by.append(denoise.__self__), run(
        self, denoise, *a))[1])
    monkeypatch.setattr(sdd.WorkingCopy, "follow", lambda self, other, decay: (followed.append((self, other)), follow(
        self, other, decay))[1])
    tensors = trained(quick())
    teacher, student = followed[0]
    assert len(followed) == 3 and all(model is teacher for model in drawn_by) and student is not teacher
    assert all(torch.equal(value, tensors[name]) for name, value in teacher.deltas().items())


def test_the_average_lags_behind_by_its_decay():
    fast, slow = (trained(quick(iterations=1, ema_decay=decay)) for decay in (0.0, 0.9))
    for name, value in slow.items():
        assert torch.allclose(value, 0.1 * fast[name], atol=1e-6)


def test_training_lowers_the_loss_and_repeats_to_the_bit():
    losses = quick(iterations=16, batch=2).prepare(random_model(), [], lambda *_: None).meta["losses"]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])
    first, again, other = trained(quick()), trained(quick()), trained(quick(seed=1))
    assert all(torch.equal(again[name], value) for name, value in first.items())
    assert not all(torch.equal(other[name], value) for name, value in first.items())


@pytest.mark.parametrize("change", [{"concept": ["a bomb", "a skull"]}, {"timesteps": "beta"}, {"parameters": "full"},
                                    {"parameters": "noxattn"}, {"order": "random", "roles": "pseudo_code"}])
def test_every_variant_trains_and_leaves_model_and_global_randomness_alone(change):
    model = random_model()
    before, state = checksum(model), torch.get_rng_state()
    assert any(delta.any() for delta in trained(quick(**change)).values())
    assert checksum(model) == before
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"concept": " "}, InvalidValueError, "method.concept"),
    ({"concept": [""]}, InvalidValueError, "method.concept"),
    ({"roles": "scrpt"}, UnknownNameError, "script"),
    ({"order": "iterativ"}, UnknownNameError, "Did you mean: iterative"),
    ({"timesteps": "gamma"}, UnknownNameError, "beta"),
    ({"ema_decay": 1.0}, InvalidValueError, "method.ema_decay=1"),
    ({"batch": 0}, InvalidValueError, "method.batch=0"),
    ({"max_grad_norm": -1}, InvalidValueError, "method.max_grad_norm=-1"),
])  # fmt: skip
def test_wrong_settings_are_named(change, error, said):
    with pytest.raises(error, match=said):
        quick(**change)


def test_other_families_are_refused_before_anything_loads():
    with pytest.raises(IncompatibleError, match="model big is sd3"):
        quick().check({"name": "big", "family": "sd3"}, 7.5)


def test_on_the_embedded_world_the_concepts_noise_moves_to_the_unconditional():
    model = micro_model()
    method = SDD(concept="bomb", iterations=8, learning_rate=2e-3, steps=4, batch=2, ema_decay=0.6)
    z, t = torch.randn(8, 4, 16, 16, generator=torch.Generator().manual_seed(9)), torch.tensor(700)

    def distance() -> float:
        with torch.no_grad():
            s, u = (model.denoiser(z, t, encoder_hidden_states=model.embed(text).expand(8, -1, -1)).sample
                    for text in ("bomb", ""))
        return float((s - u).square().mean())

    before = distance()
    with applied_deltas(model.denoiser, trained(method, model)):
        assert distance() < 0.7 * before


def test_without_guidance_the_latents_are_unconditional():
    asked, noise = [], torch.zeros(1, 4, 8, 8)

    def denoise(z, t, embeds):
        asked.append(embeds)
        return z

    for w in (0.0, 1.0):
        PartialDenoising(random_model().scheduler("ddim"), 4, w).run(denoise, noise, "c", "u", 2)
    assert asked == ["u", "u", "c", "c"]
    assert SDD(concept="a bomb", guidance_scale=0).guidance_scale == 0
