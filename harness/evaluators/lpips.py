"""LPIPS by its authors' package, against the baseline's image of the same prompt and noise. Never downloads."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge

from harness.errors import MissingResourceError
from harness.evaluator import Evaluator, Kind
from harness.lib.wanted import Download, UrlFile
from harness.lib.weights import sha256_of
from harness.records import ScoreItem, ScoreRow
from harness.setting_types import OneOf

TRUNKS = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
URL = "https://download.pytorch.org/models/"


@dataclass
class Lpips(Evaluator):
    """LPIPS 0.1 (arXiv 1801.03924). High is unwanted drift on benign prompts, no fault on prompts for what is removed.

    `size`: both images are resized to this square first (64 in ESD's and UCE's scripts), or compared as they are.
    """

    name: str
    net: Annotated[str, OneOf(tuple(TRUNKS))] = "alex"
    size: Annotated[int, Ge(16)] | None = None
    _model: Any = field(default=None, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "value"
    metric = "lpips"
    higher_is_better: ClassVar[bool] = False
    needs_baseline: ClassVar[bool] = True

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

    def note(self, rows: Sequence[ScoreRow]) -> str:
        size = f"both at {self.size} px" if self.size else "as they are"
        return f"LPIPS 0.1 {self.net}, {size}; on prompts for the removed concept, high is expected"

    def score(self, batch: Sequence[ScoreItem]) -> list[ScoreRow]:
        pairs = [(self._tensor(item.image), self._tensor(item.baseline)) for item in batch]
        for item, (image, base) in zip(batch, pairs, strict=True):
            if image.shape != base.shape:
                sizes = f"{image.shape[-1]}x{image.shape[-2]} against {base.shape[-1]}x{base.shape[-2]}"
                raise ValueError(f"{item.key.file_name}: image and baseline differ in size, {sizes}")
        values: dict[int, float] = {}
        for shape in {image.shape for image, _ in pairs}:
            same = [index for index, (image, _) in enumerate(pairs) if image.shape == shape]
            values |= dict(zip(same, self._distances([pairs[index] for index in same]), strict=True))
        return [
            ScoreRow(item.key.prompt_id, item.key.repeat, value=values[index]) for index, item in enumerate(batch)
        ]

    def _distances(self, pairs: Sequence[tuple[Any, Any]]) -> list[float]:
        """Compare pairs of one size in one pass."""
        import torch

        images, base = (torch.cat(side).to(self._device) for side in zip(*pairs, strict=True))
        with torch.inference_mode():
            return [float(value) for value in self._model(images, base).flatten().cpu()]

    def _tensor(self, image: np.ndarray) -> Any:
        import torch
        from PIL import Image

        picture = Image.fromarray(image)
        if self.size is not None:
            picture = picture.resize((self.size, self.size), Image.Resampling.BILINEAR)
        array = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
        return torch.from_numpy(np.ascontiguousarray(array))


def _hub_folder() -> Path:
    """Return torch.hub's folder without importing torch."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(home, "hub").expanduser()


def _package_version() -> str | None:
    try:
        return version("lpips")
    except PackageNotFoundError:
        return None
