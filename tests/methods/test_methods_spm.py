"""SPM: the released layer and scale, its merge, and files that do not fit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import IncompatibleError, InvalidValueError, UnknownNameError
from harness.records import ImageItem, ImageKey
from harness.sampling.session import attached
from methods.none import NoMethod
from methods.spm import SPM, adapted, adapted_layers, token_share
from tests.method_parity import agree
from tests.sampling.test_denoiser import pixels
from tests.support.fixtures_models import make_items, make_settings, random_model
from tests.support.methods_common import draw

ERASED = "a campfire"


def adapters(rank: int = 1, seed: int = 0, scale: float = 0.6) -> dict[str, torch.Tensor]:
    """Return a file's content as the release saves it: lora_down, lora_up and alpha of every layer."""
    generator, made = torch.Generator().manual_seed(seed), {}
    for name, layer in adapted_layers(random_model().denoiser).items():
        out, into, *kernel = layer.weight.shape
        made[f"{name}.lora_down.weight"] = scale * torch.randn(rank, into, *kernel, generator=generator)
        made[f"{name}.lora_up.weight"] = scale * torch.randn(out, rank, *[1 for _ in kernel], generator=generator)
        made[f"{name}.alpha"] = torch.tensor(1.0)
    return made


def write(path: Path, tensors: dict[str, torch.Tensor], **metadata: str) -> str:
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"prompts": ERASED, "rank": "1", "alpha": "1.0"} | metadata)
    return str(path)


@pytest.fixture
def file(tmp_path) -> str:
    return write(tmp_path / "campfire_last.safetensors", adapters())


def merged(tensors: dict[str, torch.Tensor], ratio: float) -> Any:
    """Return the U-Net with W + ratio up down, as the release's merge_spm writes it."""
    unet = copy.deepcopy(random_model().denoiser)
    for name, layer in adapted_layers(unet).items():
        down, up = tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"]
        scale = float(tensors[f"{name}.alpha"]) / len(down)
        if down.ndim == 4 and down.shape[2:] == (1, 1):
            delta = (up.squeeze(3).squeeze(2) @ down.squeeze(3).squeeze(2))[:, :, None, None]
        else:
            delta = up @ down
        layer.weight.data += ratio * scale * delta
    return unet


def compare(method: SPM, reference: Any) -> float:
    """Return the largest difference between a hooked call and the merged network's."""
    model = random_model()
    z, t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor(500)
    texts = model.encode(["a doctor", "a pilot"])
    with torch.no_grad(), attached(model, [method], [None]):
        model.roles, model.items = ("cond",) * 2, tuple(make_items(2))
        ours = model.pipe.unet(z, t, texts).sample
        model.roles, model.items = (), ()
    with torch.no_grad():
        return float((ours - reference(z, t, texts).sample).abs().max() / ours.abs().max())


@pytest.mark.parametrize("rank", [1, 4])
def test_a_constant_multiplier_is_the_released_merge(tmp_path, rank):
    tensors = adapters(rank, scale=0.2)
    method = SPM(write(tmp_path / "x.safetensors", tensors, rank=str(rank)), multipliers=[0.7], transport="paper")
    agree("spm", compare(method, merged(tensors, 0.7)), 1e-4)
    assert compare(method, merged(tensors, 0.0)) > 1e-3


def test_the_released_transport_scales_up_and_down_each(tmp_path, file):
    assert compare(SPM(file, multipliers=[0.5]), merged(adapters(), 0.25)) < 1e-4


def test_strength_scales_what_is_added_in_either_transport(file):
    for transport, ratio in (("released", 0.25), ("paper", 0.5)):
        method = SPM(file, multipliers=[0.5], transport=transport, strength=0.5)
        assert compare(method, merged(adapters(), 0.5 * ratio)) < 1e-4


def test_an_alpha_of_none_or_zero_is_the_rank(tmp_path):
    tensors = adapters(2, scale=0.2)
    whole = merged({name: value * 2 if name.endswith("alpha") else value for name, value in tensors.items()}, 1.0)
    for alpha in ("None", "0"):
        method = SPM(write(tmp_path / f"{alpha}.safetensors", tensors, alpha=alpha, rank="2"), multipliers=[1.0])
        assert compare(method, whole) < 1e-4


def test_several_adapters_mix_as_the_release_sums_their_weights(tmp_path):
    one, two = adapters(seed=0), adapters(seed=1)
    files = [write(tmp_path / "a.safetensors", one), write(tmp_path / "b.safetensors", two)]
    summed = {name: one[name] if name.endswith("alpha") else 0.5 * one[name] + 0.8 * two[name] for name in one}
    assert compare(SPM(files, multipliers=[0.5, 0.8]), merged(summed, 1.0)) < 1e-4


def test_convolutions_of_any_kernel_are_adapted_as_convolutions():
    from methods.spm import _convolved

    layer = torch.nn.Conv2d(3, 5, 3, stride=2, padding=1)
    x, down, up = torch.randn(2, 3, 8, 8), torch.randn(1, 2, 3, 3, 3), torch.randn(1, 5, 2)
    inner = torch.nn.functional.conv2d(x, down[0], stride=2, padding=1)
    expected = torch.nn.functional.conv2d(inner, 0.3 * up[0][:, :, None, None])
    ours = _convolved(layer, x, down, up, torch.full((2, 1), 0.3), "paper")
    assert torch.allclose(ours, expected, atol=1e-4)


def test_each_row_has_its_own_scale():
    x, down, up = torch.randn(3, 7, 4), torch.randn(2, 1, 4), torch.randn(2, 5, 1)
    gamma = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.5, 2.0]])
    for transport in ("paper", "released"):
        whole = adapted(x, down, up, gamma, transport)
        assert not whole[0].any()
        for row in range(3):
            alone = adapted(x[row : row + 1], down, up, gamma[row : row + 1], transport)
            assert torch.allclose(whole[row], alone[0], atol=1e-6)


def test_gamma_is_the_larger_of_cosine_and_shared_tokens(file):
    model = random_model()
    method = SPM(file)
    flat = [model.embed(text).flatten() for text in ("a doctor", ERASED)]
    cosine = float(torch.nn.functional.cosine_similarity(*flat, dim=0))
    assert SPM(file, matching="clipcos").gamma(model, "a doctor", [[ERASED]]) == [pytest.approx(cosine)]
    assert SPM(file, matching="tokenuni").gamma(model, "a doctor", [[ERASED]]) == [
        token_share({1, 2}, {1, 3})]  # of "a campfire" the prompt has the "a"
    assert method.gamma(model, "the house with a campfire", [[ERASED]]) == [1.0]
    assert method.gamma(model, ERASED, [["a tree", ERASED]]) == [pytest.approx(1.0)]
    assert token_share({1, 2}, set()) == 0.0


def test_an_image_is_edited_by_its_own_prompt_whatever_shares_its_batch(file):
    def items(*prompts: str) -> list[ImageItem]:
        return [ImageItem(ImageKey(f"p{n}", 0), prompt, n, 5.0) for n, prompt in enumerate(prompts)]

    def run(*prompts: str) -> np.ndarray:
        with attached(random_model(), [SPM(file, matching="tokenuni")], [None]) as session:
            return pixels(session.generate(items(*prompts), make_settings())).astype(int)

    with attached(random_model(), [NoMethod()], [None]) as session:
        plain = pixels(session.generate(items("the doctor", ERASED), make_settings()))
    mixed, alone = run("the doctor", ERASED), run("the doctor", "the doctor")
    assert np.array_equal(mixed[0], plain[0]) and np.array_equal(alone[0], plain[0])
    assert not np.array_equal(mixed[1], plain[1])


def test_a_folder_holds_the_last_file_of_its_name(tmp_path, file):
    folder = tmp_path / "campfire"
    write(folder / "campfire_last.safetensors", adapters())
    assert np.array_equal(draw(SPM(str(folder)), None), draw(SPM(file), None))


def test_files_without_metadata_need_the_concept(tmp_path):
    path = tmp_path / "x.pt"
    torch.save(adapters(), path)
    with pytest.raises(InvalidValueError, match=r"does not say what it erases.*method\.concepts"), \
            attached(random_model(), [SPM(str(path))], [None]):
        pass
    assert not np.array_equal(draw(SPM(str(path), concepts=ERASED), None), draw(NoMethod(), None))


@pytest.mark.parametrize(("kind", "said"), [
    ("absent", "is missing"), ("extra", "is not in the model"), ("shape", "has shape"), ("nan", "non-finite")])
def test_a_wrong_layout_is_refused_in_one_line(tmp_path, kind, said):
    tensors = adapters()
    name = next(iter(tensors))
    if kind == "absent":
        del tensors[name]
    elif kind == "extra":
        tensors["lora_te_text_model.alpha"] = torch.tensor(1.0)
    elif kind == "shape":
        tensors[name] = torch.zeros(1, 999)
    else:
        tensors[name] = torch.full_like(tensors[name], torch.inf)
    file = write(tmp_path / "wrong.safetensors", tensors)
    with pytest.raises(InvalidValueError, match=said) as caught, attached(random_model(), [SPM(file)], [None]):
        pass
    assert "\n" not in str(caught.value)


def test_ranks_must_agree(tmp_path):
    files = [write(tmp_path / "a.safetensors", adapters(1)), write(tmp_path / "b.safetensors", adapters(2))]
    with pytest.raises(InvalidValueError, match="different rank"), attached(random_model(), [SPM(files)], [None]):
        pass


def test_wrong_settings_are_named(file):
    with pytest.raises(UnknownNameError, match="clipcos"):
        SPM(file, matching="clip")
    with pytest.raises(InvalidValueError, match="2 values for 1 checkpoints"):
        SPM(file, multipliers=[1, 1])
    with pytest.raises(IncompatibleError, match="sdxl"):
        SPM().check({"name": "xl", "family": "sdxl"}, 5.0)
    assert "github.com/Con6924/SPM" in str(SPM().missing())
    assert len(SPM([file, file]).identity()["params"]["checkpoint"]) == 2
