"""What a stand-in hub serves in tests, and jobs that ask for it."""

from __future__ import annotations

from typing import Any

from harness.cells.job import Job
from tests.support.fake_hub import COMMIT, FakeHub, FakeRepository
from tests.support.stub_pipeline import stub_files

SD14 = "CompVis/stable-diffusion-v1-4"


def pipeline_files() -> dict[str, bytes]:
    """Return the files of a pipeline as a repository has them: with pickles, other variants and what nobody loads."""
    files = stub_files()
    unneeded = ("unet/diffusion_pytorch_model.bin", "unet/diffusion_pytorch_model.non_ema.safetensors", "big.ckpt",
                "safety_checker/model.safetensors", "vae_1_0/diffusion_pytorch_model.safetensors", "README.md")
    return files | dict.fromkeys(unneeded, b"never fetched")


def repository(hub: FakeHub) -> FakeRepository:
    return hub.repositories[f"models/{SD14}"]


def config(**changes: Any) -> dict[str, Any]:
    own = {"name": "sd14", "family": "sd1", "source": SD14, "revision": COMMIT}
    return own | {"dtype": "float32", "size": 32} | changes


def job(bench: str = "micro_i2p", **model: Any) -> Job:
    return Job({}, config(**model), (), {"name": bench}, (), None)
