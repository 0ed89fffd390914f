"""A user's own LoRA: read in the names of every trainer, added to the weights that it names."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from harness.errors import HarnessError, InvalidValueError
from harness.models.checks import check_known
from harness.models.ldm_names import ldm_names
from harness.models.loading import load_model
from harness.models.own_parts import check_own_parts
from harness.models.weights import weights_fingerprint
from tests.models.test_model_parts import LAYOUTS, Q_PROJ, TO_Q, config, lora_file, product, weight
from tests.support.fixtures_models import random_model, random_xl_config, random_xl_model


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_lora_is_added_to_the_weight_that_it_names(layout, tmp_path):
    file = lora_file(tmp_path / "one.safetensors", *LAYOUTS[layout])
    own = load_model(config(lora=str(file), lora_scale=0.5))
    expected = weight(random_model(), "unet", TO_Q) + 0.5 * product()
    assert torch.allclose(weight(own, "unet", TO_Q), expected, atol=1e-5)
    changed = [name for name, value in own.denoiser.state_dict().items()
               if not torch.equal(value, random_model().denoiser.state_dict()[name])]
    assert changed == [f"{TO_Q}.weight"]


@pytest.mark.parametrize("module", [f"text_encoder.{Q_PROJ}", f"lora_te_{Q_PROJ.replace('.', '_')}"])
def test_a_lora_reaches_the_text_encoder(module, tmp_path):
    kohya = module.startswith("lora_te_")
    down, up, _ = LAYOUTS["kohya" if kohya else "diffusers"]
    own = load_model(config(lora=str(lora_file(tmp_path / "one.safetensors", down, up, module))))
    expected = weight(random_model(), "text_encoder", Q_PROJ) + product()
    assert torch.allclose(weight(own, "text_encoder", Q_PROJ), expected, atol=1e-5)


@pytest.mark.parametrize(("extra", "told", "scale"), [
    ({f"lora_unet_{TO_Q.replace('.', '_')}.alpha": torch.tensor(1.0)}, None, 0.5),
    ({}, {"unet.lora_alpha": 8}, 4.0),
    ({}, {"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn2.to_q": 6}}, 3.0),
    ({}, {"unet.lora_alpha": 4, "unet.use_rslora": True}, 4 / 2**0.5),
])  # fmt: skip
def test_alpha_over_rank_scales_a_lora_wherever_the_file_says_it(extra, told, scale, tmp_path):
    metadata = {"lora_adapter_metadata": json.dumps(told)} if told else None
    layout = LAYOUTS["kohya" if extra else "diffusers"]
    own = load_model(config(lora=str(lora_file(tmp_path / "one.safetensors", *layout, extra, metadata))))
    expected = weight(random_model(), "unet", TO_Q) + scale * product()
    assert torch.allclose(weight(own, "unet", TO_Q), expected, atol=1e-5)


def test_several_loras_add_up_and_sdxl_reads_them_too(tmp_path):
    file = lora_file(tmp_path / "a.safetensors", *LAYOUTS["diffusers"])
    own = load_model(config(lora=[str(file), str(file)]))
    expected = weight(random_model(), "unet", TO_Q) + 2 * product()
    assert torch.allclose(weight(own, "unet", TO_Q), expected, atol=1e-5)
    second = f"text_encoder_2.{Q_PROJ}"
    file = lora_file(tmp_path / "b.safetensors", ".lora_A.weight", ".lora_B.weight", second)
    check_own_parts(random_xl_config() | {"lora": str(file)})
    with pytest.raises(InvalidValueError, match="has no text_encoder_2"):
        check_own_parts(config(lora=str(file)))


PEFT = "base_model.model."


@pytest.mark.parametrize("module", [f"{PEFT}{TO_Q}", f"unet.{PEFT}{TO_Q}", f"{PEFT}unet.{TO_Q}"])
@pytest.mark.parametrize("ends", [(".lora_A.weight", ".lora_B.weight"),
                                  (".lora_A.default.weight", ".lora_B.default.weight")])  # fmt: skip
def test_a_lora_in_pefts_names_is_read_with_the_settings_beside_it(module, ends, tmp_path):
    file = lora_file(tmp_path / "adapter_model.safetensors", *ends, module)
    base = weight(random_model(), "unet", TO_Q)
    assert torch.allclose(weight(load_model(config(lora=str(file))), "unet", TO_Q), base + product(), atol=1e-5)
    plain = weights_fingerprint(config(lora=str(file)))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 8}))
    for place in (file, tmp_path):
        own = load_model(config(lora=str(place)))
        assert torch.allclose(weight(own, "unet", TO_Q), base + 4 * product(), atol=1e-5)
    assert weights_fingerprint(config(lora=str(file))) != plain


@pytest.mark.parametrize("told", ['{"lora_alpha": "much"}', '{"alpha_pattern": [1]}', "[", '{"lora_alpha": 1e400}',
                                  '{"lora_alpha": ' + "9" * 400 + "}", "[" * 5000, '{"use_dora": true}'])  # fmt: skip
def test_settings_of_peft_that_make_no_sense_are_one_line(told, tmp_path):
    file = lora_file(tmp_path / "adapter_model.safetensors", ".lora_A.weight", ".lora_B.weight", PEFT + TO_Q)
    (tmp_path / "adapter_config.json").write_text(told)
    with pytest.raises(HarnessError) as error:
        check_known(config(lora=str(file)))
    assert "\n" not in str(error.value) and "model.lora" in str(error.value)


def test_a_text_encoders_lora_in_pefts_names_reaches_it(tmp_path):
    file = lora_file(tmp_path / "a.safetensors", ".lora_A.weight", ".lora_B.weight", PEFT + Q_PROJ)
    expected = weight(random_model(), "text_encoder", Q_PROJ) + product()
    assert torch.allclose(weight(load_model(config(lora=str(file))), "text_encoder", Q_PROJ), expected, atol=1e-5)


def sgm_lora(model, file: Path) -> dict[str, torch.Tensor]:
    """Write a LoRA of every layer of SDXL's U-Net in kohya's names; return what it adds, by diffusers' names."""
    generator, tensors, added = torch.Generator().manual_seed(1), {}, {}
    modules = dict(model.denoiser.named_modules())
    layers = {ldm: name for ldm, name in ldm_names(modules).items()
              if type(modules[name]).__name__ in ("Linear", "Conv2d")}  # fmt: skip
    for ldm, name in layers.items():
        out, into, *kernel = modules[name].weight.shape
        down, up = torch.randn(2, into, *kernel, generator=generator), torch.randn(out, 2, generator=generator)
        module = f"lora_unet_{ldm.replace('.', '_')}"
        tensors |= {f"{module}.lora_down.weight": down, f"{module}.alpha": torch.tensor(1.0),
                    f"{module}.lora_up.weight": up[:, :, None, None] if kernel else up}  # fmt: skip
        added[name] = 0.5 * (up @ down.flatten(1)).reshape(out, into, *kernel)
    save_file(tensors, file)
    return added


def test_a_lora_in_kohyas_names_of_sdxl_reaches_every_layer(tmp_path):
    model = random_xl_model()
    added = sgm_lora(model, tmp_path / "sdxl.safetensors")
    linear = [name for name, module in model.denoiser.named_modules() if type(module).__name__ in ("Linear", "Conv2d")]
    assert sorted(added) == sorted(linear)
    own = load_model(random_xl_config() | {"lora": str(tmp_path / "sdxl.safetensors")})
    for name, change in added.items():
        assert torch.allclose(weight(own, "unet", name), weight(model, "unet", name) + change, atol=1e-4), name


def test_kohyas_names_of_sdxl_are_those_of_diffusers_own_converter():
    from diffusers.loaders.lora_conversion_utils import _maybe_map_sgm_blocks_to_diffusers

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            layers_per_block=2, block_out_channels=(32, 64, 64), cross_attention_dim=32, norm_num_groups=8,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"))  # fmt: skip
    layers = {f"lora_unet_{ldm.replace('.', '_')}": name for ldm, name in ldm_names(dict(unet.named_modules())).items()
              if ".attentions." in name and "transformer_blocks" in name}  # fmt: skip
    theirs = _maybe_map_sgm_blocks_to_diffusers({f"{name}.lora_down.weight": 0 for name in layers}, unet.config)
    assert len(layers) > 50
    blocks = {"input_blocks": "down_blocks", "middle_block": "mid_block", "output_blocks": "up_blocks"}
    found = {name.removesuffix(".lora_down.weight").removeprefix("lora_unet_") for name in theirs}
    for ldm, own in blocks.items():  # their converter's next step
        found = {name.replace(ldm, own) for name in found}
    assert found == {name.replace(".", "_") for name in layers.values()}


@pytest.mark.parametrize("prefix", ["lora_te1_", "lora_te2_"])
def test_a_lora_in_kohyas_names_reaches_both_encoders_of_sdxl(prefix, tmp_path):
    file = lora_file(tmp_path / "a.safetensors", *LAYOUTS["kohya"][:2], prefix + Q_PROJ.replace(".", "_"))
    part = {"lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}[prefix]
    own = load_model(random_xl_config() | {"lora": str(file)})
    expected = weight(random_xl_model(), part, Q_PROJ) + product()
    assert torch.allclose(weight(own, part, Q_PROJ), expected, atol=1e-5)


def test_a_lora_that_fits_in_part_says_how_much_does_not(tmp_path):
    other = {f"unet.mid_block.attentions.9.{name}.lora_{side}.weight": torch.zeros(2, 2)
             for name in ("to_q", "to_k") for side in "AB"}  # fmt: skip
    file = lora_file(tmp_path / "a.safetensors", *LAYOUTS["diffusers"], other)
    with pytest.raises(InvalidValueError, match=r"has no unet\.mid_block\.attentions\.9\.to_[kq] \(2 of 3 modules"):
        check_known(config(lora=str(file)))
