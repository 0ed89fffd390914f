"""MACE and SalUn: published U-Nets take the model's place, and files that do not fit are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from harness.errors import HarnessError, IncompatibleError, InvalidValueError, MissingResourceError
from harness.sampling.session import attached
from methods.mace import MACE
from methods.published_unet import PublishedUnet
from methods.salun import SalUn
from tests.method_parity import agree
from tests.support.fixtures_models import random_config, random_model, random_xl_config, random_xl_model
from tests.support.methods_common import draw, in_half_precision, write_checkpoint


def unet(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the random-weight model's U-Net, somewhat changed."""
    generator = torch.Generator().manual_seed(seed)
    return {name: value + 0.05 * torch.randn(value.shape, generator=generator)
            for name, value in random_model().denoiser.state_dict().items()}


def some_layers(seed: int = 0) -> dict[str, torch.Tensor]:
    """Return the layers of it that ESD-x trains, as its release writes them."""
    return {name: value for name, value in unet(seed).items() if "attn2" in name and value.ndim == 2}


@pytest.fixture
def pt(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "diffusers-nsfw.pt", unet())


@pytest.mark.parametrize("where", ["unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.bin",
                                   "diffusion_pytorch_model.safetensors"])  # fmt: skip
def test_mace_is_a_pipeline_folder_or_its_unet(tmp_path, where, pt):
    (tmp_path / "unet").mkdir()
    write_checkpoint(tmp_path / where, unet())
    published = unet()
    for source in (tmp_path, tmp_path / where):
        with attached(random_model(), [MACE(str(source))], [None]):
            state = random_model().denoiser.state_dict()
            agree("unet_checkpoint", max((state[name] - value).abs().max() for name, value in published.items()), 0)
    assert np.array_equal(draw(MACE(str(tmp_path)), None), draw(SalUn(str(pt)), None))


def test_salun_is_a_state_dict_in_diffusers_names(pt):
    model, published = random_model(), unet()
    with attached(model, [SalUn(str(pt))], [None]):
        state = model.denoiser.state_dict()
        agree("unet_checkpoint", max((state[name] - value).abs().max() for name, value in published.items()), 0)


def test_strength_is_the_share_of_the_way(pt):
    model = random_model()
    before, whole = model.denoiser.conv_in.weight.detach().clone(), unet()["conv_in.weight"]
    with attached(model, [MACE(str(pt), strength=0.25)], [None]):
        assert torch.allclose(model.denoiser.conv_in.weight, before + 0.25 * (whole - before))


@pytest.mark.parametrize("cls", [MACE, SalUn])
def test_strength_zero_needs_no_file(cls):
    assert cls(strength=0.0).missing() is None


def test_half_precision_weights_come_back_to_the_bit(pt):
    model = in_half_precision(random_model())
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    with attached(model, [SalUn(str(pt))], [None]):
        assert model.denoiser.dtype == torch.bfloat16
    assert all(torch.equal(before[name], value) for name, value in model.denoiser.state_dict().items())


def broken(kind: str) -> dict[str, Any]:
    state = unet()
    if kind == "absent":
        state.pop("conv_in.weight")
    elif kind == "extra":
        state["controlnet.weight"] = torch.zeros(1)
    elif kind == "shape":
        state["conv_in.weight"] = state["conv_in.weight"][:, :3]
    elif kind == "nan":
        state["conv_in.bias"] = torch.full_like(state["conv_in.bias"], torch.nan)
    elif kind == "compvis":
        return {f"model.diffusion_model.{name}": value for name, value in state.items()}
    return state


@pytest.mark.parametrize(("kind", "said"), [
    ("absent", "conv_in.weight is missing"), ("extra", "controlnet.weight is not in the model"),
    ("shape", "conv_in.weight has shape"), ("nan", "conv_in.bias has non-finite values"),
    ("compvis", "CompVis' names"),
])  # fmt: skip
def test_a_wrong_layout_is_refused_in_one_line(tmp_path, kind, said):
    file = write_checkpoint(tmp_path / "wrong.pt", broken(kind))
    with pytest.raises(InvalidValueError, match=said) as caught, attached(random_model(), [MACE(str(file))], [None]):
        pass
    assert "\n" not in str(caught.value) and "wrong.pt" in str(caught.value)


class Evil:
    """What a malicious pickle does when it is read."""

    def __reduce__(self):
        return (print, ("this must not run",))


def test_code_in_a_checkpoint_is_not_run(tmp_path, capsys):
    torch.save({"conv_in.weight": Evil()}, tmp_path / "evil.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"123")
    for name, said in (("evil.pt", "holds more than tensors"), ("cut.safetensors", "truncated")):
        with pytest.raises(InvalidValueError, match=said), \
                attached(random_model(), [SalUn(str(tmp_path / name))], [None]):
            pass
    assert "must not run" not in capsys.readouterr().out


def test_what_is_missing_says_where_to_get_it(tmp_path):
    assert "github.com/Shilin-LU/MACE" in str(MACE().missing())
    assert "method.checkpoint=<path>" in str(SalUn().missing())
    absent = SalUn(str(tmp_path / "no.pt"))
    assert "no.pt" in str(absent.missing()) and "Unlearn-Saliency" in str(absent.missing())
    with pytest.raises(MissingResourceError, match=r"no\.pt"), attached(random_model(), [absent], [None]):
        pass


def test_the_identity_is_the_files_content_not_its_path(tmp_path, pt):
    copy = tmp_path / "elsewhere.pt"
    copy.write_bytes(pt.read_bytes())
    other = write_checkpoint(tmp_path / "other.pt", unet(1))
    assert SalUn(str(pt)).identity() == SalUn(str(copy)).identity() != SalUn(str(other)).identity()
    assert SalUn(str(pt)).training_identity() != SalUn(str(other)).training_identity()
    assert len(SalUn(str(pt)).identity()["params"]["checkpoint"][0]) == 64


def test_a_unet_for_another_text_encoder_is_refused_before_anything_loads(tmp_path):
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    for width, fits in ((32, True), (48, False)):
        tensors = unet() if fits else {name: torch.zeros(4, width)}
        method = MACE(str(write_checkpoint(tmp_path / f"{width}.safetensors", tensors)))
        if fits:
            method.check(random_config(), 5.0)
            continue
        with pytest.raises(IncompatibleError, match="was made for 48 text features"):
            method.check(random_config(), 5.0)


def test_wrong_settings_are_named():
    with pytest.raises(InvalidValueError, match=r"method\.strength=2"):
        MACE(strength=2)
    with pytest.raises(InvalidValueError, match=r"method\.checkpoint=3"):
        MACE(checkpoint=3)
    with pytest.raises(InvalidValueError, match="2 paths, but method mace reads one"):
        MACE(["a", "b"])
    with pytest.raises(IncompatibleError, match="sdxl"):
        MACE().check({"name": "xl", "family": "sdxl"}, 5.0)


def as_esd(folder: Path) -> Path:
    """Write as esd_sd.py does: parameters of the trained layers by the U-Net's names."""
    return write_checkpoint(folder / "esd-nudity-from-nudity-esdx.safetensors", some_layers())


def as_uce(folder: Path) -> Path:
    """Write as uce_sd_erase.py does, here with the pipeline's name before each."""
    tensors = {f"unet.{name}": value for name, value in some_layers().items() if ".to_k." in name or ".to_v." in name}
    return write_checkpoint(folder / "uce.safetensors", tensors)


def as_older_esd(folder: Path) -> Path:
    """Write as ESD's older code for diffusers does: a state dict for each module of the pipeline."""
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, value in some_layers().items():
        module, _, own = f"unet.{name}".rpartition(".")
        modules.setdefault(module, {})[own] = value
    torch.save(modules, folder / "esd.pt")
    return folder / "esd.pt"


@pytest.mark.parametrize("write", [as_esd, as_uce, as_older_esd])
def test_published_layers_are_laid_over_the_models_own(tmp_path, write):
    model, published = random_model(), some_layers()
    before = {name: value.clone() for name, value in model.denoiser.state_dict().items()}
    method = PublishedUnet(str(write(tmp_path)))
    method.check(random_config(), 5.0)
    with attached(model, [method], [None]):
        state = model.denoiser.state_dict()
        changed = {name for name, value in state.items() if not torch.equal(value, before[name])}
        assert changed and changed <= published.keys()
        assert all(torch.equal(state[name], published[name]) for name in changed)
        assert changed == published.keys() or write is as_uce
    assert all(torch.equal(before[name], value) for name, value in model.denoiser.state_dict().items())


def test_published_layers_serve_sdxl_and_take_a_strength(tmp_path):
    model = random_xl_model()
    name = next(name for name in model.denoiser.state_dict() if name.endswith("attn2.to_k.weight"))
    own = model.denoiser.state_dict()[name].clone()
    file = write_checkpoint(tmp_path / "esd.safetensors", {name: own + 1})
    method = PublishedUnet(str(file), strength=0.5)
    method.check(random_xl_config(), 5.0)
    with attached(model, [method], [None]):
        assert torch.allclose(model.denoiser.state_dict()[name], own + 0.5, atol=1e-6)


@pytest.mark.parametrize(("change", "said"), [
    (lambda state: state | {"down_blocks.9.weight": torch.zeros(1)}, "down_blocks.9.weight is not in the model"),
    (lambda state: {"lora_unet_x.lora_up.weight": torch.zeros(1)}, "it is a LoRA"),
    (lambda state: {}, "has no tensors"),
    (lambda state: {"vision_model.x": torch.zeros(1)}, "for another method or model"),
    (lambda state: {name: value[:, :7] for name, value in state.items()}, "was made for 7 text features"),
])  # fmt: skip
def test_layers_of_something_else_are_refused_in_the_plan(tmp_path, change, said):
    file = write_checkpoint(tmp_path / "x.safetensors", change(some_layers()))
    with pytest.raises(HarnessError, match=said) as error:
        PublishedUnet(str(file)).check(random_config(), 5.0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cls", [MACE, SalUn])
def test_a_partial_file_is_refused_where_a_whole_unet_is_wanted(tmp_path, cls):
    with pytest.raises(InvalidValueError, match="is missing"):
        cls(str(as_esd(tmp_path))).check(random_config(), 5.0)
