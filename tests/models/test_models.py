"""Models: what is missing is said in one line, weights have a name, texts have one embedding."""

from __future__ import annotations

import shutil
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from harness.cli.compose import compose_jobs
from harness.errors import HarnessError, IncompatibleError, MissingResourceError, UnknownNameError
from harness.lib.paths import conf_dir
from harness.models.loaded import CACHED_TEXTS, SCHEDULERS, make_scheduler
from harness.models.loading import load_model
from harness.models.weights import missing, weights_fingerprint
from tests.support.fake_hub import VARIABLES
from tests.support.fixtures_models import random_config, random_model

NAMES = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))
HUB = {"name": "sd14", "source": "CompVis/stable-diffusion-v1-4", "revision": "abc", "download_gb": 4.3}


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Point the hub cache to an empty folder, without token, online."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return tmp_path / "hf" / "hub"


@pytest.fixture
def folder(tmp_path):
    """Copy the random-weight pipeline to a folder that a test may damage."""
    return Path(shutil.copytree(random_config()["source"], tmp_path / "pipeline"))


def config(folder: Path, **changes):
    return random_config() | {"source": str(folder)} | changes


@lru_cache
def _shipped():
    jobs = compose_jobs([f"model={','.join(NAMES)}", "method=none"], multirun=True)
    return {str(job.model["name"]): job.model for job in jobs}


def shipped(name: str):
    return _shipped()[name]


@pytest.mark.parametrize(("part", "said"), [
    ("unet/diffusion_pytorch_model.safetensors", "unet/ has no safetensors weights"),
    ("vae/config.json", "vae/config.json is missing"),
    ("scheduler/scheduler_config.json", "scheduler/scheduler_config.json is missing"),
    ("model_index.json", "model_index.json is missing"),
])  # fmt: skip
def test_a_folder_that_misses_a_part_says_which(folder, part, said):
    assert missing(config(folder)) is None
    (folder / part).unlink()
    assert said in str(missing(config(folder)))
    with pytest.raises(MissingResourceError, match=said):
        load_model(config(folder))


def test_weights_cut_short_are_found_without_reading_them(folder):
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert "truncated" in str(missing(config(folder)))
    file.write_bytes(b"<!DOCTYPE html>")
    assert "is a web page" in str(missing(config(folder)))


def test_a_wrong_config_json_is_one_line(folder):
    (folder / "unet" / "config.json").write_text("{}")
    with pytest.raises(HarnessError, match=r"lacks .* names\)") as error:
        load_model(config(folder))
    assert "\n" not in str(error.value)


def test_pickled_weights_are_not_loaded(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").rename(folder / "unet" / "diffusion_pytorch_model.bin")
    assert "no safetensors weights" in str(missing(config(folder)))


def test_an_absent_folder_and_an_absent_package_say_where_they_look(tmp_path):
    assert f"no folder {tmp_path / 'none'}" in str(missing(config(tmp_path / "none")))
    said = missing({"name": "x", "source": "pkg://nowhere/weights", "how_to_get": "Train them: make weights"})
    assert said is not None and said.endswith("Train them: make weights")


def test_hub_weights_that_are_not_here_say_how_to_get_them(hub, monkeypatch):
    said = missing(HUB)
    assert said is not None and "\n" not in said
    assert "hf download CompVis/stable-diffusion-v1-4 --revision abc" in said and "4.3 GB" in said
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "HF_HUB_OFFLINE forbids" in str(missing(HUB))
    assert missing(HUB | {"download": True}) is not None


def test_gated_weights_name_the_page_and_the_token(hub, monkeypatch):
    gated = HUB | {"gated": True, "download": True}
    assert "https://huggingface.co/CompVis/stable-diffusion-v1-4 and set HF_TOKEN" in str(missing(gated))
    monkeypatch.setenv("HF_TOKEN", "x")
    assert missing(gated) is None
    assert "set HF_TOKEN" not in str(missing(HUB | {"gated": True}))


def test_cached_hub_weights_load_offline_and_a_missing_part_is_found(hub, monkeypatch):
    snapshot = hub / "models--CompVis--stable-diffusion-v1-4" / "snapshots" / "abc"
    shutil.copytree(random_config()["source"], snapshot)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert missing(HUB) is None
    assert load_model(HUB | {"dtype": "float32"}).pipe.safety_checker is None
    shutil.rmtree(snapshot / "vae")
    assert "vae/ is missing" in str(missing(HUB))


def test_a_branch_is_followed_to_its_commit(hub):
    repo = hub / "models--CompVis--stable-diffusion-v1-4"
    shutil.copytree(random_config()["source"], repo / "snapshots" / "123")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("123")
    assert missing(HUB | {"revision": None}) is None
    assert missing(HUB) is not None


def test_fingerprint_names_contents_not_places(folder, tmp_path):
    assert weights_fingerprint(config(folder)) == weights_fingerprint(random_config())
    (folder / "README.md").write_text("hello")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    assert weights_fingerprint(config(folder)) == weights_fingerprint(random_config())
    file = folder / "vae" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"\x7f")
    assert weights_fingerprint(config(folder)) != weights_fingerprint(random_config())


def test_fingerprint_of_hub_weights_needs_no_weights(hub):
    one = weights_fingerprint(HUB)
    assert one != weights_fingerprint(HUB | {"revision": "other"})
    assert one == weights_fingerprint(HUB | {"dtype": "float32", "name": "again"})


@pytest.mark.parametrize("package", ["nowhere", "nowhere.at.all"])
def test_a_package_that_is_not_there_is_said_in_one_line(package):
    said = missing({"name": "mine", "source": f"pkg://{package}/weights"})
    assert said is not None and said.startswith("weights of mine are missing") and "\n" not in said


UNPINNED = ("micro", "micro_v", "local", "sd20", "if_xl", "wuerstchen", "paella")  # no commit that could be named


NAMES = sorted(path.stem for path in (conf_dir() / "model").glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_shipped_models_are_pinned_and_complete(name):
    model = shipped(name)
    needed = {"name", "family", "source", "revision", "fallbacks", "variant", "dtype", "scheduler", "prediction_type",
              "size", "num_inference_steps", "guidance_scale", "batch_size", "vae_dtype", "license", "gated", "params",
              "download_gb", "weights_gb", "tflop_per_step", "unet", "text_encoder", "lora", "concepts"}  # fmt: skip
    assert needed <= model.keys()
    assert name in UNPINNED or len(model["revision"]) == 40
    assert {"sld", "negative_prompt", "safedir"} <= model["concepts"].keys()


def test_every_stable_diffusion_is_told_to_remove_the_same():
    names = ["sd14", "sd15", "sd20", "sd20_base", "sd21", "sd21_base", "sdxl", "sd35_medium", "sd35_large", "local"]
    first, *others = [shipped(name)["concepts"] for name in names]
    assert all(other == first for other in others)


def test_the_table_of_models_says_what_the_configs_say():
    page = Path(__file__).resolve().parents[2] / "docs" / "models.md"
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = {cells[0].strip("`"): cells[1:] for cells in split}
    assert sorted(rows) == NAMES
    for name in set(NAMES) - {"micro", "micro_v", "local", "paella"}:
        hub_id, revision, size, steps, files, params, download, memory, licence = rows[name]
        model = shipped(name)
        assert hub_id == f"`{model['source']}`" and size.removesuffix(", v") == str(_size(model))
        assert revision == (f"`{model['revision'][:8]}`" if model["revision"] else "recorded")
        assert steps == f"{model['num_inference_steps']}, {model['guidance_scale']}"
        assert (files, params) == (model["variant"] or "plain", f"{model['params'] / 1e9:.2f} B")
        known = f"{model['download_gb']} GB" if model["download_gb"] else "not known"
        assert (download, memory) == (known, f"{model['weights_gb']} GB")
        assert licence == f"{model['license']}, {'gated' if model['gated'] else 'open'}"


def _size(model):
    return model["size"] or model["stages"][-1]["size"]


def test_768_pixels_and_the_vae_of_sdxl_are_as_published():
    assert {name: shipped(name)["size"] for name in ("sd20", "sd20_base", "sd21", "sd21_base", "sdxl")} == {
        "sd20": 768, "sd20_base": 512, "sd21": 768, "sd21_base": 512, "sdxl": 1024}  # fmt: skip
    assert shipped("sdxl")["vae_dtype"] == "float32"


def test_placement_mistakes_are_found_before_loading():
    with pytest.raises(IncompatibleError, match=r"model\.dtype=float32"):
        load_model(random_config() | {"dtype": "float16"})
    with pytest.raises(UnknownNameError, match="float32"):
        load_model(random_config() | {"dtype": "float23"})
    with pytest.raises(UnknownNameError, match="pndm"):
        load_model(random_config() | {"scheduler": "pmdn"})


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_named_scheduler_runs(name):
    scheduler = make_scheduler(random_model().pipe.scheduler, name)
    scheduler.set_timesteps(4)
    assert scheduler.config.beta_schedule == "scaled_linear"


def test_half_stored_weights_run_in_float32(folder):
    from safetensors.torch import load_file, save_file

    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(file).items()}, file, {"format": "pt"})
    model = load_model(config(folder))
    assert model.denoiser.dtype == torch.float32 and model.dtype == torch.float32


def test_each_text_is_encoded_once_and_alone():
    model, calls = load_model(random_config()), []
    encode = model.pipe.encode_prompt
    model.pipe.encode_prompt = lambda text, *a, **k: (calls.append(text), encode(text, *a, **k))[1]
    both = model.encode(["a ball", "", "a ball"])
    assert calls == ["a ball", ""]
    assert torch.equal(both[0], both[2]) and torch.equal(both[1], model.embed(""))
    model.encode([f"text {n}" for n in range(CACHED_TEXTS + 5)])
    assert len(model._texts) == CACHED_TEXTS
    assert torch.equal(model.embed("a ball"), both[0])


@pytest.mark.parametrize("text", ["", "x " * 5000, "<b>&amp;</b>", "🙂🙃", "مرحبا بالعالم", "null", "nan"])
def test_odd_prompts_have_an_embedding(text):
    assert random_model().embed(text).shape == (77, 32)
    assert torch.isfinite(random_model().embed(text)).all()
