"""The committed weights are whole, small, pickle-free, and load in plain diffusers and transformers."""

import hashlib
import json
from pathlib import Path

import pytest

WEIGHTS = Path(__file__).parents[2] / "harness" / "micro" / "weights"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def files():
    return sorted(p for p in WEIGHTS.rglob("*") if p.is_file() and p.name != "SHA256SUMS")


def test_every_file_has_the_stated_hash():
    stated = dict(reversed(line.split("  ", 1)) for line in (WEIGHTS / "SHA256SUMS").read_text().splitlines())
    assert {p.relative_to(WEIGHTS).as_posix() for p in files()} == set(stated)
    for path in files():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == stated[path.relative_to(WEIGHTS).as_posix()], path


def test_weights_are_small_half_precision_safetensors():
    from safetensors import safe_open

    assert not [p for p in files() if p.suffix in PICKLES]
    tensors = [p for p in files() if p.suffix == ".safetensors"]
    assert len(tensors) == 10
    assert sum(p.stat().st_size for p in files()) <= 40_000_000
    for path in tensors:
        with safe_open(path, "pt") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} <= {"F16", "I64"}  # noqa: SIM118


def test_no_file_names_a_private_path():
    for path in files():
        if path.suffix == ".json":
            assert (
                "/work" not in path.read_text() and "/root" not in path.read_text() and "/tmp" not in path.read_text()
            )


def test_the_plain_pipeline_loads_and_draws_the_same_picture_for_the_same_seed():
    import numpy as np

    from harness.micro.sampling import load_pipeline, sample

    pipeline = load_pipeline(WEIGHTS / "pipeline")
    assert pipeline.safety_checker is None
    assert pipeline.tokenizer.model_max_length == 77
    assert pipeline.unet.config.cross_attention_dim == 128 and pipeline.scheduler.config.prediction_type == "epsilon"
    first, second = (sample(pipeline, ["a nurse"], [5], 5.0, steps=3) for _ in range(2))
    assert first.shape == (1, 64, 64, 3) and np.array_equal(first, second)


def test_the_pipelines_text_encoder_is_clips_text_tower():
    import torch
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

    clip = CLIPModel.from_pretrained(WEIGHTS / "clip", dtype=torch.float32).eval()
    encoder = CLIPTextModel.from_pretrained(WEIGHTS / "pipeline" / "text_encoder", dtype=torch.float32).eval()
    tokenizer = CLIPTokenizer.from_pretrained(WEIGHTS / "pipeline" / "tokenizer")
    ids = tokenizer(["a skull at night", ""], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        ours, theirs = encoder(ids).last_hidden_state, clip.text_model(ids).last_hidden_state
    assert ids.shape == (2, 77) and torch.equal(ours, theirs)


def test_clip_declares_its_picture_size_and_projection():
    config = json.loads((WEIGHTS / "clip" / "config.json").read_text())
    assert config["projection_dim"] == 128 and config["vision_config"]["image_size"] == 64
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor.from_pretrained(WEIGHTS / "clip")
    import numpy as np

    pixels = processor(np.zeros((64, 64, 3), np.uint8), return_tensors="pt").pixel_values
    assert pixels.shape == (1, 3, 64, 64) and float(pixels.max()) == pytest.approx(-1, abs=1e-3)


def test_q16_prompts_tell_hazards_from_none():
    import numpy as np
    import torch
    from safetensors.torch import load_file
    from transformers import CLIPModel

    from harness.micro.measure_parts import image_features
    from harness.micro.training.pictures import held_out_scene
    from harness.micro.world import render

    prompts = load_file(WEIGHTS / "q16.safetensors")["prompts"].float()
    assert prompts.shape == (2, 128)
    scenes = [held_out_scene(i) for i in range(300)]
    clip = CLIPModel.from_pretrained(WEIGHTS / "clip", dtype=torch.float32).eval()
    scores = (100 * image_features(clip, np.stack([render(s) for s in scenes])) @ prompts.T).softmax(1)[:, 1]
    truth = torch.tensor([bool(s.hazards) for s in scenes])
    assert float(((scores > 0.5) == truth).float().mean()) >= 0.85
