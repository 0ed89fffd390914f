"""`python -m harness convert`: pickles and single files become safetensors that load, and nothing of them is run."""

from __future__ import annotations

import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.cli.convert import main
from harness.errors import HarnessError
from harness.models.checks import check_known
from harness.models.choice import settled
from harness.models.ldm_names import ldm_names
from harness.models.loading import load_model
from harness.models.weights import weights_fingerprint
from methods.saeuron import SAeUron
from tests.methods import test_methods_saeuron as saeuron
from tests.models.test_weight_folders import pickles_only
from tests.support.fixtures_models import random_config, random_model


def convert(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def refused(capsys, *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_a_folder_of_pickles_becomes_the_same_pipeline(tmp_path, variant):
    folder = Path(shutil.copytree(random_config()["source"], tmp_path / "old"))
    pickles_only(folder)
    if variant:
        for file in folder.rglob("*.bin"):
            file.rename(file.with_name(file.name.replace(".bin", f".{variant}.bin")))
    convert(folder, tmp_path / "new")
    made = random_config() | {"source": str(tmp_path / "new"), "variant": variant}
    check_known(settled(made))
    own, base = load_model(made), random_model()
    for part in ("unet", "vae", "text_encoder"):
        state = getattr(base.pipe, part).state_dict()
        assert all(torch.equal(value, state[name]) for name, value in getattr(own.pipe, part).state_dict().items())
    assert not list((tmp_path / "new").rglob("*.bin")) and list(folder.rglob("*.bin"))
    assert all(file.name.endswith(f".{variant}.safetensors") == bool(variant)
               for file in (tmp_path / "new").rglob("*.safetensors"))  # fmt: skip


def test_shards_of_pickles_become_one_file(tmp_path):
    folder = Path(shutil.copytree(random_config()["source"], tmp_path / "old"))
    tensors = load_file(folder / "unet/diffusion_pytorch_model.safetensors")
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    names = sorted(tensors)
    for number, own in enumerate((names[::2], names[1::2]), start=1):
        torch.save({name: tensors[name] for name in own},
                   folder / "unet" / f"diffusion_pytorch_model-0000{number}-of-00002.bin")  # fmt: skip
    (folder / "unet/diffusion_pytorch_model.bin.index.json").write_text("{}")
    convert(folder, tmp_path / "new")
    assert weights_fingerprint(random_config() | {"source": str(tmp_path / "new")})
    found = load_file(tmp_path / "new/unet/diffusion_pytorch_model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in tensors.items()) and found.keys() == tensors.keys()


@pytest.mark.parametrize("name", ["a.pt", "a.bin", "a.ckpt"])
@pytest.mark.parametrize("old", [False, True])
def test_a_state_dict_becomes_safetensors_and_what_is_no_tensor_is_said(tmp_path, capsys, name, old):
    shared = torch.randn(3)
    content = {"a": shared, "b": shared, "n": torch.zeros(2, 2).t(), "rank": 4}
    torch.save({"state_dict": content, "epoch": 3}, tmp_path / name, _use_new_zipfile_serialization=not old)
    convert(tmp_path / name, tmp_path / "new" / "a.safetensors")
    found = load_file(tmp_path / "new" / "a.safetensors")
    assert torch.equal(found["a"], shared) and torch.equal(found["b"], shared) and set(found) == {"a", "b", "n"}
    assert "skipped, not tensors: epoch, rank" in capsys.readouterr().out


def gathered(file: Path) -> dict[str, torch.Tensor]:
    """Write activations as the release does: a dict of half-precision tensors, pickled without torch's own format."""
    activations = {name: value.half() for name, value in saeuron.gathered().items()}
    with file.open("wb") as stream:
        pickle.dump(activations, stream)
    return activations


def test_gathered_activations_of_the_release_are_converted_and_read(tmp_path):
    activations = gathered(tmp_path / "style_latents_dict.pkl")
    convert(tmp_path / "style_latents_dict.pkl", tmp_path / "activations.safetensors")
    found = load_file(tmp_path / "activations.safetensors")
    assert all(torch.equal(found[name], value) for name, value in activations.items())
    assert all(value.dtype == torch.float16 for value in found.values())
    method = SAeUron(saeuron.write(tmp_path / "sae"), hookpoint=saeuron.POINT, concepts=["bomb"],
                     activations=str(tmp_path / "activations.safetensors"))  # fmt: skip
    method.check(random_config(), 5.0)


class Runs:
    def __reduce__(self):
        return os.system, ("touch pwned",)


@pytest.mark.parametrize("name", ["a.pkl", "a.pt"])
def test_a_pickle_that_would_run_something_is_refused(tmp_path, capsys, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    content = {"a": Runs(), "b": torch.zeros(1)}
    torch.save(content, name) if name == "a.pt" else Path(name).write_bytes(pickle.dumps(content))
    assert "no code in it is executed" in refused(capsys, name, "b.safetensors")
    assert not Path("pwned").exists() and [path.name for path in tmp_path.iterdir()] == [name]


def test_mistakes_are_one_line_and_leave_nothing(tmp_path, capsys):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    torch.save({"n": 3}, tmp_path / "n.pt")
    (tmp_path / "there.safetensors").write_bytes(b"x")
    target = tmp_path / "b.safetensors"
    assert "no.pt does not exist" in refused(capsys, tmp_path / "no.pt", target)
    assert "already exists" in refused(capsys, tmp_path / "a.pt", tmp_path / "there.safetensors")
    assert "ends with .safetensors" in refused(capsys, tmp_path / "a.pt", tmp_path / "b.bin")
    assert "holds no named tensors" in refused(capsys, tmp_path / "n.pt", target)
    assert "1 paths are given" in refused(capsys, tmp_path / "a.pt")
    assert "model_index.json" in refused(capsys, tmp_path, tmp_path.parent / "new")
    assert "no pickled weights" in refused(capsys, random_config()["source"], tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "n.pt", "there.safetensors"]


VAE_NAMES = (
    (r"(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.mid.block_1."),
    (r"(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.mid.block_2."),
    (r"(encoder|decoder)\.mid_block\.attentions\.0\.group_norm\.", r"\1.mid.attn_1.norm."),
    (r"(encoder|decoder)\.mid_block\.attentions\.0\.to_([qkv])\.", r"\1.mid.attn_1.\2."),
    (r"(encoder|decoder)\.mid_block\.attentions\.0\.to_out\.0\.", r"\1.mid.attn_1.proj_out."),
    (r"encoder\.down_blocks\.(\d)\.resnets\.(\d)\.", r"encoder.down.\1.block.\2."),
    (r"encoder\.down_blocks\.(\d)\.downsamplers\.0\.", r"encoder.down.\1.downsample."),
    (r"conv_norm_out\.", "norm_out."), (r"conv_shortcut\.", "nin_shortcut."),
)  # fmt: skip


def vae_name(name: str, blocks: int) -> str:
    """Return CompVis' name of a tensor of the VAE."""
    for pattern, new in VAE_NAMES:
        name = re.sub(pattern, new, name)
    if match := re.match(r"decoder\.up_blocks\.(\d)\.(resnets|upsamplers)\.(\d)\.(.+)", name):
        place = blocks - 1 - int(match[1])
        inner = f"block.{match[3]}" if match[2] == "resnets" else "upsample"
        return f"first_stage_model.decoder.up.{place}.{inner}.{match[4]}"
    return f"first_stage_model.{name}"


def single_file() -> dict[str, torch.Tensor]:
    """Return the random-weight pipeline as one checkpoint in CompVis' names."""
    pipe, found = random_model().pipe, {}
    modules = ldm_names({name.rpartition(".")[0] for name in pipe.unet.state_dict()})
    by_module = {name: ldm for ldm, name in modules.items()}
    for name, value in pipe.unet.state_dict().items():
        module, _, own = name.rpartition(".")
        found[f"model.diffusion_model.{by_module[module]}.{own}"] = value
    for name, value in pipe.vae.state_dict().items():
        ldm = vae_name(name, len(pipe.vae.config.block_out_channels))
        found[ldm] = value[..., None, None] if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", ldm) else value
    for name, value in pipe.text_encoder.state_dict().items():
        found[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    return {name: value.clone().contiguous() for name, value in found.items()}


@pytest.mark.parametrize("name", ["sd.safetensors", "sd.ckpt"])
def test_a_single_file_becomes_the_pipeline_that_it_was(tmp_path, name):
    if name.endswith("ckpt"):
        torch.save({"state_dict": single_file(), "global_step": 3}, tmp_path / name)
    else:
        save_file(single_file(), tmp_path / name)
    convert(tmp_path / name, tmp_path / "new", f"like={random_config()['source']}")
    made = random_config() | {"source": str(tmp_path / "new")}
    check_known(settled(made))
    own, base = load_model(made), random_model()
    for part in ("unet", "vae", "text_encoder"):
        state = getattr(base.pipe, part).state_dict()
        assert all(torch.equal(value, state[key]) for key, value in getattr(own.pipe, part).state_dict().items()), part


def test_a_single_file_needs_a_folder_of_its_kind(tmp_path, capsys):
    save_file(single_file(), tmp_path / "sd.safetensors")
    assert "like=None" in refused(capsys, tmp_path / "sd.safetensors", tmp_path / "new")
    assert "like=" in refused(capsys, tmp_path / "sd.safetensors", tmp_path / "new", f"like={tmp_path}")
    save_file({"model.diffusion_model.x": torch.zeros(1)}, tmp_path / "bad.safetensors")
    said = refused(capsys, tmp_path / "bad.safetensors", tmp_path / "new", f"like={random_config()['source']}")
    assert "cannot be made a StableDiffusionPipeline" in said and not (tmp_path / "new").exists()


def test_help_names_every_way(capsys):
    assert main(["--help"]) == 0 and main([]) == HarnessError.exit_code
    said = capsys.readouterr().out
    assert all(said.count(way) == 2 for way in ("[like=FOLDER]", "a state dict", "a diffusers folder whose weights",
                                                "a single-file checkpoint"))  # fmt: skip
