"""A user's own U-Net, text encoder and LoRA, and a folder found by itself: used, fingerprinted, refused in one line."""

from __future__ import annotations

import json
import shutil
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from harness.compose import compose_jobs
from harness.errors import HarnessError, InvalidValueError, MissingResourceError
from harness.ldm_names import ldm_names
from harness.model_checks import check_known
from harness.model_choice import settled
from harness.model_parts import check_own_parts, own_parts_identity
from harness.models import load_model, weights_fingerprint, weights_origin
from tests.fixtures_models import random_config, random_model, random_xl_config, random_xl_model

BASE = Path(random_config()["source"])
FILES = {"unet": BASE / "unet" / "diffusion_pytorch_model.safetensors",
         "text_encoder": BASE / "text_encoder" / "model.safetensors"}  # fmt: skip
TO_Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
Q_PROJ = "text_model.encoder.layers.1.self_attn.q_proj"


def config(**changes):
    return random_config() | changes


def scaled(part: str, file: Path, factor: float = 1.01) -> Path:
    """Write a part whose every weight is `factor` times the model's own."""
    save_file({name: value * factor if value.is_floating_point() else value
               for name, value in load_file(FILES[part]).items()}, file, {"format": "pt"})  # fmt: skip
    return file


def lora_file(file: Path, down: str, up: str, module: str, extra=None, metadata=None, rank: int = 2) -> Path:
    generator = torch.Generator().manual_seed(0)
    tensors = {module + down: torch.randn(rank, 32, generator=generator),
               module + up: torch.randn(32, rank, generator=generator)}  # fmt: skip
    save_file(tensors | (extra or {}), file, metadata)
    return file


def product(rank: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    down = torch.randn(rank, 32, generator=generator)
    return torch.randn(32, rank, generator=generator) @ down


def weight(model, part: str, module: str) -> torch.Tensor:
    modules = {name.removeprefix("text_model."): m for name, m in getattr(model.pipe, part).named_modules()}
    return modules[module.removeprefix("text_model.")].weight


@pytest.mark.parametrize("part", FILES)
@pytest.mark.parametrize("as_folder", [False, True])
def test_an_own_part_takes_the_place_of_the_models(part, as_folder, tmp_path):
    folder = tmp_path / part
    folder.mkdir()
    file = scaled(part, folder / FILES[part].name)
    own = load_model(config(**{part: str(tmp_path if as_folder else file)}))
    other = "vae"
    for name, tensor in getattr(random_model().pipe, part).state_dict().items():
        if tensor.is_floating_point():
            assert torch.equal(getattr(own.pipe, part).state_dict()[name], tensor * 1.01)
    for name, tensor in getattr(random_model().pipe, other).state_dict().items():
        assert torch.equal(getattr(own.pipe, other).state_dict()[name], tensor)


LAYOUTS = {
    "diffusers": (".lora_A.weight", ".lora_B.weight", f"unet.{TO_Q}"),
    "diffusers of 2023": (".lora.down.weight", ".lora.up.weight", f"unet.{TO_Q}"),
    "processors": ("_lora.down.weight", "_lora.up.weight", f"unet.{TO_Q.replace('.to_q', '.processor.to_q')}"),
    "kohya": (".lora_down.weight", ".lora_up.weight", f"lora_unet_{TO_Q.replace('.', '_')}"),
}


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


def test_own_parts_are_in_the_fingerprint_by_content_and_in_provenance(tmp_path):
    plain = weights_fingerprint(config())
    one, same = scaled("unet", tmp_path / "a.safetensors"), scaled("unet", tmp_path / "b.safetensors")
    other, lora = (scaled("unet", tmp_path / "c.safetensors", 1.02),
                   lora_file(tmp_path / "l.safetensors", *LAYOUTS["kohya"]))
    found = [weights_fingerprint(config(**changes)) for changes in (
        {"unet": str(one)}, {"unet": str(other)}, {"lora": str(lora)}, {"lora": str(lora), "lora_scale": 0.5})]
    assert len({plain, *found}) == 5
    (tmp_path / "d").mkdir()
    same = same.rename(tmp_path / "d" / "a.safetensors")
    assert weights_fingerprint(config(unet=str(same))) == found[0]
    assert load_model(config(lora=str(lora))).fingerprint == found[2]
    origin = weights_origin(config(lora=str(lora)))
    assert origin["own_parts"] == {"lora": str(lora)} and origin["own_parts_sha256"]["lora"]


LAYERS = {name: value * 1.01 for name, value in load_file(FILES["unet"]).items() if "attn2.to_k" in name}


@pytest.mark.parametrize("prefix", ["", "unet."])
def test_a_partial_unet_is_laid_over_the_models_own(prefix, tmp_path):
    file = tmp_path / "esd-x.safetensors"
    save_file({prefix + name: value for name, value in LAYERS.items()}, file)
    with pytest.raises(InvalidValueError, match=r"say model\.unet_partial=true\.") as error:
        check_known(config(unet=str(file)))
    assert f"holds {len(LAYERS)} of the U-Net's" in str(error.value)
    check_known(config(unet=str(file), unet_partial=True))
    own = load_model(config(unet=str(file), unet_partial=True))
    base = random_model().denoiser.state_dict()
    for name, value in own.denoiser.state_dict().items():
        assert torch.equal(value, LAYERS.get(name, base[name]))
    origin = weights_origin(config(unet=str(file), unet_partial=True))
    assert origin["own_parts"] == {"unet": str(file), "unet_partial": True} and origin["own_parts_sha256"]["unet"]
    prints = {weights_fingerprint(config()), weights_fingerprint(config(unet=str(file), unet_partial=True)),
              weights_fingerprint(config(unet=str(scaled("unet", tmp_path / "whole.safetensors"))))}  # fmt: skip
    assert len(prints) == 3 and own.fingerprint in prints


def test_the_flag_for_a_partial_unet_changes_nothing_of_a_whole_one_and_needs_a_file(tmp_path):
    whole = scaled("unet", tmp_path / "whole.safetensors")
    check_known(config(unet=str(whole), unet_partial=True))
    assert own_parts_identity(config(unet=str(whole), unet_partial=True))["unet_partial"] is True
    with pytest.raises(InvalidValueError, match=r"Say model\.unet=<file>"):
        check_known(config(unet_partial=True))
    with pytest.raises(InvalidValueError, match="true or false"):
        check_known(config(unet=str(whole), unet_partial="some"))
    save_file(LAYERS | {"conv_in.gain": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InvalidValueError, match=r"conv_in\.gain is unknown"):
        check_known(config(unet=str(tmp_path / "other.safetensors"), unet_partial=True))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("old", [False, True])
def test_a_state_dict_of_torch_serves_as_a_part(wrapped, old, tmp_path):
    tensors = {name: value * 1.01 for name, value in load_file(FILES["unet"]).items()}
    content = {"state_dict": tensors, "epoch": 3} if wrapped else tensors
    torch.save(content, tmp_path / "diffusers.pt", _use_new_zipfile_serialization=not old)
    own = load_model(config(unet=str(tmp_path / "diffusers.pt")))
    assert all(torch.equal(value, tensors[name]) for name, value in own.denoiser.state_dict().items())


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


def renamed(file: Path) -> Path:
    tensors = load_file(FILES["unet"])
    tensors["conv_in.gain"] = tensors.pop("conv_in.weight")
    save_file(tensors, file)
    return file


def reshaped(file: Path) -> Path:
    save_file(load_file(FILES["unet"]) | {"conv_in.weight": torch.zeros(32, 9, 3, 3)}, file)
    return file


def garbled(file: Path) -> Path:
    file.write_bytes(b"<!DOCTYPE html>")
    return file


def pickled(file: Path) -> Path:
    torch.save({}, file.with_suffix(".bin"))
    return file.with_suffix(".bin")


def other_rank(file: Path) -> Path:
    down, up = torch.zeros(2, 32), torch.zeros(32, 3)
    save_file({f"unet.{TO_Q}.lora_A.weight": down, f"unet.{TO_Q}.lora_B.weight": up}, file)
    return file


def half(file: Path) -> Path:
    save_file({f"unet.{TO_Q}.lora_A.weight": torch.zeros(2, 32)}, file)
    return file


def foreign(file: Path) -> Path:
    return lora_file(file, ".lora_A.weight", ".lora_B.weight", "unet.mid_block.attentions.9.to_q")


def loha(file: Path) -> Path:
    save_file({f"lora_unet_{TO_Q}.hada_w1_a": torch.zeros(2, 32)}, file)
    return file


def dora(file: Path) -> Path:
    told = {"lora_adapter_metadata": json.dumps({"unet.use_dora": True})}
    return lora_file(file, *LAYOUTS["diffusers"], None, told)


@pytest.mark.parametrize(("key", "write", "said"), [
    ("unet", renamed, "conv_in.weight is not in it"),
    ("unet", reshaped, "conv_in.weight has shape (32, 9, 3, 3)"),
    ("unet", garbled, "is a web page"),
    ("unet", pickled, "is not in it"),
    ("text_encoder", lambda file: scaled("unet", file), "no text_encoder of this model"),
    ("lora", garbled, "is a web page"),
    ("lora", pickled, "no .safetensors file"),
    ("lora", other_rank, "does not fit"),
    ("lora", half, "has only down"),
    ("lora", foreign, "this one has no unet.mid_block.attentions.9.to_q"),
    ("lora", loha, "no part of a plain LoRA"),
    ("lora", dora, "is a DoRA"),
    ("lora", lambda file: file, "there is no file"),
])  # fmt: skip
def test_a_bad_part_is_one_line_before_anything_loads(key, write, said, tmp_path):
    with pytest.raises(HarnessError) as error:
        check_known(config(**{key: str(write(tmp_path / "own.safetensors"))}))
    assert said in str(error.value) and "\n" not in str(error.value) and error.value.exit_code == 2


@pytest.mark.parametrize("changes", [{"lora": [3]}, {"lora": ""}, {"unet": 5}, {"lora_scale": "much"}])
def test_a_setting_of_the_wrong_kind_is_one_line(changes):
    with pytest.raises(HarnessError, match=next(iter(changes))):
        check_own_parts(config(**changes))


@lru_cache
def local_config():
    return compose_jobs(["model=local", f"model.path={BASE}", "method=none"], multirun=False)[0].model


def local(path, **changes):
    assert local_config()["source"] == str(BASE)
    return local_config() | {"source": path and str(path)} | changes


def test_a_local_folder_tells_its_family_and_size():
    found = settled(local(BASE))
    assert (found["family"], found["size"]) == ("sd1", 32)
    assert settled(local(BASE, size=64))["size"] == 64
    assert settled(local(random_xl_config()["source"]))["family"] == "sdxl"


def test_paths_are_absolute_in_what_workers_are_told(tmp_path, monkeypatch):
    shutil.copytree(BASE, tmp_path / "pipeline")
    monkeypatch.chdir(tmp_path)
    told = settled(config(source="pipeline", unet="a", lora=["b", "/c"]))
    assert (told["source"], told["unet"]) == (str(tmp_path / "pipeline"), str(tmp_path / "a"))
    assert told["lora"] == [str(tmp_path / "b"), "/c"]


def test_a_wide_text_encoder_means_stable_diffusion_2(tmp_path):
    folder = shutil.copytree(BASE, tmp_path / "pipeline")
    file = folder / "text_encoder" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"hidden_size": 1024}))
    assert settled(random_config() | {"source": str(folder), "family": None})["family"] == "sd2"


def test_a_folder_that_is_no_pipeline_or_of_an_unknown_class_is_one_line(tmp_path):
    with pytest.raises(InvalidValueError, match=r"model\.path=<a diffusers folder>"):
        settled(local(None))
    with pytest.raises(MissingResourceError, match=r"model_index\.json is missing"):
        settled(local(tmp_path))
    folder = shutil.copytree(BASE, tmp_path / "pipeline")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "KandinskyPipeline"}))
    with pytest.raises(InvalidValueError, match="holds a KandinskyPipeline"):
        settled(local(folder))
