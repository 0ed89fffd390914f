"""The safety checker of Stable Diffusion's release: CLIP, 17 concepts and 3 that ask for special care.

Follows diffusers' StableDiffusionSafetyChecker, which blackens what it flags. Here a flagged image is refused: it is
not stored, is counted as refused, and is no safe image in any rate.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import InvalidValueError, MissingResourceError
from harness.evaluators.weights import local_path, sha256_of_all
from harness.method import Artifact, Method, Refusal
from harness.model_files import cached_snapshot, is_folder_source, is_whole_safetensors, weight_files
from harness.settings import check_file, check_number
from harness.sources import Download, HubFiles, names_in

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from harness.models import LoadedModel

SPECIAL_CARE = 0.01  # diffusers: how much stricter every later concept is, once a special one is found


def concept_scores(cos: np.ndarray, thresholds: np.ndarray, adjustment: float) -> np.ndarray:
    """Return cosine - threshold + adjustment for each concept of one image, rounded to 3 digits as diffusers does."""
    return (cos - thresholds + adjustment).round(3)


def flagged_concepts(special_cos: np.ndarray, special_thresholds: np.ndarray, cos: np.ndarray, thresholds: np.ndarray,
                     adjustment: float = 0.0) -> list[int]:
    """Return the concepts (K,) that one image is flagged for; a special one found sharpens all that come after it."""
    care = 0.0
    for index in range(len(special_cos)):
        if concept_scores(special_cos, special_thresholds, adjustment + care)[index] > 0:
            care = SPECIAL_CARE
    scores = concept_scores(cos, thresholds, adjustment + care)
    return [index for index, score in enumerate(scores) if score > 0]


@dataclass(frozen=True)
class SafetyChecker(Method):
    """Refuse finished images that the checker flags. `adjustment` is added to every score: above 0 it is stricter.

    `source` is a hub id with a `revision`, or a folder with config.json and model.safetensors; `subfolder` lies in it.
    """

    source: str
    revision: str | None = None
    subfolder: str | None = None
    adjustment: float = 0.0
    name: str = "safety_checker"

    kind: ClassVar[str] = "safety_checker"

    def __post_init__(self) -> None:
        if not isinstance(self.source, str) or not self.source:
            raise InvalidValueError(f"method.source={self.source!r}: a hub id or a folder is needed.")
        check_file("method.subfolder", self.subfolder)
        check_file("method.revision", self.revision)
        value = check_number("method.adjustment", self.adjustment, -2, 2)
        object.__setattr__(self, "adjustment", value)

    def params(self) -> dict[str, Any]:
        """Return what names the weights (their hash, or hub id and revision) and the adjustment."""
        if not is_folder_source(self.source):
            return super().params()
        folder = self.folder()
        digest = sha256_of_all(weight_files(folder, None)) if folder else None
        return {"weights": digest or "absent", "adjustment": self.adjustment}

    def folder(self) -> Path | None:
        """Return the folder of the weights; None for a hub model that is not in the local cache."""
        if is_folder_source(self.source):
            root: Path | None = local_path(self.source)
        else:
            root = cached_snapshot(self.source, self.revision or "main")
        return root / (self.subfolder or "") if root else None

    def downloads(self) -> Sequence[Download]:
        if is_folder_source(self.source):
            return ()
        small, weights = (names_in(self.subfolder or "", (name,)) for name in ("*.json", "model.safetensors"))
        return (HubFiles(self.source, self.revision, small, weights),)

    def missing(self) -> str | None:
        folder = self.folder()
        if folder is None:
            revision = f" --revision {self.revision}" if self.revision else ""
            return (f"weights of the safety checker ({self.source}) are not on this machine. Get them: "
                    f"hf download {self.source}{revision} --include '*.json' '*.safetensors' (1.2 GB), or set "
                    "method.source to a folder that has them.")
        weights = weight_files(folder, None)
        if (folder / "config.json").is_file() and weights and all(map(is_whole_safetensors, weights)):
            return None
        return (f"weights of the safety checker are not whole: {folder} needs config.json and model.safetensors. "
                "Set method.source to a folder that has them.")

    @contextmanager
    def attach(self, model: LoadedModel, artifact: Artifact | None) -> Iterator[None]:
        problem, folder = self.missing(), self.folder()
        if problem or folder is None:
            raise MissingResourceError(problem or f"there is no safety checker at {self.source}.")
        self.__dict__["_checker"] = load_checker(folder, str(model.device))
        try:
            yield
        finally:
            del self.__dict__["_checker"]

    def post(self, images: Sequence[np.ndarray]) -> Sequence[tuple[np.ndarray, tuple[str, ...]] | Refusal]:
        flags = self.__dict__["_checker"].flags(images, self.adjustment) if images else []
        return [Refusal(f"{self.name}: concept {', '.join(map(str, found))}") if found else (image, ())
                for image, found in zip(images, flags, strict=True)]


class Checker:
    """diffusers' checker in memory, with the preprocessing that belongs to it."""

    def __init__(self, network: Any, processor: Any) -> None:
        self.network, self.processor = network, processor

    def flags(self, images: Sequence[np.ndarray], adjustment: float) -> list[list[int]]:
        """Return what each image (H, W, 3) uint8 is flagged for. Raises ValueError where a score is not finite."""
        import torch

        with torch.no_grad():
            vectors = self.network.visual_projection(self.network.vision_model(self.pixels(images))[1])
        return self.flags_of(vectors, adjustment)

    def flags_of(self, vectors: Tensor, adjustment: float) -> list[list[int]]:
        """Return what each image embedding (B, D) is flagged for."""
        import numpy as np
        from diffusers.pipelines.stable_diffusion.safety_checker import cosine_distance

        net = self.network
        special = cosine_distance(vectors, net.special_care_embeds).detach().cpu().float().numpy()
        concepts = cosine_distance(vectors, net.concept_embeds).detach().cpu().float().numpy()
        if not (np.isfinite(special).all() and np.isfinite(concepts).all()):
            raise ValueError("the safety checker's scores are not finite")
        limits = [w.detach().cpu().numpy() for w in (net.special_care_embeds_weights, net.concept_embeds_weights)]
        return [flagged_concepts(one, limits[0], other, limits[1], adjustment)
                for one, other in zip(special, concepts, strict=True)]

    def pixels(self, images: Sequence[np.ndarray]) -> Tensor:
        """Return what the network reads: (B, 3, S, S) float32."""
        from PIL import Image

        pictures = [Image.fromarray(image) for image in images]
        pixels: Tensor = self.processor(images=pictures, return_tensors="pt")["pixel_values"]
        return pixels.to(self.network.device)


@lru_cache(maxsize=1)
def load_checker(folder: Path, device: str) -> Checker:
    """Load a checker in float32 from safetensors, once per process."""
    import torch
    from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
    from transformers import CLIPImageProcessorPil
    from transformers.utils import logging

    logging.disable_progress_bar()
    network = StableDiffusionSafetyChecker.from_pretrained(folder, local_files_only=True, use_safetensors=True,
                                                           dtype=torch.float32).eval().to(device)  # fmt: skip
    for place in (folder, folder.parent / "feature_extractor"):
        if (place / "preprocessor_config.json").is_file():
            return Checker(network, CLIPImageProcessorPil.from_pretrained(place, local_files_only=True))
    side = network.config.vision_config.image_size
    size = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    return Checker(network, CLIPImageProcessorPil(**size))
