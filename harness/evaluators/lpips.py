"""LPIPS by its authors' package, against the baseline's image of the same prompt and noise. Never downloads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.errors import InvalidValueError, MissingResourceError
from harness.evaluator import Evaluator, Kind
from harness.evaluators.weights import sha256_of
from harness.records import ScoreItem, ScoreRow
from harness.sources import Download, UrlFile

TRUNKS = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
URL = "https://download.pytorch.org/models/"


@dataclass
class Lpips(Evaluator):
    """LPIPS 0.1 (arXiv 1801.03924). High on benign prompts means unwanted drift.

    `size`: both images are resized to this square first (64 in ESD's and UCE's scripts), or compared as they are.
    """

    name: str
    net: str = "alex"
    size: int | None = None
    _model: Any = field(default=None, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"
    metric = "lpips"
    higher_is_better: ClassVar[bool] = False
    needs_baseline: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.net not in TRUNKS:
            raise InvalidValueError(f"{self.name}: net {self.net} is not one of {', '.join(TRUNKS)}.")

    def _trunk(self) -> Path:
        return _hub_folder() / "checkpoints" / TRUNKS[self.net]

    def identity(self) -> Mapping[str, Any]:
        return {
            "net": self.net,
            "size": self.size,
            "lpips": _package_version(),
            "weights_sha256": sha256_of(self._trunk()),
        }

    def missing(self) -> str | None:
        if _package_version() is None:
            return "the package lpips is not installed. Get it: pip install lpips"
        trunk = self._trunk()
        digest = sha256_of(trunk)
        get = f"Get them: curl -L --create-dirs -o {trunk} {URL}{trunk.name}"
        if digest is None:
            return f"LPIPS's {self.net} trunk weights are not at {trunk}. {get}"
        if not digest.startswith(trunk.stem.rpartition("-")[2]):
            return f"{trunk} is damaged: its sha256 is not the one in its name. {get}"
        return None

    def downloads(self) -> Sequence[Download]:
        trunk = self._trunk()
        return (UrlFile(f"{URL}{trunk.name}", trunk, trunk.stem.rpartition("-")[2]),)

    def setup(self, device: str) -> None:
        missing = self.missing()
        if missing:
            raise MissingResourceError(missing)
        import lpips

        self._model = lpips.LPIPS(net=self.net, version="0.1", verbose=False).eval().to(device)
        self._device = device

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        return [
            ScoreRow(item.key.prompt_id, item.key.repeat, value=self._distance(item.image, item.baseline))
            for item in batch
        ]

    def _distance(self, image: np.ndarray, baseline: np.ndarray) -> float:
        import torch

        with torch.inference_mode():
            return float(self._model(self._tensor(image), self._tensor(baseline)).item())

    def _tensor(self, image: np.ndarray) -> Any:
        import torch
        from PIL import Image

        picture = Image.fromarray(image)
        if self.size is not None:
            picture = picture.resize((self.size, self.size), Image.Resampling.BILINEAR)
        array = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)


def _hub_folder() -> Path:
    """Return torch.hub's folder without importing torch."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(home, "hub").expanduser()


def _package_version() -> str | None:
    try:
        return version("lpips")
    except PackageNotFoundError:
        return None
