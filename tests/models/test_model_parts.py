"""A user's own U-Net, text encoder and LoRA, and a folder found by itself: used, fingerprinted, refused in one line."""

from __future__ import annotations

import json
import shutil
from functools import lru_cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.cli.compose import compose_jobs
from harness.errors import HarnessError, InvalidValueError, MissingResourceError
from harness.models.checks import check_known
from harness.models.choice import settled
from harness.models.loading import load_model
from harness.models.own_parts import check_own_parts, own_parts_identity
from harness.models.weights import weights_fingerprint, weights_origin
from tests.support.fixtures_models import random_config, random_model, random_xl_config

BASE = Path(random_config()["source"])
FILES = {"unet": BASE / "unet" / "diffusion_pytorch_model.safetensors",
         "text_encoder": BASE / "text_encoder" / "model.safetensors"}  # fmt: skip
TO_Q = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q"
Q_PROJ = "text_model.encoder.layers.1.self_attn.q_proj"
LAYOUTS = {
    "diffusers": (".lora_A.weight", ".lora_B.weight", f"unet.{TO_Q}"),
    "diffusers of 2023": (".lora.down.weight", ".lora.up.weight", f"unet.{TO_Q}"),
    "processors": ("_lora.down.weight", "_lora.up.weight", f"unet.{TO_Q.replace('.to_q', '.processor.to_q')}"),
    "kohya": (".lora_down.weight", ".lora_up.weight", f"lora_unet_{TO_Q.replace('.', '_')}"),
}


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
    with pytest.raises(InvalidValueError, match=r"set model\.unet_partial=true\.") as error:
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
    with pytest.raises(InvalidValueError, match=r"Set model\.unet=<file>"):
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
    ("unet", renamed, "conv_in.weight is missing"),
    ("unet", reshaped, "conv_in.weight has shape (32, 9, 3, 3)"),
    ("unet", garbled, "is a web page"),
    ("unet", pickled, "is missing"),
    ("text_encoder", lambda file: scaled("unet", file), "not a text_encoder of this model"),
    ("lora", garbled, "is a web page"),
    ("lora", pickled, "not a .safetensors file"),
    ("lora", other_rank, "does not fit"),
    ("lora", half, "has only down"),
    ("lora", foreign, "this one has no unet.mid_block.attentions.9.to_q"),
    ("lora", loha, "not part of a plain LoRA"),
    ("lora", dora, "is a DoRA"),
    ("lora", lambda file: file, "no file "),
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
