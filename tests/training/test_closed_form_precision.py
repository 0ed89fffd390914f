"""Closed forms read text embeddings in float32, whatever the model's dtype."""

from __future__ import annotations

import copy
from collections import OrderedDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.models.loaded import LoadedModel
from harness.training.artifacts import ArtifactCache, prepare_all
from methods.rece import RECE
from methods.safree import SAFREE
from methods.uce import UCE
from tests.support.fixtures_models import make_items, random_model


def in_precision(dtype: torch.dtype, then: torch.dtype | None = None) -> LoadedModel:
    """Return the random-weight model with its text encoder rounded to `dtype`, and held in `then`."""
    model = copy.copy(random_model())
    model.pipe = copy.copy(model.pipe)
    model.pipe.text_encoder = copy.deepcopy(model.pipe.text_encoder).to(dtype).to(then or dtype)
    model._texts = OrderedDict()
    return model


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", [UCE(["a bomb"], preserve=["a house"]), RECE(["a bomb"], epochs=2)],
                         ids=["uce", "rece"])
def test_a_closed_form_in_half_precision_is_that_of_float32(method, dtype, tmp_path):
    """The weights are rounded either way; what is compared is the precision in which texts are encoded."""
    (half,) = prepare_all(in_precision(dtype), [method], ArtifactCache(tmp_path / "half"))
    (full,) = prepare_all(in_precision(dtype, torch.float32), [method], ArtifactCache(tmp_path / "full"))
    for name, value in full.tensors.items():
        torch.testing.assert_close(half.tensors[name], value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_safree_edits_in_half_precision_are_those_of_float32(dtype):
    method, items = SAFREE(["a bomb", "a skull"], alpha=-0.5), make_items(3)

    def edits(model: LoadedModel) -> list[Any]:
        cond = model.encode([item.prompt for item in items])
        return method.edits(SimpleNamespace(model=model, items=items), cond)  # type: ignore[arg-type]

    pairs = list(zip(edits(in_precision(dtype)), edits(in_precision(dtype, torch.float32)), strict=True))
    assert any(full is not None for _, full in pairs)
    for half, full in pairs:
        assert (half is None) == (full is None)
        if full is not None:
            torch.testing.assert_close(half.embeds, full.embeds, rtol=1e-6, atol=1e-7)
            assert half.calls == full.calls


def test_encoding_in_float32_gives_every_byte_and_the_cached_texts_back():
    model = in_precision(torch.float16)
    before = {name: value.clone() for name, value in model.pipe.text_encoder.named_parameters()}
    known = model.embed("a bomb")
    with model.float32_texts():
        exact = model.embed("a bomb")
        assert exact.dtype == torch.float32
        with model.float32_texts():
            assert model.embed("a bomb") is exact
    assert model.embed("a bomb") is known and known.dtype == torch.float16
    assert all(torch.equal(before[name], value) for name, value in model.pipe.text_encoder.named_parameters())
    assert float((known.float() - exact).abs().max()) > 0
