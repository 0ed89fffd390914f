"""What tests of methods share: artifacts made in memory, pictures, and the state that an undo must give back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.method import Method
from harness.models.loaded import LoadedModel, make_scheduler
from harness.sampling.session import attached
from harness.training.artifacts import StoredArtifact
from tests.sampling.test_denoiser import pixels
from tests.support.fixtures_models import make_items, make_settings, random_model


def stored(tensors: Mapping[str, torch.Tensor], model: LoadedModel | None = None) -> StoredArtifact:
    """Wrap tensors as an artifact of the model."""
    fingerprint = (model or random_model()).fingerprint
    return StoredArtifact("key", dict(tensors), {"base": {"weights": fingerprint}})


def trained(method: Method, model: LoadedModel | None = None) -> StoredArtifact | None:
    """Train a method, with nothing to its left, as the engine would."""
    model = model or random_model()
    made = method.prepare(model, [], lambda *_: None) if method.trains else None
    return stored(made.tensors, model) if made else None


def draw(method: Method, artifact: StoredArtifact | None, count: int = 3, model: LoadedModel | None = None,
         **settings: Any) -> np.ndarray:
    with attached(model or random_model(), [method], [artifact]) as session:
        return pixels(session.generate(make_items(count), make_settings(**settings)))


def all_hooks(model: LoadedModel) -> list[Any]:
    parts = (model.pipe.unet, model.pipe.vae, model.pipe.text_encoder)
    return [hook for part in parts for module in part.modules()
            for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values(),
                         *(["own forward"] if "forward" in module.__dict__ else []))]


@contextmanager
def scheduled(name: str, prediction_type: str | None = None) -> Iterator[LoadedModel]:
    """Give the random-weight model another scheduler for a while."""
    model = random_model()
    own, kind = model.pipe.scheduler, model.prediction_type
    model.pipe.scheduler = make_scheduler(own, name)
    if prediction_type:
        model.pipe.scheduler.register_to_config(prediction_type=prediction_type)
        model.prediction_type = prediction_type
    try:
        yield model
    finally:
        model.pipe.scheduler, model.prediction_type = own, kind


def in_half_precision(model: LoadedModel) -> LoadedModel:
    """Return a copy with the U-Net in bfloat16."""
    half = copy.copy(model)
    half.pipe = copy.copy(model.pipe)
    half.pipe.unet = copy.deepcopy(model.pipe.unet).to(torch.bfloat16)
    return half


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor]) -> Path:
    """Save tensors as safetensors or, for other endings, as torch does."""
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
    else:
        torch.save(dict(tensors), path)
    return path
