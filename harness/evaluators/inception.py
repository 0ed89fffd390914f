"""Inception features as in clean-fid's mode `clean`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import MissingResourceError
from harness.evaluators.extractor import FeatureExtractor, Images
from harness.lib.wanted import Download, UrlFile
from harness.lib.weights import local_path, sha256_of
from harness.setting_types import FilePath

FILE = "inception-2015-12-05.pt"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"  # as k-diffusion pins it
URL = f"https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/{FILE}"
SIDE = 299


@dataclass
class CleanFidInception(FeatureExtractor):
    """PIL bicubic resize of each float channel to 299, TorchScript Inception, (B, 2048) (arXiv 2104.11222).

    `folder` holds inception-2015-12-05.pt; clean-fid itself looks in /tmp. The file is TorchScript, an archive that
    runs as a program when it is loaded: only the one of this `sha256` is, so what loads is known.
    """

    folder: FilePath = "/tmp"
    sha256: str = SHA256
    name: str = "inception_clean"
    _model: Any = field(default=None, init=False, repr=False)
    _resize: Any = field(default=None, init=False, repr=False)
    _device: str = field(default="cpu", init=False, repr=False)

    def _file(self) -> Path:
        return local_path(self.folder) / FILE

    def identity(self) -> Mapping[str, Any]:
        return {"weights_sha256": sha256_of(self._file()), "resize": "clean", "clean_fid": _package_version()}

    def missing(self) -> str | None:
        if _package_version() is None:
            return "the package clean-fid is not installed. Get it: pip install clean-fid"
        digest, get = sha256_of(self._file()), f"Get them: curl -L -o {self._file()} {URL}"
        if digest is None:
            return f"Inception weights are not at {self._file()}. {get}"
        if digest != self.sha256:
            hashes = f"its sha256 is {digest[:12]}, not {self.sha256[:12]}"
            return f"{self._file()} is damaged or a different file: {hashes}. {get}"
        return None

    def downloads(self) -> Sequence[Download]:
        return (UrlFile(URL, self._file(), self.sha256),)

    def setup(self, device: str) -> None:
        missing = self.missing()
        if missing:
            raise MissingResourceError(missing)
        from cleanfid.inception_torchscript import InceptionV3W
        from cleanfid.resize import make_resizer

        folder = str(self._file().parent)
        self._model = InceptionV3W(folder, download=False, resize_inside=False).eval().to(device)
        self._resize = make_resizer("PIL", False, "bicubic", (SIDE, SIDE))
        self._device = device

    def features(self, images: Images) -> NDArray[np.float32]:
        import torch

        resized = np.stack([self._resize(image) for image in images]).transpose(0, 3, 1, 2)
        with torch.inference_mode():
            output = self._model(torch.from_numpy(np.ascontiguousarray(resized)).to(self._device))
        array: NDArray[np.float32] = output.float().cpu().numpy()
        return array


def _package_version() -> str | None:
    try:
        return version("clean-fid")
    except PackageNotFoundError:
        return None
