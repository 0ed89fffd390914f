"""SAFREE's latent re-attention: the paper's and the release's filters, where they act, and what they cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from methods.safree import ROLE, _reattend, _widths, reattended, replaced
from tests.method_parity import agree
from tests.methods.test_methods_safree import noise, safree
from tests.sampling.test_denoiser import pixels, run
from tests.support.fixtures_models import make_items, random_model
from tests.training.test_finetune import full_size


@pytest.mark.parametrize("band", ["low", "high", "all"])
def test_reattention_scales_what_is_louder_and_only_in_its_band(band):
    original = noise(2, 3, 8, 8)
    assert torch.equal(reattended(original, original, 0.2, band), original)
    assert torch.equal(reattended(original, 2 * original, 0.2, band), original)
    assert torch.allclose(reattended(2 * original, original, 1.0, band), 2 * original, atol=1e-6)
    f, g = (torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1)) for x in (
        reattended(2 * original, original, 0.2, band), 2 * original))
    ratio = (f.abs() / g.abs())[0, 0]
    far = torch.ones(8, 8, dtype=torch.bool)
    far[3:6, 3:6] = False  # FreeU's square, 3 to 4, and what a real image pairs with it
    assert ratio[4, 4].item() == pytest.approx(0.2 if band != "high" else 1.0, abs=1e-4)
    assert torch.allclose(ratio[far], torch.tensor(0.2 if band != "low" else 1.0), atol=1e-3)


def test_reattention_at_scale_one_changes_nothing_and_below_it_does():
    model, items = random_model(), make_items(2)
    off = pixels(run(model, [safree(svf=False)], items)).astype(int)
    one = pixels(run(model, [safree(svf=False, lra="all", lra_form="paper", lra_scale_1=1, lra_scale_2=1)], items))
    low = pixels(run(model, [safree(svf=False, lra="low", lra_form="paper", lra_scale_1=0, lra_scale_2=0)], items))
    assert np.abs(one - off).max() <= 1 < np.abs(low - off).max()


def released_filter(edited: np.ndarray, original: np.ndarray, s: float, band: str) -> np.ndarray:
    """Do what the release's low and high filters do, coefficient by coefficient of one picture (H, W)."""
    f, g = (np.fft.fftshift(np.fft.fft2(x)) for x in (edited, original))
    row, column = len(edited) // 2, edited.shape[1] // 2
    for i, j in np.ndindex(edited.shape):
        inside = row - 1 <= i < row + 1 and column - 1 <= j < column + 1
        if band == "low" and inside and not g[i, j].real - f[i, j].real > 0:
            f[i, j] = s
        if band == "high" and not inside and abs(g[i, j].real) > abs(f[i, j].real):
            f[i, j] = s
    return np.fft.ifft2(np.fft.ifftshift(f)).real


@pytest.mark.parametrize("shape", [(8, 8), (7, 6), (2, 2)])
def test_released_filters_put_a_constant_where_the_release_does(shape):
    edited, original = noise(2, 3, *shape), noise(2, 3, *shape, seed=1)
    original[:, :, 0] = edited[:, :, 0]
    for band in ("low", "high"):
        expected = np.stack([[released_filter(x.numpy(), y.numpy(), 0.9, band) for x, y in zip(xs, ys, strict=True)]
                             for xs, ys in zip(edited, original, strict=True)])
        agree("safree_filter", np.abs(replaced(edited, original, 0.9, band).numpy() - expected).max(), 1e-5)
    both = replaced(replaced(edited, original, 0.9, "high"), original, 0.9, "low")
    assert torch.equal(replaced(edited, original, 0.9, "all"), both)
    assert torch.allclose(replaced(edited, edited, 0.9, "high"), edited, atol=1e-6)


def test_released_filters_act_where_features_of_1280_and_640_channels_meet_a_skip():
    """On SD 1: s1 in the first two stages and where the third begins, s2 in the rest of it and where the last does."""
    blocks, met = full_size().up_blocks, 1280
    found = []
    for block in blocks:
        found.append(_widths(block, torch.zeros(1, met, 1, 1, device="meta")))
        met = block.resnets[-1].out_channels
    assert found == [[1280] * 3, [1280] * 3, [1280, 640, 640], [640, 320, 320]]
    model, method = random_model(), safree(lra="high", lra_scale_1=0.9, lra_scale_2=0.2)
    skips = tuple(noise(6, width, 4, 4, seed=width) for width in (320, 640, 1280))
    method.__dict__["_active"] = frozenset([0, 1])
    model.roles, model.items = ("uncond",) * 2 + ("cond",) * 2 + (ROLE,) * 2, tuple(make_items(2))
    try:
        _, changed = _reattend(model, method, {1280: 0.9, 640: 0.2}, blocks[3], (), {
            "res_hidden_states_tuple": skips, "hidden_states": torch.zeros(6, 640, 1, 1)})
    finally:
        model.roles, model.items = (), ()
    out = changed["res_hidden_states_tuple"]
    assert torch.equal(out[0], skips[0]) and torch.equal(out[1], skips[1])
    assert torch.equal(out[2][2:4], replaced(skips[2][2:4], skips[2][4:], 0.2, "high"))
    assert torch.equal(out[2][[0, 1, 4, 5]], skips[2][[0, 1, 4, 5]])


@pytest.mark.parametrize("band", ["low", "high", "all"])
def test_released_reattention_changes_pictures(band):
    model, items = random_model(), make_items(2)
    off = pixels(run(model, [safree(svf=False)], items)).astype(int)
    assert np.abs(pixels(run(model, [safree(svf=False, lra=band)], items)) - off).max() > 1


@pytest.mark.parametrize(("form", "expected"), [("paper", [6, 4, 4]), ("released", [6, 6, 6])])
def test_reattention_costs_a_row_while_the_edit_is_used_and_as_released_in_every_call(form, expected):
    model, items, sizes = random_model(), make_items(2), []
    original = model.denoiser.forward
    model.denoiser.forward = lambda sample, *a, **k: (sizes.append(len(sample)), original(sample, *a, **k))[1]
    try:
        run(model, [safree(lra="low", lra_form=form, svf_midpoint=100.0, window="calls")], items, steps=3)
    finally:
        del model.denoiser.forward
    assert sizes == expected
    assert safree(lra="low").denoiser_rows == 1 and safree().denoiser_rows == 0


def test_attention_is_changed_for_images_with_an_active_edit_alone():
    """Rows that differ by rounding, as a GPU's kernels make them, stay as they are where nothing is edited."""
    model, method = random_model(), safree(lra="all", lra_form="paper", lra_scale_1=0.2)
    skip = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    skip[4:] = skip[2:4] * (1 + 1e-6)  # what the original prompts give
    method.__dict__["_active"] = frozenset([1])
    model.roles, model.items = ("uncond",) * 2 + ("cond",) * 2 + (ROLE,) * 2, tuple(make_items(2))
    skip[2:4] *= 1 + 3e-6
    try:
        skips = {"res_hidden_states_tuple": (skip,), "hidden_states": skip}
        _, changed = _reattend(model, method, 0.2, None, (), skips)
    finally:
        model.roles, model.items = (), ()
    (out,) = changed["res_hidden_states_tuple"]
    assert torch.equal(out[[0, 1, 2, 4, 5]], skip[[0, 1, 2, 4, 5]]) and not torch.allclose(out[3], skip[3], atol=0.1)
