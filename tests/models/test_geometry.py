"""Every method on random-weight models of the published sizes: shapes fit, hooks act and go, and what memory it takes.

`make geometry` runs this; it needs 24 GB and hours on two cores. The results' table is in docs/models.md.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from harness.errors import IncompatibleError
from harness.lib.targets import build
from harness.method import Method
from harness.models.loaded import LoadedModel
from harness.records import Status
from harness.sampling.session import attached
from methods.spm import adapted_layers
from tests.full_size import MODELS, Measured, full_size_model, peak_gb, record, reset_peak
from tests.support.fixtures_models import make_items, make_settings
from tests.support.methods_common import trained, write_checkpoint
from tests.support.methods_registry import NUMBERS_ONLY, PRESETS, configs, tiny

pytestmark = pytest.mark.geometry

STEPS = 2
POINT, FEATURES = "unet.up_blocks.1.attentions.1", 64  # the release's hook point, fewer features
# Settings without which a preset refuses a family, as docs/methods.md says.
PER_FAMILY: dict[str, dict[str, dict[str, Any]]] = {
    "sdxl": {"safree": {"svf": False}, "safree_only": {"svf": False}},
}
# Presets that a family refuses, so that a wrong refusal is not taken for one: made for a checkpoint of SD 1 or 2, and
# acting on CLIP's tokens, a U-Net's bottleneck or its cross-attention to them.
OF_SD = frozenset({"advunlearn", "concept_steerers", "hfi", "hfi_proxy", "mace", "saeuron", "salun", "spm"})
OF_UNET_AND_CLIP = frozenset({
    "concept_ablation", "esd_u", "esd_x", "interpret_fair", "interpret_responsible", "interpret_safe",
    "prompt_filter_embedding", "rece", "safedir", "safedir_anchor", "safedir_fair", "safedir_full", "safree",
    "safree_only", "sdd", "uce", "uce_debias",
})  # fmt: skip
REFUSED = {"sdxl": OF_SD, "if": OF_SD | OF_UNET_AND_CLIP, "sd3": OF_SD | OF_UNET_AND_CLIP}
# Beside the model. Trained parameters take 16 bytes each (float32, gradient, two moments), 20 with a moving average,
# and 4 more when their change is written down.
NEEDS_GB = {("sd14", "esd_u"): 17, ("sd20", "esd_u"): 17, ("sdxl", "esd_u"): 41, ("sdxl", "concept_ablation"): 19,
            ("sdxl", "sdd"): 14, ("sdxl", "esd_x"): 12}  # fmt: skip


def noise(*shape: int, scale: float = 0.02) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(0))


def like_own(part: torch.nn.Module, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return a part's state in half precision, moved a little: a published checkpoint of its size."""
    return {prefix + name: (value * 1.01).half() if value.is_floating_point() else value
            for name, value in part.state_dict().items()}


def full_size_files(kind: str, model: LoadedModel, folder: Path) -> Mapping[str, Any]:
    """Write what a method of this kind reads, in the model's own shapes, and return the settings that name it."""
    if kind == "spm":
        tensors = {}
        for name, layer in adapted_layers(model.denoiser).items():
            out, into, *kernel = layer.weight.shape
            tensors[f"{name}.lora_down.weight"] = noise(1, into, *kernel)
            tensors[f"{name}.lora_up.weight"] = noise(out, 1, *[1 for _ in kernel])
            tensors[f"{name}.alpha"] = torch.tensor(1.0)
        save_file(tensors, folder / "spm.safetensors", {"prompts": "a bomb", "rank": "1", "alpha": "1.0"})
        return {"checkpoint": str(folder / "spm.safetensors")}
    if kind in ("mace", "salun", "published_unet"):
        file = folder / ("diffusion_pytorch_model.safetensors" if kind == "mace" else "diffusers-nsfw.pt")
        return {"checkpoint": str(write_checkpoint(file, like_own(model.denoiser)))}
    if kind == "advunlearn":
        return {"checkpoint": str(write_checkpoint(folder / "model.safetensors", like_own(model.pipe.text_encoder)))}
    if kind == "concept_steerers":
        return steerer(folder, model.pipe.text_encoder.config.hidden_size)
    if kind == "saeuron":
        return sparse_autoencoder(folder, 1280)
    return {}


def steerer(folder: Path, width: int) -> Mapping[str, Any]:
    (folder / "config.json").write_text(json.dumps({"n_dirs_local": FEATURES, "d_model": width, "k": 4, "auxk": 4,
                                                    "dead_steps_threshold": 10, "auxk_coef": 0.03}))
    state = {"encoder.weight": noise(FEATURES, width), "decoder.weight": noise(width, FEATURES),
             "pre_bias": noise(width), "latent_bias": noise(FEATURES),
             "stats_last_nonzero": torch.zeros(FEATURES, dtype=torch.long)}
    torch.save({"state_dict": state}, folder / "state_dict.pth")
    return {"checkpoint": str(folder)}


def sparse_autoencoder(folder: Path, width: int) -> Mapping[str, Any]:
    (folder / POINT).mkdir()
    (folder / POINT / "cfg.json").write_text(json.dumps({
        "expansion_factor": 2, "num_latents": FEATURES, "k": 6, "batch_topk": True, "sample_topk": False,
        "input_unit_norm": False, "multi_topk": False, "d_in": width}))
    save_file({"encoder.weight": noise(FEATURES, width), "encoder.bias": noise(FEATURES),
               "W_dec": noise(FEATURES, width), "b_dec": noise(width)}, folder / POINT / "sae.safetensors")
    save_file({name: torch.rand(4, STEPS, FEATURES, generator=torch.Generator().manual_seed(index))
               for index, name in enumerate(("bomb", "tree"))}, folder / "activations.safetensors")
    return {"checkpoint": str(folder), "activations": str(folder / "activations.safetensors"), "hookpoint": POINT}


def made(preset: str, name: str, folder: Path) -> Method:
    """Build a preset for a model, or skip where the family is refused, with the reason."""
    model = full_size_model(name)
    own = PER_FAMILY.get(model.family, {}).get(preset, {})
    check_refusal(preset, model, tiny(preset, **own), MODELS[name].guidance_scale)
    files = full_size_files(str(build(configs()[preset]).kind), model, folder)
    return tiny(preset, **files, **own)


def check_refusal(preset: str, model: LoadedModel, method: Method, guidance_scale: float) -> None:
    """Skip what REFUSED says is refused; fail where a method is refused, or accepted, against it."""
    refused = preset in REFUSED.get(model.family, ())
    try:
        method.check(model.config, guidance_scale)
    except IncompatibleError as refusal:
        assert refused, refusal
        pytest.skip(f"refused: {refusal}")
    assert not refused, f"{preset} is no longer refused on {model.family}"


def drawn(model: LoadedModel, method: Method, artifact: Any, size: int, guidance_scale: float) -> np.ndarray:
    with attached(model, [method], [artifact]) as session:
        (result,) = session.generate(make_items(1, guidance_scale), make_settings(STEPS, size, 1))
    if result.status is Status.REFUSED:
        return np.zeros((size, size, 3), np.uint8)
    assert result.status is Status.OK and result.image is not None
    return result.image


def bit_sums(model: LoadedModel) -> dict[str, int]:
    """Return the sum of the bits of every weight, read as integers: it changes where a byte does."""
    kinds = {2: torch.int16, 4: torch.int32}
    return {f"{part}.{name}": int(value.detach().view(kinds[value.element_size()]).sum(dtype=torch.int64))
            for part, module in model.pipe.components.items() if isinstance(module, torch.nn.Module)
            for name, value in module.named_parameters()}


def hooks(model: LoadedModel) -> int:
    """Count the hooks on every part of the pipeline, a wrapped forward among them."""
    modules = [module for part in model.pipe.components.values() if isinstance(part, torch.nn.Module)
               for module in part.modules()]
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) + ("forward" in module.__dict__)
               for module in modules)


@pytest.fixture(scope="module", params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    """Name a model; all of its tests come one after the other, so that it is built once."""
    return str(request.param)


def test_the_published_size_is_built(name):
    model, size = full_size_model(name), MODELS[name]
    assert sum(p.numel() for p in model.denoiser.parameters()) == size.parameters
    assert next(model.denoiser.parameters()).dtype == getattr(torch, size.dtype)


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset not in NUMBERS_ONLY])
def test_every_method_draws_on_it_and_leaves_no_trace(name, preset, tmp_path):
    needed = NEEDS_GB.get((name, preset), 0)
    if needed > available_gb():
        pytest.skip(f"needs about {needed} GB of memory beside the model")
    size, model, method = MODELS[name], full_size_model(name), made(preset, name, tmp_path)
    model.embed("")  # transformers puts hooks of its own on a text encoder when it is first asked for hidden states
    before, hooked = bit_sums(model), hooks(model)
    reset_peak()
    began = time.monotonic()
    artifact = trained(method, model)
    image = drawn(model, method, artifact, size.image, size.guidance_scale)
    measured = Measured(name, preset, round(time.monotonic() - began, 1), round(peak_gb(), 2))
    assert image.shape == (size.image, size.image, 3)
    assert bit_sums(model) == before and hooks(model) == hooked
    record(measured)


def available_gb() -> float:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024 / 1e9
