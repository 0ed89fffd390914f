"""The negative prompt against diffusers' own argument."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.errors import IncompatibleError
from harness.sampling.session import attached
from methods.negative_prompt import NegativePrompt
from methods.sld import SLD
from tests.method_parity import agree
from tests.support.fixtures_models import make_items, make_settings, random_model


def draw(items, *methods):
    with attached(random_model(), methods, [None] * len(methods)) as session:
        return [result.image.astype(int) for result in session.generate(items, make_settings())]


def test_it_is_diffusers_negative_prompt():
    pipe, items = random_model().pipe, make_items(3)
    theirs = pipe([item.prompt for item in items], negative_prompt=["a bomb"] * 3, num_inference_steps=5,
                  generator=[torch.Generator().manual_seed(item.seed) for item in items], guidance_scale=5.0,
                  height=32, width=32).images  # fmt: skip
    ours = draw(items, NegativePrompt("a bomb"))
    gaps = [np.abs(a - np.asarray(b).astype(int)).max() for a, b in zip(ours, theirs, strict=True)]
    agree("negative_prompt", max(gaps), 1)
    assert np.abs(ours[0] - draw(items, NegativePrompt(""))[0]).max() > 2


def test_a_rows_own_negative_prompt_is_kept():
    item = replace(make_items(1)[0], negative_prompt="a tree")
    (changed,) = NegativePrompt("a bomb").prompts([item])
    assert changed.negative_prompt == "a tree, a bomb"
    assert NegativePrompt("").prompts([item]) == [item]


def test_it_composes_with_sld_on_one_more_row():
    items, sld = make_items(2), SLD("a bomb", 0, 5000, 1.0, 0.5, 0.7)
    both = draw(items, NegativePrompt("a skull"), sld)
    assert np.abs(both[0] - draw(items, sld)[0]).max() > 0


def test_guidance_one_is_refused():
    with pytest.raises(IncompatibleError, match="guidance_scale=1"):
        NegativePrompt("a bomb").check({"name": "micro"}, 1.0)
