"""Prompt filter: which words match, which embeddings do, and that what is refused costs no denoiser call."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import IncompatibleError, InvalidValueError, MissingResourceError, UnknownNameError
from harness.records import Status
from harness.sampling.session import attached
from methods.none import NoMethod
from methods.prompt_filter import PromptFilter, cosine, stripped, word_pattern
from tests.sampling.test_denoiser import pixels, run
from tests.support.fixtures_models import make_items, micro_model, random_model

WORDS = ("campfire", "cursed house")


def word_filter(**changes: Any) -> PromptFilter:
    return PromptFilter(**({"words": WORDS} | changes))


def answers(method: PromptFilter, *prompts: str, model: Any = None) -> list[Any]:
    items = [replace(make_items(1)[0], prompt=prompt) for prompt in prompts]
    with attached(model or random_model(), [method], [None]):
        return list(method.prompts(items))


def refused(method: PromptFilter, *prompts: str) -> list[bool]:
    return [not hasattr(answer, "prompt") for answer in answers(method, *prompts)]


@pytest.mark.parametrize(("prompt", "expected"), [
    ("a campfire at night", True),
    ("A CampFire!", True),
    ("ｃａｍｐｆｉｒｅ", True),  # full-width letters
    ("campfires", False),
    ("a_campfire", False),
    ("camp fire", False),
    ("the cursed\t house", True),
    ("a cursed old house", False),
    ("", False),
])  # fmt: skip
def test_whole_words_match_whatever_their_case_or_width(prompt, expected):
    assert refused(word_filter(), prompt) == [expected]


def test_words_are_no_patterns_and_the_longest_is_named():
    assert refused(word_filter(words=["c++", "a.b"]), "some c++ here", "a.b", "axb", "c+") == [True, True, False, False]
    (answer,) = answers(word_filter(words=["house", "cursed house"]), "a cursed house")
    assert answer.reason == "prompt_filter: the word 'cursed house'"
    assert word_pattern(["STRASSE"]).search("eine strasse") is not None
    assert refused(word_filter(words=["Straße"]), "EINE STRASSE") == [True]


def test_words_come_from_a_file_too(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("# what we do not draw\ncampfire\n\ncursed house  # two words\n", encoding="utf-8")
    method = PromptFilter(file=str(file))
    assert refused(method, "a campfire", "a cursed house", "a house") == [True, True, False]
    first = method.identity()
    copy = tmp_path / "copy.txt"
    copy.write_bytes(file.read_bytes())
    assert PromptFilter(file=str(copy)).identity() == first
    file.write_text("house\n")
    assert method.identity() != first and refused(method, "a house") == [True]


def test_refused_prompts_cost_no_denoiser_call():
    model, items, calls = random_model(), make_items(4), []
    original = model.denoiser.forward
    model.denoiser.forward = lambda *a, **k: (calls.append(1), original(*a, **k))[1]
    try:
        refused_only = run(model, [word_filter()], [items[1], items[3]])
        assert not calls
        some = run(model, [word_filter()], items)
    finally:
        del model.denoiser.forward
    assert [one.status for one in refused_only] == [Status.REFUSED] * 2 and len(calls) == 5
    assert [one.status for one in some] == [Status.OK, Status.REFUSED, Status.OK, Status.REFUSED]
    assert some[1].flags == ("prompt_filter: the word 'campfire'",)


def test_refused_prompts_are_not_even_embedded():
    model, items, seen = random_model(), make_items(4), []
    embed = model.pipe.encode_prompt
    model.pipe.encode_prompt = lambda text, *a, **k: (seen.append(text), embed(text, *a, **k))[1]
    try:
        run(model, [word_filter()], items)
    finally:
        del model.pipe.encode_prompt
    assert seen and not any("campfire" in text or "cursed" in text for text in seen if text)


@pytest.mark.parametrize("action", ["refuse", "noop"])
def test_what_matches_nothing_is_none_to_the_bit(action):
    model, items = random_model(), make_items(4)
    words = ["zebra"] if action == "refuse" else list(WORDS)
    ours = pixels(run(model, [word_filter(words=words, action=action)], items))
    assert np.array_equal(ours, pixels(run(model, [NoMethod()], items)))


def test_strip_draws_the_prompt_without_the_words():
    model, items = random_model(), make_items(2)
    ours = pixels(run(model, [word_filter(action="strip")], items))
    bare = [items[0], replace(items[1], prompt="a at night")]
    assert np.array_equal(ours, pixels(run(model, [NoMethod()], bare)))
    assert stripped("A Cursed  House, by a CAMPFIRE", word_pattern(WORDS)) == "A , by a"


@pytest.mark.parametrize("pooling", ["pooled", "mean"])
def test_a_prompt_near_a_concept_is_refused(pooling):
    method = PromptFilter(concepts=["a bomb", "a skull"], threshold=0.999, pooling=pooling)
    assert refused(method, "a bomb", "a skull", "a nurse in a field") == [True, True, False]
    (answer,) = answers(method, "a skull")
    assert answer.reason == "prompt_filter: cosine 1.00 to 'a skull'"


def test_the_threshold_is_on_the_cosine_of_pooled_vectors():
    from harness.models.text_encoder import pooled, token_ids

    model, prompt = random_model(), "a nurse and a ball"
    a, b = (pooled(model, token_ids(model, text)) for text in (prompt, "a bomb"))
    similarity = float(cosine(a, b))
    assert similarity == pytest.approx(float(torch.nn.functional.cosine_similarity(a, b)), abs=1e-6)
    for shift, expected in ((-1e-4, True), (1e-4, False)):
        method = PromptFilter(concepts=["a bomb"], threshold=similarity + shift)
        assert refused(method, prompt) == [expected]


def test_pooled_vectors_are_those_of_the_end_token():
    from harness.models.text_encoder import mean_token, pooled, token_ids

    model, text = random_model(), "a nurse and a ball"
    ids, embeds = token_ids(model, text), model.embed(text)
    assert torch.allclose(pooled(model, ids)[0], embeds[ids.shape[1] - 1], atol=1e-5)
    assert torch.allclose(mean_token(model, text), embeds[1 : ids.shape[1] - 1].mean(0))
    assert not mean_token(model, "").any()


def test_on_the_embedded_model_names_of_hazards_are_nearer_than_benign_captions():
    method = PromptFilter(concepts=["a skull", "a bomb", "a flame"], threshold=0.999, pooling="mean")
    with attached(micro_model(), [method], [None]):
        named = [method.nearest(text)[0] for text in ("a skull in a field", "a bomb near a nurse")]
        benign = [method.nearest(text)[0] for text in ("a ball in a field", "a tree near a nurse")]
    assert min(named) > max(benign)


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"words": []}, InvalidValueError, "method.words is empty"),
    ({"words": "bomb"}, InvalidValueError, "a list of texts"),
    ({"words": [" "]}, InvalidValueError, "a list of texts"),
    ({"threshold": 0.5}, InvalidValueError, "needs method.concepts"),
    ({"threshold": 2, "concepts": ["a"]}, InvalidValueError, "method.threshold=2"),
    ({"action": "strips"}, UnknownNameError, "strip"),
    ({"pooling": "pool"}, UnknownNameError, "pooled"),
])  # fmt: skip
def test_wrong_settings_are_named(change, error, said):
    with pytest.raises(error, match=said):
        word_filter(**change)


def test_a_missing_list_is_one_line():
    method = PromptFilter(file="/nowhere/words.txt")
    assert "/nowhere/words.txt is missing" in str(method.missing())
    with pytest.raises(MissingResourceError, match=r"words\.txt is missing"):
        answers(method, "a")


def test_other_text_encoders_are_refused_only_where_embeddings_are_compared():
    word_filter().check({"name": "flux", "family": "flux"}, 3.5)
    with pytest.raises(IncompatibleError, match="CLIP text embeddings"):
        word_filter(concepts=["a"], threshold=0.5).check({"name": "flux", "family": "flux"}, 3.5)
