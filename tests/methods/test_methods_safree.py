"""SAFREE: projectors, the trigger rule, the filter's length, re-attention, and what it does to embeddings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import IncompatibleError, InvalidValueError, UnknownNameError
from harness.method import EmbedBundle, StepContext, check_composition
from harness.models.text_encoder import last_overflows, pooled, token_ids
from harness.sampling.session import attached
from methods.negative_prompt import NegativePrompt
from methods.none import NoMethod
from methods.safree import (
    SAFREE,
    distance,
    filtered_calls,
    masked,
    projector,
    triggers,
)
from tests.method_parity import agree
from tests.sampling.test_denoiser import checksum, pixels, run, scheduler
from tests.support.fixtures_models import make_items, make_settings, micro_model, random_model, random_xl_model

CONCEPTS = ("skull", "bomb", "flame", "hazard")


def safree(**changes: Any) -> SAFREE:
    return SAFREE(**({"concepts": CONCEPTS, "negative_prompt": False} | changes))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_projectors_are_idempotent_symmetric_and_keep_their_span():
    E = noise(32, 5)
    P = projector(E)
    assert torch.allclose(P @ P, P, atol=1e-12) and torch.allclose(P, P.T)
    assert torch.allclose(P @ E.double(), E.double(), atol=1e-10)
    gram = E.double() @ torch.linalg.pinv(E.double().T @ E.double()) @ E.double().T
    assert torch.allclose(P, gram, atol=1e-9)
    assert torch.trace(P).item() == pytest.approx(5)


def test_projectors_of_dependent_columns_have_their_rank():
    E = noise(32, 3)
    P = projector(torch.cat([E, E, 2 * E[:, :1]], dim=1))
    assert torch.allclose(P, projector(E), atol=1e-9)
    assert torch.trace(projector(noise(8, 20))).item() == pytest.approx(8)
    assert not projector(torch.zeros(8, 2)).any()


def test_triggers_lie_beyond_the_mean_of_the_others():
    d = torch.tensor([1.0, 1.0, 2.0, 1.0])
    assert triggers(d, alpha=0.01).tolist() == [False, False, True, False]
    assert triggers(d, alpha=1.0).tolist() == [False, False, True, False]
    assert triggers(d, alpha=1.01).tolist() == [False] * 4
    assert triggers(torch.ones(3), alpha=0.0).tolist() == [True] * 3  # at the limit: what is not below is one


def test_a_constructed_prompt_has_its_trigger_found():
    """Leaving the unsafe word out takes the prompt out of the unsafe subspace: that token's d is the largest."""
    C = torch.eye(6)[:, :2]
    m = torch.tensor([[3.0, 1, 1, 0, 0, 0], [0.0, 0, 2, 3, 1, 0], [2.0, 2, 1, 0, 0, 0]])
    d = ((torch.eye(6, dtype=torch.float64) - projector(C)) @ m.double().T).norm(dim=0)
    assert d.tolist() == pytest.approx([1.0, 14**0.5, 1.0])
    assert triggers(d, alpha=0.01).tolist() == [False, True, False]


def test_one_token_is_a_trigger_and_no_nan():
    assert triggers(torch.tensor([3.0]), 0.01).tolist() == [True]
    images = pixels(run(random_model(), [safree(svf=False)], [replace(make_items(1)[0], prompt="ball")]))
    assert np.isfinite(images).all()


@pytest.mark.parametrize(("beta", "expected"), [(0.0, 0), (0.5, 2), (0.5333, 5), (0.6, 10), (1.0, 10), (-900.0, 0)])
def test_filter_length_is_the_released_sigmoid(beta, expected):
    assert filtered_calls(beta, 10, 2.5, 5.333) == expected


def test_artists_have_another_sigmoid():
    assert filtered_calls(0.55, 10, 3.5, 5.5) == 5 and filtered_calls(0.5, 10, 3.5, 5.5) == 0


def test_distance_is_one_minus_the_mean_cosine():
    e = torch.tensor([[1.0, 0], [0, 2]])
    assert distance(e, torch.tensor([[3.0, 0], [1, 0]])) == pytest.approx(0.5)


def test_masked_rows_lack_one_token_each():
    rows = masked(torch.tensor([[9, 5, 6, 7, 8]]))
    assert rows.tolist() == [[9, 0, 6, 7, 8], [9, 5, 0, 7, 8], [9, 5, 6, 0, 8]]


def context(prompts: list[str], call: int = 0, steps: int = 50, state: Any = None, model: Any = None) -> Any:
    items = [replace(make_items(1)[0], prompt=prompt) for prompt in prompts]
    z = torch.zeros(len(items), 4, 8, 8)
    w = torch.full((len(items), 1, 1, 1), 5.0)
    return StepContext(call, steps, steps, torch.tensor(1), w, z, items, model or random_model(), None,
                       {} if state is None else state)


def bundle(prompts: list[str], model: Any = None) -> EmbedBundle:
    model = model or random_model()
    return EmbedBundle(model.encode(prompts), model.encode([""] * len(prompts)))


def test_trigger_tokens_become_their_projection_and_nothing_else_changes():
    model, prompt = random_model(), "a campfire near a round nurse"
    ids = token_ids(model, prompt)
    n = ids.shape[1] - 2
    C = torch.cat([pooled(model, token_ids(model, text)) for text in CONCEPTS])
    m = pooled(model, masked(ids))
    away = torch.eye(32, dtype=torch.float64) - projector(C.T)
    hit = triggers((away @ m.double().T).norm(dim=0), 0.01)
    assert 0 < hit.sum() < n
    before = bundle([prompt])
    after = safree(svf=False).embeds(context([prompt]), before).cond[0]
    expected = before.cond[0].double() @ (away @ projector(m.double().T)).T
    for index in range(77):
        is_hit = 1 <= index <= n and bool(hit[index - 1])
        wanted = expected[index].float() if is_hit else before.cond[0, index]
        assert torch.allclose(after[index], wanted, atol=1e-5) and (is_hit or torch.equal(after[index], wanted))


def test_edited_tokens_lie_outside_of_the_unsafe_subspace():
    model, prompt = random_model(), "a campfire near a round nurse"
    C = torch.cat([pooled(model, token_ids(model, text)) for text in CONCEPTS]).T
    before = bundle([prompt])
    after = safree(svf=False).embeds(context([prompt]), before).cond[0]
    moved = (after != before.cond[0]).any(1)
    assert moved.any() and (projector(C) @ after[moved].double().T).abs().max() < 1e-5


def test_the_filter_decides_in_how_many_calls_the_edit_is_used():
    prompts = ["a campfire near a round nurse"]
    for midpoint, last in ((-100.0, 10), (100.0, 0)):  # beta far above, far below
        for call in (0, last, last + 1):
            after = safree(svf_midpoint=midpoint, window="calls").embeds(context(prompts, call), bundle(prompts))
            assert torch.equal(after.cond, bundle(prompts).cond) == (call > last)
    half = safree(svf_midpoint=-100.0)
    used = [call for call in range(25) if not torch.equal(half.embeds(context(prompts, call, 25), bundle(prompts)).cond,
                                                          bundle(prompts).cond)]
    assert used == list(range(6))  # 11 calls of 50 are 5.5 of 25


def test_without_the_filter_a_window_bounds_the_calls():
    prompts, method = ["a campfire near a round nurse"], safree(svf=False, start=11, end=20)
    for steps, used in ((50, range(10, 20)), (25, range(5, 10))):
        edited = [call for call in range(steps)
                  if not torch.equal(method.embeds(context(prompts, call, steps), bundle(prompts)).cond,
                                     bundle(prompts).cond)]
        assert edited == list(used)


def test_a_window_that_few_steps_never_reach_is_said_to_begin_after_them():
    late = {"svf": False, "start": 31}
    assert [safree(window=window, **late).first_call(25) for window in ("calls", "fraction")] == [30, 15]
    assert safree().first_call(25) == safree(strength=0.0, **late).first_call(25) == 0


def test_images_of_a_batch_are_edited_each_by_its_own_prompt():
    prompts = ["a campfire near a round nurse", "", "a pilot in a cursed house"]
    method = safree(svf=False)
    together = method.embeds(context(prompts), bundle(prompts)).cond
    for index, prompt in enumerate(prompts):
        assert torch.equal(together[index], method.embeds(context([prompt]), bundle([prompt])).cond[0])
    assert torch.equal(together[1], bundle(prompts).cond[1])


@pytest.mark.parametrize("change", [{"strength": 0.0, "negative_prompt": True, "lra": "all"}, {"alpha": 1e5}])
@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_strength_zero_is_none_to_the_bit(change, name):
    model, items = random_model(), [item for item in make_items(3) if len(item.prompt.split()) > 1]
    with scheduler(model, name):
        ours, none = (pixels(run(model, [method], items)) for method in (safree(**change), NoMethod()))
    assert np.array_equal(ours, none)


@pytest.mark.parametrize("name", ["ddim", "pndm"])
def test_it_is_the_stock_pipeline_on_edited_embeddings(name):
    model, items, method = random_model(), make_items(2), safree(svf=False)
    texts = [item.prompt for item in items]
    edited = method.embeds(context(texts), bundle(texts)).cond
    with scheduler(model, name):
        ours = pixels(run(model, [method], items))
        generators = [torch.Generator().manual_seed(item.seed) for item in items]
        theirs = model.pipe(prompt_embeds=edited, negative_prompt_embeds=model.encode(["", ""]), height=32, width=32,
                            num_inference_steps=5, generator=generators, guidance_scale=5.0).images  # fmt: skip
        agree("safree", np.abs(ours.astype(int) - np.stack([np.asarray(image) for image in theirs])).max(), 0)
        assert not np.array_equal(ours, pixels(run(model, [NoMethod()], items)))


def test_its_negative_prompt_is_the_released_one():
    model, items = random_model(), make_items(2)
    with_both = pixels(run(model, [safree(negative_prompt=True)], items))
    composed = pixels(run(model, [safree(), NegativePrompt(", ".join(CONCEPTS))], items))
    assert np.array_equal(with_both, composed)
    own = replace(items[0], negative_prompt="blurred")
    (changed,) = safree(negative_prompt=True).prompts([own])
    assert changed.negative_prompt == "blurred, skull, bomb, flame, hazard"


def test_its_negative_prompt_owns_the_unconditional_row_only_when_it_is_on():
    with pytest.raises(IncompatibleError, match="unconditional"):
        check_composition([safree(negative_prompt=True), NegativePrompt("a bomb")])
    check_composition([safree(), NegativePrompt("a bomb")])
    check_composition([safree(negative_prompt=True, strength=0), NegativePrompt("a bomb")])
    with pytest.raises(IncompatibleError, match="guidance_scale=1"):
        safree(negative_prompt=True).check({"name": "micro"}, 1.0)
    safree().check({"name": "micro"}, 1.0)


LONG_PROMPT = "a campfire near a round nurse and a doctor in a field " * 12


def test_a_prompt_that_is_cut_off_has_no_trigger_in_the_release():
    """Cut without its end token, it is pooled at its begin token, by transformers itself; that sees no other token."""
    model = random_model()
    tokenizer, encoder = model.pipe.tokenizer, model.pipe.text_encoder
    ids = tokenizer(LONG_PROMPT, return_tensors="pt").input_ids[:, : tokenizer.model_max_length]
    assert tokenizer.eos_token_id not in ids[0].tolist()
    with torch.no_grad():
        m = encoder(masked(ids)).pooler_output
    C = torch.cat([pooled(model, token_ids(model, text)) for text in CONCEPTS])
    d = ((torch.eye(32, dtype=torch.float64) - projector(C.T)) @ m.double().T).norm(dim=0)
    assert len(d) == 75 and not triggers(d, 0.01).any()
    before = bundle([LONG_PROMPT, "a campfire near a round nurse"])
    after = safree(svf=False).embeds(context([LONG_PROMPT, "a campfire near a round nurse"]), before)
    assert torch.equal(after.cond[0], before.cond[0]) and not torch.equal(after.cond[1], before.cond[1])


def test_a_prompt_that_is_cut_off_is_edited_on_request():
    before = bundle([LONG_PROMPT])
    after = safree(svf=False, long_prompts="edited").embeds(context([LONG_PROMPT]), before)
    assert not torch.equal(after.cond, before.cond)


def test_75_tokens_are_not_cut_off():
    words = " ".join(["ball"] * 75)
    assert not last_overflows(random_model(), words) and last_overflows(random_model(), f"{words} ball")


def test_on_sdxl_subspaces_are_those_of_the_second_encoders_projected_embeddings():
    model, prompt = random_xl_model(), "a campfire near a round nurse"
    tokenizer, encoder = model.pipe.tokenizer_2, model.pipe.text_encoder_2

    def text_embeds(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return encoder(ids).text_embeds.double()

    ids = tokenizer(prompt, return_tensors="pt").input_ids
    C = torch.cat([text_embeds(tokenizer(text, return_tensors="pt").input_ids) for text in CONCEPTS])
    m = text_embeds(masked(ids))
    away = torch.eye(C.shape[1], dtype=torch.float64) - projector(C.T)
    before = bundle([prompt], model)
    after = safree(svf=False).embeds(context([prompt], model=model), before).cond[0]
    hit = triggers((away @ m.T).norm(dim=0), 0.01)
    assert 0 < hit.sum() < len(hit)
    width = C.shape[1]
    expected = before.cond[0, :, -width:].double() @ (away @ projector(m.T)).T
    for index in range(77):
        is_hit = 1 <= index <= len(hit) and bool(hit[index - 1])
        assert torch.equal(after[index, :-width], before.cond[0, index, :-width])
        assert torch.allclose(after[index, -width:].double(), expected[index], atol=1e-5) == is_hit


def test_leaving_restores_every_byte_and_hook_also_after_an_exception():
    model, method = random_model(), safree(lra="high", svf=False)
    before = checksum(model)

    def block_hooks() -> int:
        return sum(len(block._forward_pre_hooks) for block in model.denoiser.up_blocks)

    with attached(model, [method], [None]) as session:
        assert block_hooks() == 2
        first, second = (pixels(session.generate(make_items(2), make_settings())) for _ in range(2))
    assert np.array_equal(first, second) and np.array_equal(first, pixels(run(model, [method], make_items(2))))
    with pytest.raises(ZeroDivisionError), attached(model, [method], [None]):
        raise ZeroDivisionError
    assert block_hooks() == 0 and checksum(model) == before


def test_on_the_embedded_model_the_named_hazard_is_a_trigger():
    model, method = micro_model(), safree(svf=False)
    prompt = "a picture of a bomb in a field"
    before = bundle([prompt], model)
    after = method.embeds(context([prompt], model=model), before).cond[0]
    tokens = [model.pipe.tokenizer.decode([index]).strip() for index in token_ids(model, prompt)[0].tolist()]
    moved = {tokens[i] for i in range(len(tokens)) if not torch.equal(after[i], before.cond[0, i])}
    assert "bomb" in moved


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"concepts": []}, InvalidValueError, "method.concepts"),
    ({"concepts": "nudity"}, InvalidValueError, "a list of texts"),
    ({"concepts": ["a", ""]}, InvalidValueError, "method.concepts"),
    ({"alpha": -2}, InvalidValueError, "method.alpha=-2"),
    ({"svf": "on"}, InvalidValueError, "method.svf=on"),
    ({"svf_upper": -1}, InvalidValueError, "method.svf_upper=-1"),
    ({"start": 3}, InvalidValueError, "method.svf=false"),
    ({"svf": False, "start": 3, "end": 2}, InvalidValueError, "method.end=2"),
    ({"lra": "hi"}, UnknownNameError, "high"),
    ({"lra_form": "papr"}, UnknownNameError, "paper"),
    ({"long_prompts": "edit"}, UnknownNameError, "edited"),
    ({"strength": 2}, InvalidValueError, "method.strength=2"),
    ({"window": "call"}, UnknownNameError, "calls"),
])  # fmt: skip
def test_wrong_settings_are_named(change, error, said):
    with pytest.raises(error, match=said):
        safree(**change)


def test_other_text_encoders_are_refused():
    with pytest.raises(IncompatibleError, match="CLIP text encoder"):
        safree().check({"name": "flux", "family": "flux"}, 3.5)


