"""What tests of weights share: a pipeline in a folder that may be damaged, and the one line that refuses it."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from harness.errors import HarnessError
from harness.models.checks import check_known
from harness.models.choice import settled
from harness.models.loading import load_model
from tests.support.fixtures_models import random_config

UNET, VAE, TEXT = ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors",
                   "text_encoder/model.safetensors")  # fmt: skip


def config(folder: Path, **changes):
    return random_config() | {"source": str(folder)} | changes


def rewrite(file: Path, change) -> None:
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def without(name: str):
    return lambda tensors: {key: value for key, value in tensors.items() if key != name}


def refusal(folder: Path, **changes) -> str:
    """Return the one line with which a plan ends, and see that loading ends with it, too."""
    with pytest.raises(HarnessError) as planned:
        check_known(settled(config(folder, **changes)))
    with pytest.raises(HarnessError) as loaded:
        load_model(config(folder, **changes))
    said = str(planned.value)
    assert said == str(loaded.value) and "\n" not in said and planned.value.exit_code == 2 and str(folder) in said
    return said
