"""Folders of weights as others save them, damaged or of another kind: refused before anything loads, in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.__main__ import main
from harness.errors import HarnessError
from harness.evaluators.checker import CheckerSource
from harness.evaluators.clip import ClipSource
from harness.evaluators.model_source import ModelSource
from harness.models import part_layouts
from harness.models.checks import check_known
from harness.models.loading import load_model
from harness.models.part_layouts import Part, misfits
from harness.models.weight_checks import check_weights
from harness.models.weights import missing, weights_fingerprint
from tests.methods.test_methods_safety_checker import checker_folder
from tests.support.fixtures_flow import random_flux_config, random_sd3_config
from tests.support.fixtures_if import if_config
from tests.support.fixtures_models import random_config, random_xl_config
from tests.support.fixtures_wuerstchen import random_wuerstchen_config
from tests.support.weights_common import TEXT, UNET, VAE, config, refusal, rewrite, without


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(random_config()["source"], tmp_path / "pipeline"))


MISSING = {TEXT: "encoder.layers.1.mlp.fc1.weight", UNET: "down_blocks.0.resnets.0.conv2.weight",
           VAE: "decoder.conv_in.weight"}  # fmt: skip


@pytest.mark.parametrize("file", MISSING)
def test_a_part_that_lacks_a_tensor_is_refused_and_never_made_up(folder, file):
    name = next(key for key in load_file(folder / file) if key.endswith(MISSING[file]))
    count = len(load_file(folder / file))
    rewrite(folder / file, without(name))
    assert f"{file} lacks {MISSING[file]} (1 of {count} names)" in refusal(folder)


def test_a_text_encoder_under_other_names_is_refused(folder):
    rewrite(folder / TEXT, lambda tensors: {f"text_encoder.{name}": value for name, value in tensors.items()})
    count = len(load_file(folder / TEXT))
    assert f"{TEXT} lacks" in refusal(folder) and f"({count} of {count} names)" in refusal(folder)


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_names_of_older_and_newer_libraries_serve_alike(folder, prefix):
    def renamed(tensors):
        plain = {name.removeprefix("text_model."): value for name, value in tensors.items()}
        return {prefix + name: value for name, value in plain.items()} | {
            f"{prefix}embeddings.position_ids": torch.arange(77)[None]}

    def deprecated(tensors):
        ends = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
        return {next((name.replace(f".{new}.", f".{old}.") for new, old in ends.items() if f".{new}." in name), name):
                one for name, one in tensors.items()}  # fmt: skip

    rewrite(folder / TEXT, renamed)
    rewrite(folder / VAE, deprecated)
    check_known(config(folder))
    before = load_model(random_config()).embed("a house")
    assert torch.equal(load_model(config(folder)).embed("a house"), before)


def test_a_tensor_of_another_shape_names_both(folder):
    rewrite(folder / UNET, lambda tensors: tensors | {"conv_in.weight": torch.zeros(32, 9, 3, 3)})
    assert "conv_in.weight has shape (32, 9, 3, 3), expected (32, 4, 3, 3)" in refusal(folder)


def test_tensors_that_no_class_asks_for_do_no_harm(folder):
    rewrite(folder / UNET, lambda tensors: tensors | {"ema_decay": torch.zeros(1)})
    check_known(config(folder))


@pytest.mark.parametrize("kind", [torch.float8_e4m3fn, torch.int8])
def test_float8_and_quantised_weights_are_refused_by_name(folder, kind):
    rewrite(folder / UNET, lambda tensors: tensors | {"conv_in.weight": tensors["conv_in.weight"].to(kind)})
    said = refusal(folder)
    assert f"{UNET} holds conv_in.weight as" in said and "float16" in said


def test_a_config_that_says_quantised_is_refused(folder):
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": {"load_in_8bit": True}}))
    assert "unet/config.json says that the part is quantised" in refusal(folder)


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_values_that_are_not_finite_are_found_in_every_type(folder, kind, value):
    rewrite(folder / VAE, lambda tensors: {name: one.to(kind) for name, one in tensors.items()})
    check_known(config(folder))

    def broken(tensors):
        tensors["decoder.conv_out.bias"][-1] = value
        return tensors

    rewrite(folder / VAE, broken)
    assert f"{VAE} is broken: decoder.conv_out.bias has non-finite values" in refusal(folder)


def test_of_large_files_samples_are_read(folder, monkeypatch):
    monkeypatch.setattr("harness.lib.tensor_values.WHOLE", 0)
    monkeypatch.setattr("harness.lib.tensor_values.SAMPLED", 10_000)

    def broken(tensors):
        tensors["conv_in.weight"][0] = float("nan")
        return tensors

    rewrite(folder / UNET, broken)
    assert "conv_in.weight has non-finite values" in refusal(folder)


def test_what_no_sample_met_is_found_at_loading(folder, monkeypatch):
    monkeypatch.setattr("harness.lib.tensor_values.WHOLE", 0)

    def broken(tensors):
        tensors["conv_in.weight"][-1] = float("nan")
        return tensors

    rewrite(folder / UNET, broken)
    monkeypatch.setattr("harness.lib.tensor_values.SAMPLED", 1)
    check_known(config(folder))
    with pytest.raises(HarnessError, match=r"unet: conv_in\.weight has non-finite values"):
        load_model(config(folder))


def test_a_weight_that_a_type_cannot_hold_is_found_at_loading(folder):
    rewrite(folder / UNET, lambda tensors: tensors | {
        "conv_in.weight": torch.full((32, 4, 3, 3), 1e39, dtype=torch.float64)})  # fmt: skip
    with pytest.raises(HarnessError, match=r"unet: conv_in\.weight has non-finite values in torch\.float32"):
        load_model(config(folder))


SHARDS = "unet/diffusion_pytorch_model.safetensors.index.json"


def sharded(folder: Path) -> dict[str, str]:
    """Split the U-Net into two shards; return the index."""
    tensors = load_file(folder / UNET)
    names = sorted(tensors)
    files = [f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    where = {name: files[index % 2] for index, name in enumerate(names)}
    for file in files:
        own = {name: tensors[name] for name in names if where[name] == file}
        save_file(own, folder / "unet" / file, {"format": "pt"})
    (folder / UNET).unlink()
    (folder / SHARDS).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return where


def test_shards_load_and_a_missing_one_is_named(folder):
    where = sharded(folder)
    check_known(config(folder))
    assert torch.equal(load_model(config(folder)).denoiser.conv_in.weight,
                       load_model(random_config()).denoiser.conv_in.weight)
    lost = min(where.values())
    (folder / "unet" / lost).unlink()
    assert f"unet/{lost} is missing" in refusal(folder)


@pytest.mark.parametrize(("index", "said"), [
    ("{}", "lists no shards"), ("[]", "cannot be read"), ("{", "cannot be read"), ("[" * 5000, "cannot be read"),
    ('{"weight_map": {}}', "lists no shards"),
    ('{"weight_map": {"a": "../../vae/x.safetensors"}}', "not a file in its folder"),
    ('{"weight_map": {"a": "/etc/passwd"}}', "not a file in its folder"),
    ('{"weight_map": {"a": 3}}', "not a file in its folder"),
    ('{"weight_map": {"a": "x.bin"}}', "not a file in its folder"),
])  # fmt: skip
def test_an_index_that_is_empty_or_leads_elsewhere_is_one_line(folder, index, said):
    (folder / SHARDS).write_text(index)
    assert said in refusal(folder) and "index.json" in refusal(folder)
    assert said in str(missing(config(folder)))
    with pytest.raises(HarnessError, match=said):
        weights_fingerprint(config(folder))


CONFIGS = {"sdxl": random_xl_config, "sd3": random_sd3_config, "flux": random_flux_config,
           "wuerstchen": random_wuerstchen_config, "if": lambda: if_config(3)}  # fmt: skip


@pytest.mark.parametrize("family", CONFIGS)
def test_parts_of_every_family_are_compared_with_their_classes(family, tmp_path):
    given = CONFIGS[family]()
    check_weights(given)
    copy = Path(shutil.copytree(given["source"], tmp_path / "pipeline"))
    compared = 0
    for file in sorted(copy.rglob("*.safetensors")):
        whole = file.read_bytes()
        rewrite(file, without(min(name for name in load_file(file) if "shared" not in name)))
        with pytest.raises(HarnessError, match=f"{file.parent.name}/{file.name} lacks"):
            check_weights(given | {"source": str(copy)})
        file.write_bytes(whole)
        compared += 1
    assert compared >= 2


def test_further_stages_are_compared_too(tmp_path):
    given = if_config(3)
    copy = Path(shutil.copytree(given["stages"][1]["source"], tmp_path / "pipeline"))
    rewrite(copy / VAE, without("decoder.conv_in.weight"))
    stages = [given["stages"][0], given["stages"][1] | {"source": str(copy)}]
    with pytest.raises(HarnessError, match=r"stage 3.*lacks decoder\.conv_in\.weight"):
        check_weights(given | {"stages": stages})


def test_tied_weights_count_once_by_either_name(tmp_path):
    copy = Path(shutil.copytree(random_sd3_config()["source"], tmp_path / "pipeline"))
    file = copy / "text_encoder_3" / "model.safetensors"
    shared = load_file(file)["shared.weight"]
    rewrite(file, lambda tensors: without("shared.weight")(tensors) | {"encoder.embed_tokens.weight": shared})
    check_weights(random_sd3_config() | {"source": str(copy)})
    rewrite(file, without("encoder.embed_tokens.weight"))
    with pytest.raises(HarnessError, match=r"text_encoder_3/model.safetensors lacks"):
        check_weights(random_sd3_config() | {"source": str(copy)})


def part_of(folder: Path) -> Part:
    shapes = {name: tuple(value.shape) for name, value in load_file(folder / TEXT).items()}
    return Part("transformers", "CLIPTextModel", (folder / "text_encoder" / "config.json").read_text(), shapes)


def test_another_process_finds_the_same_and_what_fits_is_remembered(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(part_layouts, "_SEEN", set())
    good = part_of(folder)
    lost = max(good.shapes)
    bad = Part(good.library, good.kind, good.config, without(lost)(dict(good.shapes)))
    assert part_layouts._elsewhere([good, bad]) == part_layouts._here([good, bad])
    assert [one.fits for one in misfits([good, bad])] == [True, False]
    assert [file.name for file in (tmp_path / "cache").rglob("*") if file.is_file()] == [good.digest]
    monkeypatch.setattr(part_layouts, "_SEEN", set())
    monkeypatch.setattr(part_layouts, "_here", lambda parts: pytest.fail("asked again"))
    assert misfits([good])[0].fits


def test_a_process_that_fails_has_found_nothing_and_is_not_remembered(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(part_layouts, "_SEEN", set())
    monkeypatch.setattr("sys.executable", "/bin/false")
    monkeypatch.setattr(part_layouts, "_here", part_layouts._elsewhere)
    assert misfits([part_of(folder)])[0].fits
    monkeypatch.setattr(part_layouts, "_here", lambda parts: [part_layouts._misfit(part) for part in parts])
    (nobodys,) = misfits([replace(part_of(folder), kind="NobodysModel")])
    assert not nobodys.known and not nobodys.fits
    assert not (tmp_path / "cache").exists()


@pytest.mark.slow
def test_a_plan_of_a_folder_compares_its_classes_and_imports_no_torch(folder, tmp_path):
    rewrite(folder / TEXT, without(max(load_file(folder / TEXT))))
    told = ("import sys; from harness.__main__ import main; code = main(sys.argv[1:]); "
            "print([code, sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules))])")
    words = ["mode=plan", "bench=micro_i2p", "limit=1", "model=local", f"model.path={folder}", "model.dtype=float32",
             "method=none", "tracker=disabled", f"results={tmp_path / 'out'}"]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", told, *words], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[2, []]" and "lacks" in done.stderr


def denied(path):
    raise PermissionError(13, "Permission denied", str(path))


def test_a_file_that_may_not_be_read_is_permission_denied(folder, monkeypatch):
    """As root every file can be read, so the system's answer is put in its place."""
    real_open, real_stat = open, os.stat
    monkeypatch.setattr("builtins.open", lambda file, *rest, **more: denied(file) if str(file).endswith(VAE) else
                        real_open(file, *rest, **more))  # fmt: skip
    assert f"{VAE} cannot be read: permission denied" in refusal(folder)
    monkeypatch.setattr("builtins.open", real_open)
    inside = f"{folder}/vae/"
    monkeypatch.setattr("os.stat", lambda path, *rest, **more: denied(path) if str(path).startswith(inside) else
                        real_stat(path, *rest, **more))  # fmt: skip
    said = str(missing(config(folder)))
    assert "vae/" in said and "permission denied" in said and "truncated" not in said


def test_a_prompt_file_that_may_not_be_read_is_one_line_and_exit_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("harness.run.run", lambda *args: denied(tmp_path / "secret.csv"))
    assert main(["model=micro", "method=none"]) == 2
    assert "secret.csv: permission denied." in capsys.readouterr().err


def clip_like(tmp_path, clip_folder, change) -> str:
    copy = Path(shutil.copytree(clip_folder, tmp_path / "clip"))
    rewrite(copy / "model.safetensors", change)
    return str(copy)


def test_networks_of_evaluators_are_compared_with_their_classes(tmp_path, clip_folder):
    assert ClipSource(clip_folder).missing() is None
    place = clip_like(tmp_path, clip_folder, without("visual_projection.weight"))
    said = str(ClipSource(place).missing())
    assert "lacks visual_projection.weight (1 of" in said and "\n" not in said
    assert "lacks visual_projection.weight" in str(ModelSource(place, None, "network").missing())
    with pytest.raises(HarnessError, match="lacks"):
        ClipSource(place).load("cpu")
    assert ClipSource("pkg://harness.micro/weights/clip").missing() is None


def test_a_safety_checker_that_lacks_a_tensor_is_refused(tmp_path):
    copy = Path(shutil.copytree(checker_folder(), tmp_path / "checker"))
    assert CheckerSource(str(copy)).missing("x") is None
    rewrite(copy / "model.safetensors", without("concept_embeds"))
    assert "lacks concept_embeds" in str(CheckerSource(str(copy)).missing("x"))
