"""Folders of weights as others save them: what they are, and the next step, in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.errors import HarnessError
from harness.models.checks import check_known
from harness.models.choice import settled
from harness.models.loading import load_model
from harness.models.weights import missing, weights_fingerprint
from tests.support.fixtures_models import random_config, random_xl_config
from tests.support.weights_common import TEXT, UNET, VAE, config, refusal


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(random_config()["source"], tmp_path / "pipeline"))


def variant_only(folder: Path) -> None:
    for file in folder.rglob("*.safetensors"):
        file.rename(file.with_name(file.name.replace(".safetensors", ".fp16.safetensors")))


def pickles_only(folder: Path) -> None:
    for file in list(folder.rglob("*.safetensors")):
        torch.save(load_file(file), file.with_name("pytorch_model.bin" if file.name == "model.safetensors" else
                                                   "diffusion_pytorch_model.bin"))  # fmt: skip
        file.unlink()


def moved(old: str, new: str):
    return lambda folder: (folder / old).rename(folder / new)


def written(file: str, data: bytes):
    return lambda folder: (folder / file).write_bytes(data)


def longer(folder: Path) -> None:
    (folder / UNET).write_bytes((folder / UNET).read_bytes() + bytes(16))


def indexed(part: str | None, entry: object):
    """Change an entry of model_index.json; None takes it out."""
    def change(folder: Path) -> None:
        index = json.loads((folder / "model_index.json").read_text())
        index = {key: value for key, value in index.items() if key != part} | ({} if entry is None else {part: entry})
        (folder / "model_index.json").write_text(json.dumps(index))
    return change


def configured(file: str, **values: object):
    return lambda folder: (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | values))


FOLDERS = {
    "no U-Net in the index": (indexed("unet", None), "lists no unet, which a StableDiffusionPipeline needs"),
    "a VAE that is null": (indexed("vae", [None, None]), "lists no vae, which"),
    "a scheduler of no library": (indexed("scheduler", ["diffusers", "NoSuch"]),
                                  "says that scheduler is a NoSuch of diffusers, which is not a known class"),
    "a part of a module of anybody's": (indexed("unet", ["os", "system"]), "says that unet is a system of os"),
    "a tokenizer's class": (indexed("tokenizer", ["transformers", "MyTokenizer"]), "is a MyTokenizer of transformers"),
    "another class": (indexed("text_encoder", ["transformers", "BertModel"]), " names) of a BertModel, but has "),
    "a config that is a page": (written("unet/config.json", b"<html>"), "unet/config.json cannot be read"),
    "a scheduler that is a page": (written("scheduler/scheduler_config.json", b"<html>"),
                                   "scheduler/scheduler_config.json cannot be read"),
    "no words": (written("tokenizer/vocab.json", b"{}"), "tokenizer/vocab.json has no vocabulary"),
    "a number as text": (configured("vae/config.json", scaling_factor="0.18"),
                         "is not valid for AutoencoderKL (scaling_factor is a text; expected a number)"),
    "fp16 only": (variant_only, "weights of the variant fp16 only. Set model.variant=fp16."),
    "pickles only": (pickles_only, "only pickles (pytorch_model.bin), which are not read. Convert the pipeline once: "),
    "transformers' name": (moved(UNET, "unet/model.safetensors"), "Rename it to diffusion_pytorch_model.safetensors"),
    "diffusers' name": (moved(TEXT, "text_encoder/diffusion_pytorch_model.safetensors"),
                        "Rename it to model.safetensors"),
    "a name of its own": (moved(UNET, "unet/my_unet.safetensors"), "it has my_unet.safetensors"),
    "shards without index": (moved(UNET, "unet/diffusion_pytorch_model-00001-of-00001.safetensors"),
                             "sharded weights but no index"),
    "ckpt": (moved(UNET, "unet/unet.ckpt"), "only pickles (unet.ckpt)"),
    "a pointer": (written(UNET, b"version https://git-lfs.github.com/spec/v1\n"), f"{UNET} is a git-lfs pointer"),
    "a web page": (written(VAE, b"<html>"), f"{VAE} is a web page"),
    "longer": (longer, "longer than its header says (16 bytes"),
    "an empty file": (written(TEXT, b""), f"{TEXT} is empty"),
    "a dangling link": (lambda folder: ((folder / UNET).unlink(), (folder / UNET).symlink_to("nowhere")), "is missing"),
    "a list for an index": (written("model_index.json", b"[]"), "model_index.json cannot be read"),
    "a part elsewhere": (written("model_index.json", b'{"_class_name": "StableDiffusionPipeline", "../x": ["a", "b"]}'),
                         "names a part that is not a folder"),
    "a config that is a pointer": (written("vae/config.json", b"version https://git-lfs.github.com/spec/v1\n"),
                                   "vae/config.json is a git-lfs pointer"),
    "an index that is a pointer": (written("model_index.json", b"version https://git-lfs.github.com/spec/v1\n"),
                                   "model_index.json is a git-lfs pointer"),
    "a config that is a list": (written("unet/config.json", b"[1]"), "unet/config.json cannot be read"),
    "no config that makes one": (
        written("unet/config.json", b'{"_class_name": "UNet2DConditionModel", "down_block_types": ["No"]}'),
        "unet/config.json is not valid for UNet2DConditionModel"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_folder_as_others_save_it_says_what_it_is_and_the_next_step(folder, kind):
    change, said = FOLDERS[kind]
    change(folder)
    assert said in refusal(folder)
    assert "\n" not in str(missing(config(folder)))


def test_the_fp16_variant_loads_when_it_is_asked_for_and_beside_the_full_files(folder):
    variant_only(folder)
    check_known(settled(config(folder, variant="fp16")))
    assert load_model(config(folder, variant="fp16")).fingerprint
    shutil.copytree(random_config()["source"], folder, dirs_exist_ok=True)
    (folder / "unet" / "old.ckpt").write_bytes(b"x")
    (folder / "unet" / "notes.txt.bak").write_bytes(b"x")
    check_known(settled(config(folder)))
    check_known(settled(config(folder, variant="fp16")))


def test_a_folder_with_accents_and_links_serves(folder, tmp_path):
    strange = folder.rename(tmp_path / "mód el ünïcode 模型")
    store = tmp_path / "store"
    store.mkdir()
    for file in list(strange.rglob("*.safetensors")):
        target = store / f"{file.parent.name}.blob"
        file.rename(target)
        file.symlink_to(target)
    (tmp_path / "link").symlink_to(strange, target_is_directory=True)
    for place in (strange, tmp_path / "link"):
        check_known(settled(config(place)))
        assert weights_fingerprint(config(place)) == weights_fingerprint(random_config())


def local(path, **changes):
    return random_config() | {"source": str(path), "family": None, "size": None} | changes


@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
def test_a_single_file_is_named_as_one_wherever_it_is(tmp_path, monkeypatch, relative, name):
    file = tmp_path / "sub" / name
    file.parent.mkdir()
    save_file({"model.diffusion_model.x": torch.zeros(1)}, file)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HarnessError, match=r"single-file checkpoint.*harness convert") as error:
        settled(local(f"sub/{name}" if relative else file))
    assert str(file) in str(error.value)


def test_a_repository_of_the_hubs_cache_means_its_main_or_asks_for_a_snapshot(tmp_path):
    repo = tmp_path / "models--me--micro"
    shutil.copytree(random_config()["source"], repo / "snapshots" / "abc")
    with pytest.raises(HarnessError, match="snapshots/<commit>, of abc"):
        settled(local(repo))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    assert settled(local(repo))["family"] == "sd1"
    check_known(settled(local(repo)))
    (repo / "refs" / "main").write_text("../../../etc")
    with pytest.raises(HarnessError, match="snapshots/<commit>"):
        settled(local(repo))


def test_a_folder_of_single_files_or_an_index_for_a_folder_says_so(tmp_path, folder):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "sd15.safetensors").write_bytes(b"x")
    with pytest.raises(HarnessError, match=r"If sd15\.safetensors is a single-file checkpoint, convert it once"):
        settled(local(tmp_path / "checkpoints"))
    with pytest.raises(HarnessError, match=r"Set the folder that has model_index\.json"):
        settled(local(folder / "model_index.json"))


def test_a_damaged_file_of_the_hubs_cache_names_prefetch(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--me--micro" / "snapshots" / "abc"
    shutil.copytree(random_config()["source"], snapshot)
    hub = random_config() | {"source": "me/micro", "revision": "abc"}
    check_known(settled(hub))
    (snapshot / UNET).write_bytes((snapshot / UNET).read_bytes()[:-1])
    with pytest.raises(HarnessError, match=r"is truncated.*harness prefetch"):
        check_known(settled(hub))
    (snapshot / UNET).unlink()
    check_known(settled(hub))
    assert "no safetensors weights" in str(missing(hub))


def test_a_folder_above_or_below_the_pipeline_says_where_it_is(folder, tmp_path):
    with pytest.raises(HarnessError, match="one folder further down: pipeline"):
        settled(local(tmp_path))
    with pytest.raises(HarnessError, match="a part of a pipeline: the folder above"):
        settled(local(folder / "unet"))


def test_a_part_alone_says_with_which_setting_it_is_used(folder):
    (folder / "model_index.json").unlink()
    with pytest.raises(HarnessError, match=r"a part of a pipeline, a UNet2DConditionModel\. .*model\.unet="):
        settled(config(folder / "unet", size=None, family=None))
    with pytest.raises(HarnessError, match=r"model\.text_encoder="):
        settled(config(folder / "text_encoder", size=None, family=None))


def test_sdxl_without_its_second_encoder_is_refused_in_the_plan(tmp_path):
    check_known(settled(random_xl_config()))
    whole = random_xl_config()["source"]
    for part in ("text_encoder_2", "tokenizer_2"):
        folder = Path(shutil.copytree(whole, tmp_path / part))
        indexed(part, [None, None])(folder)
        with pytest.raises(HarnessError, match=f"lists no {part}, which a StableDiffusionXLPipeline needs"):
            check_known(settled(random_xl_config() | {"source": str(folder)}))


def test_a_pipeline_of_ones_own_is_refused_by_its_class_alone(folder):
    indexed("_class_name", ["mine", "MyPipeline"])(folder)
    with pytest.raises(HarnessError, match="its folder holds a pipeline without a name"):
        settled(config(folder, family=None))
